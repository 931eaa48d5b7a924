"""Formulas over the logits of N images and K classes, in float64.

Nothing here subtracts from one what is nearly one: the softmax of a row is held as its largest
entry and the sum of the others, so `1 - p` of a confident row, its entropy and its GEN score keep
all their digits, and nothing underflows at the logit scale of 100 that CLIP models have.

Rows of NaN give NaN.  Ties for the largest entry go to the first class.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

#: Takes the place of a row's largest similarity where only the others count: far below any cosine.
_EXCLUDED = -1e6


@dataclass(frozen=True, slots=True)
class TopTwo:
    """The largest entry of each row, and the others.

    Attributes:
      best: (N,) int64 column of the largest, the first of equals.
      largest: (N,) float64.
      rest: (N, K) float64: the rows with their largest entry replaced by -1e6.
    """

    best: np.ndarray
    largest: np.ndarray
    rest: np.ndarray

    def second(self) -> np.ndarray:
        """Return the (N,) second largest; NaN if there is one class only."""
        if self.rest.shape[1] < 2:
            return np.full(len(self.rest), np.nan)
        return np.asarray(self.rest.max(axis=1))


@dataclass(frozen=True, slots=True)
class Softmax:
    """The softmax of each row, in three numbers: all are relative to the largest logit.

    Attributes:
      others: (N,) sum over all classes but the likeliest of exp(z_k - z_max); in [0, K - 1].
      weighted: (N,) sum over the same of exp(z_k - z_max) (z_max - z_k).
      squares: (N,) sum over the same of exp(z_k - z_max)^2.
    """

    others: np.ndarray
    weighted: np.ndarray
    squares: np.ndarray

    def largest_probability(self) -> np.ndarray:
        """Return (N,) max_k p_k, in [1/K, 1]."""
        return np.asarray(1.0 / (1.0 + self.others))

    def rest_probability(self) -> np.ndarray:
        """Return (N,) 1 - max_k p_k, in [0, 1 - 1/K], exact where p is close to one."""
        return np.asarray(self.others / (1.0 + self.others))

    def logsumexp_above_largest(self) -> np.ndarray:
        """Return (N,) logsumexp(z) - max z, in [0, log K]."""
        return np.asarray(np.log1p(self.others))

    def entropy(self) -> np.ndarray:
        """Return (N,) -sum_k p_k log p_k in nats, in [0, log K]."""
        return np.asarray(np.log1p(self.others) + self.weighted / (1.0 + self.others))

    def variance(self, count: int) -> np.ndarray:
        """Return the (N,) population variance of the `count` entries p_k, in [0, 1/4]."""
        moment = (1.0 + self.squares) / (1.0 + self.others) ** 2
        return np.maximum(moment / count - 1.0 / count**2, 0.0)


def top_two(similarities: np.ndarray) -> TopTwo:
    """Return the largest entry of each row, and the others.

    Args:
      similarities: (N, K) float64, K >= 1; far above -1e6.
    """
    best = similarities.argmax(axis=1)
    rows = np.arange(len(similarities))
    rest = similarities.copy()
    rest[rows, best] = _EXCLUDED
    return TopTwo(best, similarities[rows, best], rest)


def softmax(top: TopTwo, scale: float) -> Softmax:
    """Return the softmax of `scale` times the similarities, at temperature 1.

    Args:
      top: of the similarities.
      scale: factor of the logits; above 0.
    """
    gaps = top.largest[:, None] - top.rest
    gaps *= scale
    powers = np.exp(-gaps)
    return Softmax(powers.sum(axis=1), np.vecdot(powers, gaps), np.vecdot(powers, powers))


def generalized_entropy(
    top: TopTwo, softmax: Softmax, scale: float, gamma: float, most: int
) -> np.ndarray:
    """Return (N,) sum over the `most` likeliest classes of (p (1 - p))^gamma.

    Liu et al., GEN, CVPR 2023, equation 4.  Exact where p is close to one, where the authors' code
    loses up to a quarter of the value in float32.

    Args:
      top: of the similarities.
      softmax: of `scale` times the similarities.
      scale: factor of the logits.
      gamma: exponent, above 0.
      most: classes that count, at least 1; more than K are K.
    """
    logsum = np.log1p(softmax.others)
    with np.errstate(divide="ignore"):  # one class, or others that are 0: p is 1, the term 0
        score = np.exp(gamma * (np.log(softmax.others) - 2 * logsum))
    count = top.rest.shape[1]
    kept = min(most - 1, count - 1)
    if kept > 0:
        logs = _largest_of_rest(top, kept) - top.largest[:, None]
        logs *= scale
        logs -= logsum[:, None]
        logs += np.log1p(-np.exp(logs))
        logs *= gamma
        score += np.exp(logs, out=logs).sum(axis=1)
    return np.asarray(score)


def max_over_norm(similarities: np.ndarray, largest: np.ndarray, p: int) -> np.ndarray:
    """Return (N,) max_k (z_k - mean z) / ||z - mean z||_p; 0 for a row of equal entries.

    Cattelan and Silva, "How to Fix a Broken Confidence Estimator", UAI 2024, section 4.2.  It does
    not depend on a factor of the logits, but with p = 0, which counts the entries that are not 0.

    Args:
      similarities: (N, K).
      largest: (N,) largest of each row.
      p: of the norm, at least 0.
    """
    means = similarities.mean(axis=1)
    centred = similarities - means[:, None]
    if p == 4:
        np.square(centred, out=centred)
        norms = np.sqrt(np.sqrt(np.vecdot(centred, centred)))
    else:
        norms = np.linalg.norm(centred, ord=p, axis=1)
    ratios = np.divide(largest - means, norms, out=np.zeros_like(norms), where=norms != 0)
    return np.asarray(ratios)


def _largest_of_rest(top: TopTwo, count: int) -> np.ndarray:
    """Return (N, count): the largest of each row's entries but the best, in any order.

    Most entries are set aside by a line that 1.6 times as many as needed would pass were they
    normally distributed: 2.5 times as fast as to partition whole rows, which is what happens if a
    row has too few above its line.
    """
    values, others = top.rest, top.rest.shape[1] - 1
    if count < others:
        means = (values.sum(axis=1) - _EXCLUDED) / others
        squares = (np.vecdot(values, values) - _EXCLUDED**2) / others
        spread = np.sqrt(np.maximum(squares - means * means, 0.0))
        quantile = NormalDist().inv_cdf(max(0.05, 1.0 - 1.6 * count / others))
        above = values > (means + quantile * spread)[:, None]
        counts = np.count_nonzero(above, axis=1)
        width = int(counts.max(initial=0))
        if counts.min(initial=others) >= count:
            candidates = np.full((len(values), width), _EXCLUDED)
            candidates[np.arange(width) < counts[:, None]] = values.ravel()[np.flatnonzero(above)]
            values = candidates
    kept: np.ndarray = np.partition(values, values.shape[1] - count, axis=1)[:, -count:]
    return kept


def logsumexp_rows(logits: np.ndarray) -> np.ndarray:
    """Return the (N,) logarithm of the sum of exp over each row of (N, K) logits, K >= 1."""
    largest = logits.max(axis=1)
    return np.asarray(np.log(np.exp(logits - largest[:, None]).sum(axis=1)) + largest)


def logistic(values: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)), with all digits at both ends: exp(x) far below 0; NaN stays."""
    powers = np.exp(-np.abs(values))
    return np.asarray(np.where(values < 0, powers, 1.0) / (1.0 + powers))
