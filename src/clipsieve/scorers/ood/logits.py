"""Formulas over the logits of N images and K classes, in float64.

Nothing here subtracts from one what is nearly one: the softmax of a row is held as its largest
entry and the sum of the others, so `1 - p` of a confident row, its entropy and its GEN score keep
all their digits, and nothing underflows at the logit scale of 100 that CLIP models have.

Rows of NaN give NaN.  Ties for the largest entry go to the first class.
"""

from dataclasses import dataclass

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
    """The softmax of each row, in two numbers: all are relative to the largest logit.

    Attributes:
      others: (N,) sum over all classes but the likeliest of exp(z_k - z_max); in [0, K - 1].
      weighted: (N,) sum over the same of exp(z_k - z_max) (z_max - z_k).
    """

    others: np.ndarray
    weighted: np.ndarray

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
    return Softmax(powers.sum(axis=1), np.einsum("nk,nk->n", powers, gaps))


def variance(similarities: np.ndarray, largest: np.ndarray, scale: float) -> np.ndarray:
    """Return the (N,) population variance of the K entries of softmax(scale * similarities).

    Args:
      similarities: (N, K).
      largest: (N,) largest of each row.
      scale: factor of the logits; above 0.
    """
    count = similarities.shape[1]
    powers = np.exp((similarities - largest[:, None]) * scale)
    powers *= (count / powers.sum(axis=1))[:, None]
    powers -= 1.0  # K p - 1, with all digits where p is close to 1 / K
    return np.asarray(np.einsum("nk,nk->n", powers, powers) / count**3)


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
        rest = top.rest if kept == count else np.partition(top.rest, count - kept, axis=1)
        logs = rest[:, count - kept :] - top.largest[:, None]
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
        norms = np.sqrt(np.sqrt(np.einsum("nk,nk->n", centred, centred)))
    else:
        norms = np.linalg.norm(centred, ord=p, axis=1)
    return np.divide(largest - means, norms, out=np.zeros_like(norms), where=norms != 0)


def logsumexp_rows(logits: np.ndarray) -> np.ndarray:
    """Return the (N,) logarithm of the sum of exp over each row of (N, K) logits, K >= 1."""
    largest = logits.max(axis=1)
    return np.asarray(np.log(np.exp(logits - largest[:, None]).sum(axis=1)) + largest)


def logistic(values: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)), with all digits at both ends: exp(x) far below 0; NaN stays."""
    powers = np.exp(-np.abs(values))
    return np.asarray(np.where(values < 0, powers, 1.0) / (1.0 + powers))
