"""Gaussian discriminant analysis: a linear classifier from class means and one covariance.

Wang et al., "A Hard-to-Beat Baseline for Training-Free CLIP-Based Adaptation", ICLR 2024,
arXiv:2402.04087.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.errors import UsageError
from clipsieve.scorers.base import Arrays, Context, PairBatch, Statistic, score_column
from clipsieve.scorers.ood.covariance import inverse_factor, smallest_eigenvalue
from clipsieve.scorers.ood.family import check_number, ood_column
from clipsieve.scorers.ood.gaussian import within_covariance
from clipsieve.scorers.ood.learnt import MOMENTS, MomentsScorer, image_of
from clipsieve.statistics.moments import ClassMoments

ESTIMATORS = ("ks", "lda")

_PAPER = "arXiv:2402.04087"


class GaussianDiscriminant(MomentsScorer):
    """Logits x W + b of the discriminant, as out-of-distribution scores and as a classifier.

    With an inverse covariance P, W = P m_k and b_k = log(1 / K) - m_k P m_k / 2, which is minus
    half the squared Mahalanobis distance to the class, up to a term that all classes share.  The
    authors classify with it; they do not propose it as a detector.

    Classes without rows are left out, also of K and of the ensemble.
    """

    name = "ood.gda"
    columns = pa.schema(
        [
            ood_column(
                "ood_gda",
                "minus logsumexp of the discriminant's logits",
                "(-inf, inf)",
                f"{_PAPER}, equation 4",
            ),
            ood_column(
                "ood_gda_max",
                "minus the largest of the discriminant's logits",
                "(-inf, inf)",
                f"{_PAPER}, equation 4",
            ),
            score_column(
                "ood_gda_class",
                "name of the class with the largest of these logits, the first of equals",
                "none",
                "names of classes",
                f"{_PAPER}, equation 4",
                pa.string(),
            ),
        ]
    )

    def __init__(self, alpha: float | None = None, estimator: str = "ks", **classes: Any) -> None:
        """Make a scorer.

        Args:
          alpha: None takes the discriminant's logits alone; a number the paper's ensemble with the
            zero-shot ones, s c + alpha (x W + b).  The authors choose it among 1e-4 to 1e2 by
            accuracy; with `ks` the logits shrink as 1 / N, so it does not carry over to other N.
          estimator: of P: `ks`, as in the paper (Kubokawa and Srivastava 2008), D (S_w +
            trace(S_w) / (N - 1) I)^-1; or `lda`, the pseudo-inverse of S_w / N as in `Mahalanobis`.
          **classes: see `MomentsScorer`.

        Raises:
          UsageError: for a value out of range.
        """
        super().__init__(**classes)
        if alpha is not None:
            check_number(self.name, "alpha", alpha)
        if estimator not in ESTIMATORS:
            raise UsageError(
                f"option estimator of scorer {self.name} must be one of {', '.join(ESTIMATORS)}, "
                f"got {estimator!r}"
            )
        self._alpha = None if alpha is None else float(alpha)
        self._estimator = estimator

    def parameters(self) -> Mapping[str, Any]:
        """All options."""
        return {**super().parameters(), "alpha": self._alpha, "estimator": self._estimator}

    def statistics(self, known: Arrays, context: Context) -> Mapping[str, Statistic]:
        """Return the moments."""
        return {} if "weights" in known else {MOMENTS: self.moments()}

    def learn(self, sums: Mapping[str, Any], known: Arrays, context: Context) -> Arrays:
        """Return W (D, K) and b (K,) of the classes with rows.

        Raises:
          UsageError: for fewer rows than components, and for rows that are alike in each class.
        """
        moments: ClassMoments = sums[MOMENTS]
        learned = self.recorded_counts(moments)
        covariance, shrinkage = within_covariance(self.name, moments)
        if self._estimator == "ks":
            inverse = ks_inverse(moments.within_scatter(), moments.rows)
        else:
            factor = inverse_factor(covariance)
            inverse = factor @ factor.T
            learned["shrinkage"] = np.array(shrinkage)
        weights, bias = discriminant(inverse, moments.class_means()[moments.present])
        return {**learned, "weights": weights, "bias": bias}

    def load(self, known: Arrays, context: Context) -> Any:
        """Return W, b, the classes that they are of, and the logit scale."""
        classes = np.flatnonzero(known["counts"])
        return known["weights"], known["bias"], classes, context.logit_scale

    def score(self, batch: PairBatch, loaded: Any) -> Mapping[str, np.ndarray]:
        """Three columns; NaN and None without image."""
        weights, bias, classes, scale = loaded
        valid = image_of(batch).valid
        logits = image_of(batch).unit() @ weights
        logits += bias
        if self._alpha is not None:
            logits *= self._alpha
            logits += scale * np.where(valid[:, None], self.cosines(batch), 0.0)[:, classes]
        best = logits.argmax(axis=1)
        largest = np.take_along_axis(logits, best[:, None], axis=1)
        logits -= largest
        sums = np.exp(logits, out=logits).sum(axis=1)
        names = np.array(self.prompt_set.names, object)[classes[best]]
        names[~valid] = None
        return {
            "ood_gda": np.where(valid, -(largest[:, 0] + np.log(sums)), np.nan),
            "ood_gda_max": np.where(valid, -largest[:, 0], np.nan),
            "ood_gda_class": names,
        }


def ks_inverse(within_scatter: np.ndarray, rows: int) -> np.ndarray:
    """Return D (S + trace(S) / (N - 1) I)^-1, the inverse covariance of Kubokawa and Srivastava.

    Args:
      within_scatter: (D, D) S, symmetric, not 0.
      rows: N.
    """
    dim = len(within_scatter)
    ridge = np.trace(within_scatter) / max(rows - 1, 1)
    values, vectors = np.linalg.eigh(within_scatter + ridge * np.eye(dim))
    kept = values > smallest_eigenvalue(dim)
    return np.asarray(dim * (vectors[:, kept] / values[kept]) @ vectors[:, kept].T)


def discriminant(inverse: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return W (D, K) and b (K,) of K equally likely Gaussian classes.

    Args:
      inverse: (D, D) inverse covariance, symmetric.
      means: (K, D) of the classes, K >= 1.
    """
    weights = inverse @ means.T
    bias = -math.log(len(means)) - 0.5 * np.einsum("kd,dk->k", means, weights)
    return np.asarray(weights), np.asarray(bias)
