"""Formulas over the logits of N images and K classes, in float64.

Nothing here subtracts from one what is nearly one: the softmax of a row is held as its largest
entry and the sum of the others, so `1 - p` of a confident row, its entropy and its GEN score keep
all their digits, and nothing underflows at the logit scale of 100 that CLIP models have.

Rows of NaN give NaN.  Ties for the largest entry go to the first class.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True, slots=True)
class TopTwo:
    """The two largest entries of each row, and how far below the largest all of them are.

    Attributes:
      best: (N,) int64 column of the largest, the first of equals.
      largest: (N,) float64.
      second: (N,) float64 the largest of the others; NaN if there is one class only.
      gaps: (N, K) float64, largest minus entry; 0 for the largest and its equals.
    """

    best: np.ndarray
    largest: np.ndarray
    second: np.ndarray
    gaps: np.ndarray


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
    """Return the two largest entries of each row, and the gaps below.

    Args:
      similarities: (N, K) float64, K >= 1.
    """
    best = similarities.argmax(axis=1)
    rows = np.arange(len(similarities))
    largest = similarities[rows, best]
    gaps = largest[:, None] - similarities
    if similarities.shape[1] < 2:
        return TopTwo(best, largest, np.full(len(rows), np.nan), gaps)
    gaps[rows, best] = np.inf
    second = largest - gaps.min(axis=1)
    gaps[rows, best] = similarities[rows, best] - largest  # 0, or NaN
    return TopTwo(best, largest, second, gaps)


def softmax(top: TopTwo, scale: float) -> Softmax:
    """Return the softmax of `scale` times the similarities, at temperature 1.

    Args:
      top: of the similarities.
      scale: factor of the logits; above 0.
    """
    powers = top.gaps * -scale
    np.exp(powers, out=powers)
    powers[np.arange(len(powers)), top.best] = top.largest * 0.0  # keeps NaN
    return Softmax(
        others=powers.sum(axis=1),
        weighted=scale * np.vecdot(powers, top.gaps),
        squares=np.vecdot(powers, powers),
    )


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
        of_largest = np.exp(gamma * (np.log(softmax.others) - 2 * logsum))
    gaps = _smallest(top.gaps, most)
    logs = gaps * -scale
    logs -= logsum[:, None]
    with np.errstate(divide="ignore"):
        logs += np.log1p(-np.exp(logs))
    logs *= gamma
    terms = np.exp(logs, out=logs)
    # The largest and its equals have a gap of 0, and their term is known to all digits.
    below = gaps > 0
    equals = gaps.shape[1] - np.count_nonzero(below, axis=1)
    return np.asarray(np.vecdot(terms, below.astype(np.float64)) + equals * of_largest)


def max_over_norm(gaps: np.ndarray, p: int) -> np.ndarray:
    """Return (N,) max_k (z_k - mean z) / ||z - mean z||_p; 0 for a row of equal entries.

    Cattelan and Silva, "How to Fix a Broken Confidence Estimator", UAI 2024, section 4.2.  It does
    not depend on a factor of the logits, but with p = 0, which counts the entries that are not 0.

    Args:
      gaps: (N, K) how far each entry of a row is below its largest, see `TopTwo`.
      p: of the norm, at least 0.
    """
    above = gaps.mean(axis=1)  # of the largest, above the mean
    centred = gaps - above[:, None]
    if p == 4:
        np.square(centred, out=centred)
        norms = np.sqrt(np.sqrt(np.vecdot(centred, centred)))
    else:
        # By the largest, so that high powers neither overflow nor vanish.
        longest = np.abs(centred).max(axis=1)
        longest[longest == 0] = 1.0
        norms = np.linalg.norm(centred / longest[:, None], ord=p, axis=1)
        if p > 0:
            norms *= longest
    return np.asarray(np.divide(above, norms, out=np.zeros_like(norms), where=norms != 0))


def _smallest(values: np.ndarray, most: int) -> np.ndarray:
    """Return the `most` smallest entries of each row, in any order; all if there are fewer.

    Most entries are set aside by a line that 1.6 times as many as needed would stay below were
    they normally distributed: 2.5 times as fast as to partition whole rows, which is what happens
    if a row has too few below its line.
    """
    size = values.shape[1]
    if most >= size:
        return values
    means = values.mean(axis=1)
    spread = np.sqrt(np.maximum(np.vecdot(values, values) / size - means * means, 0.0))
    quantile = NormalDist().inv_cdf(min(0.95, 1.6 * most / size))
    below = values < (means + quantile * spread)[:, None]
    counts = np.count_nonzero(below, axis=1)
    if counts.min(initial=size) >= most:
        candidates = np.full((len(values), int(counts.max(initial=most))), np.inf)
        filled = np.arange(candidates.shape[1]) < counts[:, None]
        candidates[filled] = values.ravel()[np.flatnonzero(below)]
        values = candidates
    return np.asarray(np.partition(values, most - 1, axis=1)[:, :most])


def logsumexp_rows(logits: np.ndarray) -> np.ndarray:
    """Return the (N,) logarithm of the sum of exp over each row of (N, K) logits, K >= 1."""
    largest = logits.max(axis=1)
    return np.asarray(np.log(np.exp(logits - largest[:, None]).sum(axis=1)) + largest)


def logistic(values: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)), with all digits at both ends: exp(x) far below 0; NaN stays."""
    powers = np.exp(-np.abs(values))
    return np.asarray(np.where(values < 0, powers, 1.0) / (1.0 + powers))
