"""The most suspicious rows: where the line is drawn, exactly, over a stream of scores."""

import math
from dataclasses import dataclass

import numpy as np

from clipsieve.errors import UsageError

#: A small dataset has this many rows looked at even where the fraction is fewer ...
AT_LEAST_ROWS = 2_000
#: ... but never more than this share of it.
AT_LEAST_SHARE = 0.1
#: Rows whose captions and vectors fit in memory: 400 MB at 512 dimensions.
AT_MOST_ROWS = 200_000


def rows_to_select(scored: int, fraction: float, at_most: int = AT_MOST_ROWS) -> int:
    """Rows to select out of `scored`.

    >>> rows_to_select(3_000_000, 0.01), rows_to_select(100_000, 0.01), rows_to_select(2_000, 0.01)
    (30000, 2000, 200)

    Raises:
      UsageError: if the fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise UsageError(f"fraction must be above 0 and at most 1, got {fraction}")
    least = min(AT_LEAST_ROWS, math.ceil(AT_LEAST_SHARE * scored))
    return min(at_most, max(least, math.ceil(fraction * scored)))


@dataclass(frozen=True, slots=True)
class Threshold:
    """A line through the scores of a dataset.

    Attributes:
      scored: rows with a score.
      values: (M,) float32, ascending: the scores of all rows at or above the line.
    """

    scored: int
    values: np.ndarray

    @property
    def tail(self) -> float:
        """Share of the scored rows that are at or above the line; 0 if there are none."""
        return len(self.values) / self.scored if self.scored else 0.0

    def selects(self, scores: np.ndarray) -> np.ndarray:
        """(N,) bool: which of `scores` are at or above the line; NaN never is."""
        if not len(self.values):
            return np.zeros(len(scores), bool)
        return np.asarray(scores >= self.values[0])

    def tails(self, scores: np.ndarray) -> np.ndarray:
        """(N,) float64 in (0, 1]: the share of the scored rows whose score is at least as high.

        Args:
          scores: of selected rows.
        """
        below = np.searchsorted(self.values, scores, side="left")
        return np.asarray((len(self.values) - below) / self.scored)


class TopFraction:
    """Keeps the highest scores of a stream and draws the line; bounded by `at_most`."""

    def __init__(self, at_most: int = AT_MOST_ROWS) -> None:
        """Nothing seen yet; the line will leave at most `at_most` rows above it."""
        self._at_most = at_most
        self._scored = 0
        self._kept = np.zeros(0, np.float32)

    def add(self, scores: np.ndarray) -> None:
        """Take `scores` (N,) float32 into account; NaN is no score."""
        real = scores[~np.isnan(scores)]
        self._scored += len(real)
        kept = np.concatenate([self._kept, real])
        # One more than may be selected, so that ties across the limit are seen.
        surplus = len(kept) - (self._at_most + 1)
        self._kept = np.partition(kept, surplus)[surplus:] if surplus > 0 else kept

    def threshold(self, fraction: float) -> Threshold:
        """The line above which the top `fraction` lies, see `rows_to_select`.

        Rows that tie at the line are all above it.  If that would be more than `at_most` rows,
        they are all below it: with too many rows of one score there may be none left.
        """
        kept = np.sort(self._kept)
        selected = rows_to_select(self._scored, fraction, self._at_most)
        if not selected:
            return Threshold(self._scored, kept)
        line = kept[-selected]
        above = kept[kept >= line]
        return Threshold(self._scored, above if len(above) <= self._at_most else kept[kept > line])
