"""Partial selection: the few high numbers of each column of a table, the k lowest keys of a query.

Nothing is sorted.  Rows of a table are cut into tiles, and tiles into parts, each of them
distributed evenly over the table so that maxima over them are plain maxima of long runs of memory:

    row = (place in part * parts a tile + part) * tiles + tile

A high number is looked for only in parts, and parts only in tiles, whose maximum is as high.

Numbers are compared as the integers that their bits are, which is several times faster.  Positive
ones have the same order as integers, and any is above all negative ones, whose order is reversed.
So where only positive numbers are looked for, bits are used as they are; else the bits of
negative numbers are inverted first.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

#: Rows of the lowest groups and of all further ones, at most.
GROUPS = (8, 16)

#: Numbers looked at together, at most, whatever the number of high ones.
PORTION = 1 << 20

INTEGERS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}

#: The key of no row: above every other.
NO_KEY = torch.iinfo(torch.int64).max


@dataclass(frozen=True, slots=True)
class TiledTable:
    """A table of numbers and its maxima over tiles and parts, all as integers.

    Attributes:
      dtype: of the numbers.
      tile: rows of a tile, a power of two.
      ordered: whether the bits of negative numbers are inverted.
      levels: (R, B), R a multiple of the tile, and maxima of maxima, each (less, B).
      tiles: (B, R / tile), the last of them, transposed.
    """

    dtype: torch.dtype
    tile: int
    ordered: bool
    levels: tuple[torch.Tensor, ...]
    tiles: torch.Tensor

    @classmethod
    def from_numbers(cls, numbers: torch.Tensor, tile: int, ordered: bool) -> "TiledTable":
        """Compute the maxima.

        Args:
          numbers: (R, B) bfloat16 or float32, contiguous, not NaN; overwritten if `ordered`.
          tile: rows of a tile, a power of two that divides R.
          ordered: invert the bits of negative numbers, so that all numbers can be looked for.
        """
        table = numbers.view(INTEGERS[numbers.dtype])
        levels, remaining = [_ordered(table) if ordered else table], tile
        while remaining > 1 or len(levels) == 1:
            group = min(remaining, GROUPS[len(levels) > 1])
            levels.append(levels[-1].view(group, -1).amax(0).view(-1, table.shape[1]))
            remaining //= group
        return cls(numbers.dtype, tile, ordered, tuple(levels), levels[-1].T.contiguous())

    def kth_highest(self, k: int) -> torch.Tensor:
        """Estimate the k-th highest number of each column from below.

        Returns:
          (B,) float64; -inf where there are fewer than k tiles, or fewer than k positive numbers
          in a table that is not ordered.
        """
        if self.tiles.shape[1] < k:
            return self.tiles.new_full((len(self.tiles),), -torch.inf, dtype=torch.float64)
        lowest = self.tiles.topk(k, dim=1, sorted=False).values.amin(1)
        if self.ordered:
            return _ordered(lowest).view(self.dtype).double()
        return torch.where(lowest > 0, lowest.view(self.dtype).double(), -torch.inf)

    def covering(self, low: torch.Tensor) -> "TiledTable":
        """Return a table in which numbers from (B,) `low` on can be looked for: this or ordered.

        This one cannot be used any more if another is returned.
        """
        if self.ordered or not bool((low <= 0).any()):
            return self
        return self.from_numbers(self.levels[0].view(self.dtype), self.tile, ordered=True)

    def find(
        self, low: torch.Tensor, below: torch.Tensor | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Find the numbers in [low, below).

        Args:
          low: (B,) of the table's dtype, above -inf; above zero if the table is not ordered.
          below: the same, or None for no limit.

        Yields:
          (P,) int64 columns of the table, ascending over all portions, and (P,) int64 rows.
        """
        least = self._integers(low)
        limit = None if below is None else self._integers(below)
        columns, rows = (self.tiles >= least[:, None]).nonzero(as_tuple=True)
        step = max(1, PORTION // self.tile)
        for start in range(0, len(rows), step):
            places = columns[start : start + step], rows[start : start + step]
            for level in range(len(self.levels) - 2, -1, -1):
                groups = len(self.levels[level + 1])
                most = limit if level == 0 else None
                places = _find_in_groups(self.levels[level], groups, *places, least, most)
            yield places

    def _integers(self, numbers: torch.Tensor) -> torch.Tensor:
        """Convert numbers as the table's; zero becomes negative zero, which counts as equal."""
        integers = numbers.view(self.tiles.dtype)
        if not self.ordered:
            return integers
        integers = _ordered(integers.clone())
        return torch.where(integers == 0, -1, integers)


def _find_in_groups(
    level: torch.Tensor,
    groups: int,
    columns: torch.Tensor,
    rows: torch.Tensor,
    low: torch.Tensor,
    below: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find places of `level` in [low, below) within those of its `groups` maxima."""
    height, width = level.shape
    offsets = torch.arange(0, height * width, groups * width, device=rows.device)
    places = (rows * width + columns)[:, None] + offsets
    # On a CPU this is much faster than `take` and than indexing.
    values = level.view(-1).index_select(0, places.view(-1)).view(places.shape)
    high = values >= low.index_select(0, columns)[:, None]
    if below is not None:
        high &= values < below.index_select(0, columns)[:, None]
    which, place = high.nonzero(as_tuple=True)
    return columns.index_select(0, which), rows.index_select(0, which).add_(place.mul_(groups))


def _ordered(integers: torch.Tensor) -> torch.Tensor:
    """Invert bits of negative numbers so that integers have their order, or back, in place."""
    information = torch.iinfo(integers.dtype)
    sign = integers >> (information.bits - 1)
    integers ^= sign.bitwise_and_(information.max)
    return integers


def make_keys(distances: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Make integers whose order is (distance, row).

    Args:
      distances: float32, at least 0, so that their bits order as they do.
      rows: int64 in [0, 2^32), of the same shape: the lower half of the key.
    """
    return (distances.view(torch.int32).long() << 32) | rows


def key_distances(keys: torch.Tensor) -> torch.Tensor:
    """Return the float32 distances of keys, inf for `NO_KEY`."""
    bits = (keys >> 32).int().contiguous()
    return torch.where(keys == NO_KEY, torch.inf, bits.view(torch.float32))


def key_rows(keys: torch.Tensor) -> torch.Tensor:
    """Return the int64 rows of keys, -1 for `NO_KEY`."""
    return torch.where(keys == NO_KEY, -1, keys & 0xFFFFFFFF)


def keep_lowest(best: torch.Tensor, owners: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Keep the k lowest of the keys that each query has and of new ones.

    Args:
      best: (B, k) int64, ascending, all different but for `NO_KEY`.
      owners: (P,) int64 in [0, B), ascending: the queries of the new keys.
      keys: (P,) int64, not in `best`.

    Returns:
      (B, k) int64, ascending.
    """
    if len(keys) == 0:
        return best
    k = best.shape[1]
    counts = torch.bincount(owners, minlength=len(best))
    widest = int(counts.max())
    # How many keys of the same owner precede each.
    starts = counts.cumsum(0) - counts
    place = torch.arange(len(owners), device=owners.device) - starts.index_select(0, owners)
    if widest > 4 * k:
        # Few queries with very many candidates: only their k best are laid out as a table.
        order = keys.argsort()
        order = order[owners[order].argsort(stable=True)]
        keep = place < k
        owners, keys, place = owners[keep], keys[order][keep], place[keep]
        widest = k
    table = best.new_full((len(best), k + widest), NO_KEY)
    table[:, :k] = best
    table[owners, k + place] = keys
    return table.topk(k, dim=1, largest=False, sorted=True).values
