"""The k best rows so far of each query, as integers whose order is (distance, row).

A key is the bits of the float32 distance, which order like the distance as it is not negative,
above the 32-bit local number of the row.
"""

import torch

#: The key of no row: above every other.
NOTHING = torch.iinfo(torch.int64).max

#: Keys hold row numbers below this.
MOST_ROWS = 1 << 31


def pack(distances: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Keys of float32 `distances` (at least 0) and int64 `rows`, of one shape."""
    return (distances.view(torch.int32).long() << 32) | rows


def distances_of(keys: torch.Tensor) -> torch.Tensor:
    """float32 distances, inf for `NOTHING`."""
    bits = (keys >> 32).int().contiguous()
    return torch.where(keys == NOTHING, torch.inf, bits.view(torch.float32))


def rows_of(keys: torch.Tensor) -> torch.Tensor:
    """int64 rows, -1 for `NOTHING`."""
    return torch.where(keys == NOTHING, -1, keys & 0xFFFFFFFF)


def admit(best: torch.Tensor, owners: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """The k lowest keys of each query, out of those it had and new ones.

    Args:
      best: (B, k) int64, ascending, all different but for `NOTHING`.
      owners: (P,) int64 in [0, B), ascending: whose the new keys are.
      keys: (P,) int64, not in `best`.

    Returns:
      (B, k) int64, ascending.
    """
    if len(keys) == 0:
        return best
    k = best.shape[1]
    counts = torch.bincount(owners, minlength=len(best))
    widest = int(counts.max())
    place = _places(owners, counts)
    if widest > 4 * k:
        # Few queries with very many candidates: only their k best are laid out as a table.
        order = keys.argsort()
        order = order[owners[order].argsort(stable=True)]
        keep = place < k
        owners, keys, place = owners[keep], keys[order][keep], place[keep]
        widest = k
    table = best.new_full((len(best), k + widest), NOTHING)
    table[:, :k] = best
    table[owners, k + place] = keys
    return table.topk(k, dim=1, largest=False, sorted=True).values


def _places(owners: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Of each new key, how many of the same owner precede it."""
    starts = counts.cumsum(0) - counts
    return torch.arange(len(owners), device=owners.device) - starts[owners]
