"""Equal rows of a reference: of many, only the first can be found."""

import torch

#: Rows looked at together.
PORTION = 4096


def earlier_copies(rows: torch.Tensor) -> torch.Tensor | None:
    """How many equal rows precede each row.

    A row that k + e equal rows precede is none of the k nearest of a query that leaves out e
    rows: they are as near and have lower numbers.  The web has one picture thousands of times, and
    its distance need not be measured thousands of times.

    Args:
      rows: (R, D) float16 or float32.

    Returns:
      (R,) int64, or None where all rows differ.  Equal means bit by bit, so that a row with a
      negative zero may count as different; too low a count is never wrong.

    >>> earlier_copies(torch.tensor([[1.0], [2.0], [1.0], [1.0]])).tolist()
    [0, 0, 1, 2]
    """
    bits = rows.view(torch.int16 if rows.dtype == torch.float16 else torch.int32)
    seeded = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (rows.shape[1],), generator=seeded).to(rows.device)
    # Sums wrap around, which is as good as any hash.
    parts = [(part.long() * weights).sum(1) for part in torch.split(bits, PORTION)]
    hashes, order = torch.cat(parts).sort(stable=True)
    begins = torch.ones_like(hashes, dtype=torch.bool)
    begins[1:] = hashes[1:] != hashes[:-1]
    if bool(begins.all()):
        return None
    # Each row next to the first with its hash, which may yet be another row.
    firsts = begins.nonzero().squeeze(1)[begins.cumsum(0) - 1]
    equal = begins.clone()
    for place in torch.split((~begins).nonzero().squeeze(1), PORTION):
        equal[place] = (bits[order[place]] == bits[order[firsts[place]]]).all(1)
    before = equal.cumsum(0) - 1
    copies = torch.empty_like(order)
    copies[order] = torch.where(equal, before - before[firsts], 0)
    return copies
