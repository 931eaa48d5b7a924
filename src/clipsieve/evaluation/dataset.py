"""Measures of a dataset under a classifier: MaNo without labels, accuracy and ECE with them.

States are sums over rows: `+` is exactly associative and commutative, so any split of the rows
over batches, shards and workers gives the same bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from clipsieve.errors import UsageError
from clipsieve.evaluation.exact import exact_total, exact_value

#: MaNo's exponent p, and the criterion above which it takes the softmax (arXiv:2405.18979).
POWER, THRESHOLD = 4, 5.0
#: Bins of the calibration error (Guo et al., arXiv:1706.04599).
BINS = 15


@dataclass(frozen=True, slots=True)
class LogitTerms:
    """What dataset measures read of N rows of logits.

    Attributes:
      criterion: (N,) float64, cross-entropy of the uniform distribution and the softmax; at least
        log K.
      softmax: (N,) float64, sum over classes of p^power, p the softmax; in [K^(1-power), 1].
      taylor: (N,) float64, the same of the Taylor branch.
      confidence: (N,) float64, max of the softmax; in [1 / K, 1].
      predicted: (N,) int64, class of the largest logit; the first of equal ones.
    """

    criterion: np.ndarray
    softmax: np.ndarray
    taylor: np.ndarray
    confidence: np.ndarray
    predicted: np.ndarray

    def take(self, rows: np.ndarray) -> "LogitTerms":
        """Return the terms of some rows."""
        return LogitTerms(*(values[rows] for values in self._arrays()))

    @classmethod
    def concatenate(cls, parts: Sequence["LogitTerms"]) -> "LogitTerms":
        """Return the terms of the rows of all parts, of which there is one at least."""
        columns = zip(*(part._arrays() for part in parts), strict=True)
        return cls(*map(np.concatenate, columns))

    def _arrays(self) -> tuple[np.ndarray, ...]:
        return self.criterion, self.softmax, self.taylor, self.confidence, self.predicted


def logit_terms(logits: np.ndarray, power: int = POWER) -> LogitTerms:
    """Return the terms of each row.

    The Taylor branch is v = 1 + z + z^2 / 2, less its least component, divided by its L1 norm; a
    row of equal logits, for which that is 0 / 0, counts as uniform, as it does in the softmax.

    Args:
      logits: (N, K) finite float64, K >= 1: cosines times the logit scale.
      power: of the norm, p >= 1.
    """
    if power < 1 or logits.ndim != 2 or not logits.shape[1]:
        raise UsageError(
            f"MaNo needs a power of at least 1 and one class, got power {power} and logits of "
            f"shape {logits.shape}"
        )
    top = logits.max(axis=1)
    log_sum = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    probabilities = np.exp(logits - log_sum[:, None])
    taylor = 1 + logits + logits * logits / 2
    taylor -= taylor.min(axis=1, keepdims=True)
    norms = taylor.sum(axis=1, keepdims=True)
    uniform = 1 / logits.shape[1]
    taylor = np.divide(taylor, norms, out=np.full_like(taylor, uniform), where=norms > 0)
    return LogitTerms(
        criterion=log_sum - logits.mean(axis=1),
        softmax=(probabilities**power).sum(axis=1),
        taylor=(taylor**power).sum(axis=1),
        confidence=np.minimum(np.exp(top - log_sum), 1.0),
        predicted=logits.argmax(axis=1),
    )


@dataclass(frozen=True, slots=True)
class MaNo:
    """The MaNo score of a dataset: higher means a higher accuracy, of which it is no estimate.

    Attributes:
      value: of the branch that was taken, in (0, 1].
      branch: softmax if the criterion is above the threshold; with K >= 149 classes it always is.
      softmax: value of that branch.
      taylor: value of the other.
      criterion: mean cross-entropy of the uniform distribution and the softmax, Phi in MaNo's code.
      divergence: Phi - log K, the mean Kullback-Leibler divergence that the paper calls Phi.
    """

    value: float
    branch: Literal["softmax", "taylor"]
    softmax: float
    taylor: float
    criterion: float
    divergence: float


@dataclass(frozen=True, slots=True)
class MaNoState:
    """Sums over rows for MaNo (arXiv:2405.18979), in the dataset-level form.

    The authors' code averages norms of batches and decides on the branch by one batch; this takes
    all rows, as the paper does.

    Attributes:
      classes: K.
      power: p of the norm.
      rows: N.
      criterion: exact sum of the rows' criteria.
      softmax: exact sum of p^power.
      taylor: exact sum of the other branch.
    """

    classes: int
    power: int = POWER
    rows: int = 0
    criterion: int = 0
    softmax: int = 0
    taylor: int = 0

    @classmethod
    def from_terms(cls, terms: LogitTerms, classes: int, power: int = POWER) -> "MaNoState":
        """Return the state of some rows; their terms are of the same power."""
        return cls(
            classes,
            power,
            len(terms.criterion),
            exact_total(terms.criterion),
            exact_total(terms.softmax),
            exact_total(terms.taylor),
        )

    @classmethod
    def from_logits(cls, logits: np.ndarray, power: int = POWER) -> "MaNoState":
        """Return the state of (N, K) finite logits."""
        return cls.from_terms(logit_terms(logits, power), logits.shape[1], power)

    def __add__(self, other: "MaNoState") -> "MaNoState":
        """Return the state of the rows of both."""
        if (self.classes, self.power) != (other.classes, other.power):
            raise ValueError(
                f"MaNo of {self.classes} classes and power {self.power} cannot be merged with "
                f"{other.classes} and {other.power}"
            )
        return MaNoState(
            self.classes,
            self.power,
            self.rows + other.rows,
            self.criterion + other.criterion,
            self.softmax + other.softmax,
            self.taylor + other.taylor,
        )

    def result(self, threshold: float = THRESHOLD) -> MaNo | None:
        """Return the score; None without a row.

        Args:
          threshold: eta; a criterion equal to it takes the Taylor branch.
        """
        if not self.rows:
            return None
        criterion = exact_value(self.criterion) / self.rows
        cells = self.rows * self.classes
        softmax, taylor = (
            float((exact_value(total) / cells) ** (1 / self.power))
            for total in (self.softmax, self.taylor)
        )
        is_softmax = criterion > threshold
        return MaNo(
            value=softmax if is_softmax else taylor,
            branch="softmax" if is_softmax else "taylor",
            softmax=softmax,
            taylor=taylor,
            criterion=criterion,
            divergence=criterion - float(np.log(self.classes)),
        )


@dataclass(frozen=True, slots=True)
class CalibrationState:
    """Rows with a label by bin of confidence: B bins (lo, hi] of equal width over (0, 1].

    A confidence of 0 is in no bin: it counts in the accuracy and as a row, and adds nothing to the
    error.

    Attributes:
      rows: of each bin.
      correct: of each bin.
      confidence: exact sum of each bin.
      unbinned: rows with confidence 0.
      unbinned_correct: those of them that are correct.
    """

    rows: tuple[int, ...]
    correct: tuple[int, ...]
    confidence: tuple[int, ...]
    unbinned: int = 0
    unbinned_correct: int = 0

    @classmethod
    def empty(cls, bins: int = BINS) -> "CalibrationState":
        """Return the state of no rows."""
        return cls((0,) * bins, (0,) * bins, (0,) * bins)

    @classmethod
    def from_rows(
        cls, confidence: np.ndarray, correct: np.ndarray, bins: int = BINS
    ) -> "CalibrationState":
        """Return the state of N rows.

        Args:
          confidence: (N,) in [0, 1]; edges of bins are rounded to its type.
          correct: (N,) bool.
          bins: at least 1.
        """
        if bins < 1:
            raise UsageError(f"calibration needs one bin at least, got {bins}")
        edges = np.linspace(0, 1, bins + 1).astype(confidence.dtype)
        at = np.searchsorted(edges, confidence, side="left") - 1
        correct = np.asarray(correct, bool)
        members = [at == number for number in range(bins)]
        zero = at < 0
        return cls(
            tuple(int(member.sum()) for member in members),
            tuple(int(correct[member].sum()) for member in members),
            tuple(exact_total(confidence[member]) for member in members),
            int(zero.sum()),
            int(correct[zero].sum()),
        )

    def __add__(self, other: "CalibrationState") -> "CalibrationState":
        """Return the state of the rows of both; they have equally many bins."""
        return CalibrationState(
            _added(self.rows, other.rows),
            _added(self.correct, other.correct),
            _added(self.confidence, other.confidence),
            self.unbinned + other.unbinned,
            self.unbinned_correct + other.unbinned_correct,
        )

    @property
    def labelled(self) -> int:
        """All rows."""
        return sum(self.rows) + self.unbinned

    def accuracy(self) -> float | None:
        """Return the share of correct rows; None without a row."""
        if not self.labelled:
            return None
        return (sum(self.correct) + self.unbinned_correct) / self.labelled

    def error(self) -> float | None:
        """Return the expected calibration error, in [0, 1]: ECE = sum of n_b/N |conf_b - acc_b|.

        None without a row (Guo et al., arXiv:1706.04599, section 2).
        """
        if not self.labelled:
            return None
        gaps = (
            abs(exact_value(confidence) - correct)
            for confidence, correct in zip(self.confidence, self.correct, strict=True)
        )
        return sum(gaps) / self.labelled


def _added(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))
