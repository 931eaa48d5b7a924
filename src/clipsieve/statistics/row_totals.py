"""Sums over rows of one value or several, with the number of rows."""

from dataclasses import dataclass

import numpy as np

from clipsieve.statistics.exact_sum import ExactSum


@dataclass(frozen=True, eq=False)
class RowTotals:
    """State: N rows and the sums of M values of each; see `ExactSum` for what is exact.

    Attributes:
      rows: N.
      sums: (M,).
    """

    rows: int
    sums: ExactSum

    @classmethod
    def from_rows(cls, *values: np.ndarray) -> "RowTotals":
        """Sum M arrays of shape (N,), each of which may sum to 2**15 at most in magnitude."""
        totals = np.array([column.sum() for column in values], np.float64)
        return cls(len(values[0]), ExactSum.from_values(totals))

    def __add__(self, other: "RowTotals") -> "RowTotals":
        """Return the sums over the rows of both."""
        return RowTotals(self.rows + other.rows, self.sums + other.sums)

    def means(self) -> np.ndarray:
        """Return the (M,) float64 means; zeros without rows."""
        return np.asarray(self.sums.value() / max(self.rows, 1))
