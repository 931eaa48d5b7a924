"""How far out a value is among ordinary rows: counts of a column, and normal scores by them.

Every row of a witness gets a normal score z: its distance from the ordinary middle in standard
deviations, positive on the suspicious side.  Its tail probability is the normal one of z.  Scores
depend on the value and the counts alone, and counts add up, so any split of the rows over shards
gives the same scores.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from clipsieve.audit.witnesses import Ordinary, Witness
from clipsieve.statistics.radix import ordered_bits, values_of_bits

#: Largest normal score of one row: a tail of 2.9e-7; further out no column's shape is known.
MOST_SCORE = 5.0
#: Values beyond this many standard deviations do not take part in the middle.
CLIP = 3.0
#: Upper quartile of the normal distribution.
QUARTILE = NormalDist().inv_cdf(0.75)
#: Bits of a float32 that are counted apart: values within 1/2048 of each other are one.
_BITS = 20


def log_tail(score: float) -> float:
    """Natural logarithm of the normal upper tail of a score; exact to 1e-9 in any tail.

    >>> round(log_tail(0.0), 6), round(log_tail(40.0), 2)
    (-0.693147, -804.61)
    """
    if score < 25:
        return math.log(math.erfc(score / math.sqrt(2)) / 2)
    # Mills' ratio by its asymptotic series, good to 1e-9 from 25 on.
    square = score * score
    series = 1 - 1 / square + 3 / square**2 - 15 / square**3
    return -square / 2 - math.log(score * math.sqrt(2 * math.pi)) + math.log(series)


@dataclass(frozen=True, slots=True)
class ScoreCounts:
    """How many rows have which value of a column; adding two counts the rows of both.

    Attributes:
      bins: (B,) uint32, rising: the highest 20 bits of the values in their order.
      rows: (B,) int64.
    """

    bins: np.ndarray
    rows: np.ndarray

    @classmethod
    def from_values(cls, values: np.ndarray) -> "ScoreCounts":
        """Count (N,) float32 values; NaN is no value."""
        bins, rows = np.unique(_bins(values[~np.isnan(values)]), return_counts=True)
        return cls(bins, rows.astype(np.int64))

    def __add__(self, other: "ScoreCounts") -> "ScoreCounts":
        """Return the counts of both."""
        bins, places = np.unique(np.concatenate([self.bins, other.bins]), return_inverse=True)
        rows = np.zeros(len(bins), np.int64)
        np.add.at(rows, places, np.concatenate([self.rows, other.rows]))
        return ScoreCounts(bins, rows)

    @property
    def total(self) -> int:
        """Rows with a value."""
        return int(self.rows.sum())


NO_COUNTS = ScoreCounts(np.zeros(0, np.uint32), np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True)
class OrdinaryRows:
    """The ordinary rows of one witness.

    Attributes:
      witness: the column.
      counts: of all its values.
      centre: median of the rows in the middle, as a value of the column.
      width: their standard deviation, by the quartile on the suspicious side; 0 if there is none,
        and then tails are shares of all rows.
      known: (B,) float64, the normal score of each bin of the counts.
      ranks: (B,) float64, the normal score of each bin by the share of all rows.
      nats: (B,) float64, the surprise of each bin: -ln of its tail, at most as if the row were the
        only one of its kind.
    """

    witness: Witness
    counts: ScoreCounts
    centre: float
    width: float
    known: np.ndarray
    ranks: np.ndarray
    nats: np.ndarray

    @classmethod
    def from_counts(cls, witness: Witness, counts: ScoreCounts) -> "OrdinaryRows":
        """Find the middle and the score of every value.

        `Ordinary.CENTRE`: median and quartile of the rows within `CLIP` standard deviations on the
        suspicious side, found again until no further row is cut off (sigma clipping).
        """
        values = _values(counts.bins)
        sign = 1.0 if witness.is_high else -1.0
        order = slice(None) if witness.is_high else slice(None, None, -1)
        outward, rows = sign * values[order], counts.rows[order]
        centre, width = _middle(outward, rows)
        ranks = _rank_scores(rows)
        known = ranks
        if witness.ordinary is Ordinary.CENTRE and width > 0:
            known = (outward - centre) / width
        ranks, known = (np.clip(each, -MOST_SCORE, MOST_SCORE)[order] for each in (ranks, known))
        nats = np.array([-log_tail(score) for score in known.tolist()], np.float64)
        return cls(
            witness,
            counts,
            sign * centre,
            width,
            known,
            ranks,
            np.minimum(nats, math.log(counts.total + 1)),
        )

    def scores(self, values: np.ndarray) -> np.ndarray:
        """(N,) float64 normal scores of (N,) float32 values that were counted; NaN of NaN."""
        return self._looked_up(self.known, values)

    def rank_scores(self, values: np.ndarray) -> np.ndarray:
        """As `scores`, by the share of all rows."""
        return self._looked_up(self.ranks, values)

    def surprises(self, values: np.ndarray) -> np.ndarray:
        """(N,) float64 nats of surprise of (N,) float32 values that were counted; NaN of NaN."""
        return self._looked_up(self.nats, values)

    def _looked_up(self, known: np.ndarray, values: np.ndarray) -> np.ndarray:
        found = np.full(len(values), np.nan)
        present = ~np.isnan(values)
        found[present] = known[np.searchsorted(self.counts.bins, _bins(values[present]))]
        return found

    def is_in(self, chosen: np.ndarray, values: np.ndarray) -> np.ndarray:
        """(N,) bool: which of (N,) float32 values lie in the bins that `chosen` (B,) bool marks."""
        inside = np.zeros(len(values), bool)
        present = ~np.isnan(values)
        inside[present] = chosen[np.searchsorted(self.counts.bins, _bins(values[present]))]
        return inside

    def value(self, score: float) -> float:
        """A value of the column about as far out as a normal score."""
        if not len(self.counts.bins):
            return math.nan
        rising = self.known if self.witness.is_high else self.known[::-1]
        place = min(int(np.searchsorted(rising, score)), len(rising) - 1)
        values = _values(self.counts.bins)
        return float(values[place] if self.witness.is_high else values[::-1][place])


def _middle(outward: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
    """Median and standard deviation of the rows that are not cut off; `outward` rises."""
    if not len(rows):
        return math.nan, 0.0
    below = np.cumsum(rows)
    end = len(rows)
    while True:
        count = int(below[end - 1])
        median, quartile = (
            float(outward[np.searchsorted(below, share * count)]) for share in (0.5, 0.75)
        )
        width = (quartile - median) / QUARTILE
        kept = int(np.searchsorted(outward[:end], median + CLIP * width, side="right"))
        if kept == end or width <= 0:
            return median, max(width, 0.0)
        end = kept


def _rank_scores(rows: np.ndarray) -> np.ndarray:
    """Normal score of each bin, outermost last, by the share of rows beyond its middle row."""
    total = int(rows.sum())
    normal = NormalDist()
    beyond = (total - np.cumsum(rows) + rows / 2) / max(total, 1)
    return np.array([-normal.inv_cdf(share) for share in beyond.tolist()], np.float64)


def _bins(values: np.ndarray) -> np.ndarray:
    return ordered_bits(values.astype(np.float32, copy=False)) >> np.uint32(32 - _BITS)


def _values(bins: np.ndarray) -> np.ndarray:
    """(B,) float64: the middle of each bin."""
    half = np.uint32(1 << (31 - _BITS))
    middle = (bins << np.uint32(32 - _BITS)) | half
    return values_of_bits(middle, np.dtype(np.float32)).astype(np.float64)
