"""How well a score tells out-of-distribution rows from in-distribution ones: AUROC, AUPR, FPR95.

Higher scores are more out of distribution.  Measures depend on the order of values only, so a
score is reduced to its distinct values and how many rows of each class have them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from clipsieve.errors import UsageError

#: The one convention of FPR95 here, as tables name it.
FPR95 = (
    "in-distribution is positive: share of out-of-distribution rows at or below the "
    "floor(0.95 n)-th smallest of n in-distribution scores (vim, GEN)"
)
#: Distinct values beyond which intervals are computed over that many quantile bins.
MOST_VALUES = 16_384
#: Percentiles between which 95 % of bootstrap replicates lie.
LEVELS = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class ScoreCounts:
    """A score of two classes by its V distinct values, rising.

    Attributes:
      inside: (V,) int64, in-distribution rows of each value.
      outside: (V,) int64, out-of-distribution rows.
    """

    inside: np.ndarray
    outside: np.ndarray

    @classmethod
    def from_scores(cls, inside: np.ndarray, outside: np.ndarray) -> "ScoreCounts":
        """Count (N,) in-distribution and (M,) out-of-distribution scores; NaN is left out."""
        inside, outside = inside[~np.isnan(inside)], outside[~np.isnan(outside)]
        values = np.unique(np.concatenate([inside, outside]))
        counted = [
            np.bincount(np.searchsorted(values, scores), minlength=len(values))
            for scores in (inside, outside)
        ]
        return cls(*counted)

    def is_comparable(self) -> bool:
        """Whether both classes have a row."""
        return bool(self.inside.sum() and self.outside.sum())

    def binned(self, bins: int) -> "ScoreCounts":
        """Return counts of at most `bins` ranges of values with about equally many rows."""
        if len(self.inside) <= bins:
            return self
        both = self.inside + self.outside
        middle = both.cumsum() - both / 2
        at = np.minimum((middle * (bins / both.sum())).astype(np.int64), bins - 1)
        kept = [np.bincount(at, counts, bins) for counts in (self.inside, self.outside)]
        used = (kept[0] + kept[1]) > 0
        return ScoreCounts(*(counts[used].astype(np.int64) for counts in kept))


def auroc(counts: ScoreCounts) -> float:
    """Return the chance that an out-of-distribution row has the higher score; ties count one half.

    Exact, from integers (Mann-Whitney); in [0, 1].  Both classes have a row.
    """
    inside, outside = counts.inside, counts.outside
    below = inside.cumsum() - inside
    twice = int((outside * (2 * below + inside)).sum())
    return twice / (2 * int(inside.sum()) * int(outside.sum()))


def average_precision(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the sum over thresholds of precision times the recall that each adds; in (0, 1].

    No interpolation: scikit-learn's `average_precision_score`.  Rows of equal score enter together.

    Args:
      positive: (V,) rows of each value, those that shall come first at the front.
      negative: (V,) likewise.
    """
    hits, all_rows = positive.cumsum(), (positive + negative).cumsum()
    precision = hits / np.maximum(all_rows, 1)
    return float((positive * precision).sum() / hits[-1])


def fpr95(counts: ScoreCounts) -> float:
    """Return the share of out-of-distribution rows that pass where 95 % of the others do.

    The convention is `FPR95`: the threshold is the floor(0.95 n)-th smallest in-distribution score
    (the first for n = 1), and rows with just that score pass, of both classes.
    """
    inside = counts.inside.cumsum()
    place = max(95 * int(inside[-1]) // 100, 1)
    at = int(np.searchsorted(inside, place))
    return int(counts.outside[: at + 1].sum()) / int(counts.outside.sum())


def _measures(counts: ScoreCounts) -> tuple[float, float, float, float]:
    falling = counts.outside[::-1], counts.inside[::-1]
    return (
        auroc(counts),
        average_precision(counts.inside, counts.outside),
        average_precision(*falling),
        fpr95(counts),
    )


#: An estimate and the interval around it; all None if a class has no row.
Estimate = tuple[float | None, float | None, float | None]
_NONE: Estimate = (None, None, None)


@dataclass(frozen=True, slots=True)
class Detection:
    """How well one score tells two classes apart; each measure with its interval.

    Attributes:
      auroc: higher is better; 0.5 is chance.
      aupr_in: average precision with in-distribution as positive.
      aupr_out: average precision with out-of-distribution as positive.
      fpr95: lower is better; see `FPR95`.
      binned: whether intervals were computed over bins of values.
    """

    auroc: Estimate = _NONE
    aupr_in: Estimate = _NONE
    aupr_out: Estimate = _NONE
    fpr95: Estimate = _NONE
    binned: bool = False


def detect(
    counts: ScoreCounts,
    replicates: int = 200,
    seed: int = 0,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Detection:
    """Measure one score, with 95 % percentile intervals of a stratified bootstrap.

    A replicate draws as many rows of each class as there are, with replacement.  With more than
    16,384 distinct values replicates are drawn over as many quantile bins: an approximation of the
    intervals only.

    Args:
      counts: of the score; all measures are None if a class has no row.
      replicates: of the bootstrap; 0 gives no intervals.
      seed: of the draws; equal counts and seeds give equal intervals.
      is_stopped: asked before each replicate; if it says so no other is drawn.
    """
    if replicates < 0:
        raise UsageError(f"bootstrap must be 0 or more replicates, got {replicates}")
    if not counts.is_comparable():
        return Detection()
    values = _measures(counts)
    drawn_from = counts.binned(MOST_VALUES)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(replicates):
        if is_stopped():
            break
        drawn.append(_measures(_resampled(drawn_from, rng)))
    low: Sequence[float | None] = (None,) * len(values)
    high = low
    if drawn:
        low, high = np.quantile(np.array(drawn), LEVELS, axis=0).tolist()
    roc, inside, outside, rate = zip(values, low, high, strict=True)
    return Detection(roc, inside, outside, rate, bool(drawn) and drawn_from is not counts)


def _resampled(counts: ScoreCounts, rng: np.random.Generator) -> ScoreCounts:
    drawn = []
    for rows in (counts.inside, counts.outside):
        total, used = int(rows.sum()), np.flatnonzero(rows)
        weights = np.zeros_like(rows)
        weights[used] = rng.multinomial(total, rows[used] / total)
        drawn.append(weights)
    return ScoreCounts(*drawn)
