"""Finding the few high numbers of each column of a long table without sorting any.

Rows are cut into tiles, and tiles into parts, each of them spread evenly over the table so that
maxima over them are plain maxima of long runs of memory:

    row = (place in part * parts a tile + part) * tiles + tile

A high number is looked for only in parts, and parts only in tiles, whose maximum is as high.

Numbers are compared as the integers that their bits are, which is several times faster.  Positive
ones have the same order as integers, and any is above all negative ones, whose order is reversed.
So where only positive numbers are looked for, bits are used as they are; else the bits of
negative numbers are turned around first.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

#: Rows of the lowest groups and of all further ones, at most.
GROUPS = (8, 16)

#: Numbers looked at together, at most, whatever the number of high ones.
PORTION = 1 << 20

INTEGERS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}


@dataclass(frozen=True, slots=True)
class TiledTable:
    """A table of numbers and its maxima over tiles and parts, all as integers.

    Attributes:
      dtype: of the numbers.
      tile: rows of a tile, a power of two.
      ordered: whether negative numbers are turned around.
      levels: (R, B), R a multiple of the tile, and maxima of maxima, each (less, B).
      tiles: (B, R / tile), the last of them, the other way round.
    """

    dtype: torch.dtype
    tile: int
    ordered: bool
    levels: tuple[torch.Tensor, ...]
    tiles: torch.Tensor

    @classmethod
    def of(cls, numbers: torch.Tensor, tile: int, ordered: bool) -> "TiledTable":
        """Take the maxima.

        Args:
          numbers: (R, B) bfloat16 or float32, contiguous, not NaN; overwritten if `ordered`.
          tile: rows of a tile, a power of two that divides R.
          ordered: turn negative numbers around, so that all of them can be looked for.
        """
        table = numbers.view(INTEGERS[numbers.dtype])
        return cls._of(_turned(table) if ordered else table, tile, ordered, numbers.dtype)

    @classmethod
    def _of(cls, table: torch.Tensor, tile: int, ordered: bool, dtype: torch.dtype) -> "TiledTable":
        columns, left = table.shape[1], tile
        levels = [table]
        while left > 1 or len(levels) == 1:
            group = min(left, GROUPS[len(levels) > 1])
            levels.append(levels[-1].view(group, -1).amax(0).view(-1, columns))
            left //= group
        return cls(dtype, tile, ordered, tuple(levels), levels[-1].T.contiguous())

    def high(self, k: int) -> torch.Tensor:
        """(B,) float64 numbers that k rows of a column reach, close to the k-th highest.

        -inf where that is not known: fewer than k tiles, or fewer than k positive numbers in a
        table that is not ordered.
        """
        if self.tiles.shape[1] < k:
            return self.tiles.new_full((len(self.tiles),), -torch.inf, dtype=torch.float64)
        lowest = self.tiles.topk(k, dim=1, sorted=False).values.amin(1)
        if self.ordered:
            return _turned(lowest).view(self.dtype).double()
        return torch.where(lowest > 0, lowest.view(self.dtype).double(), -torch.inf)

    def down_to(self, low: torch.Tensor) -> "TiledTable":
        """A table in which numbers from (B,) `low` on can be looked for: this one, or ordered.

        This one cannot be used any more if another is returned.
        """
        if self.ordered or not bool((low <= 0).any()):
            return self
        return self._of(_turned(self.levels[0]), self.tile, True, self.dtype)

    def at_least(
        self, low: torch.Tensor, below: torch.Tensor | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Where numbers are in [low, below).

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
            found = columns[start : start + step], rows[start : start + step]
            for level in range(len(self.levels) - 2, 0, -1):
                above = len(self.levels[level + 1])
                found = _inside(self.levels[level], above, *found, least, None)
            yield _inside(self.levels[0], len(self.levels[1]), *found, least, limit)

    def _integers(self, numbers: torch.Tensor) -> torch.Tensor:
        """As the table has them; zero as negative zero, which counts as equal."""
        integers = numbers.view(self.tiles.dtype)
        if not self.ordered:
            return integers
        integers = _turned(integers.clone())
        return torch.where(integers == 0, -1, integers)


def _inside(
    finer: torch.Tensor,
    step: int,
    columns: torch.Tensor,
    rows: torch.Tensor,
    low: torch.Tensor,
    below: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Places in `finer` in [low, below), under the given places of `step` maxima a column."""
    height, width = finer.shape
    offsets = torch.arange(0, height * width, step * width, device=rows.device)
    places = (rows * width + columns)[:, None] + offsets
    # On a CPU this is much faster than `take` and than indexing.
    values = finer.view(-1).index_select(0, places.view(-1)).view(places.shape)
    good = values >= low.index_select(0, columns)[:, None]
    if below is not None:
        good &= values < below.index_select(0, columns)[:, None]
    which, place = good.nonzero(as_tuple=True)
    return columns.index_select(0, which), rows.index_select(0, which).add_(place.mul_(step))


def _turned(integers: torch.Tensor) -> torch.Tensor:
    """Bits of numbers as integers of the same order, or back, in place."""
    information = torch.iinfo(integers.dtype)
    sign = integers >> (information.bits - 1)
    integers ^= sign.bitwise_and_(information.max)
    return integers
