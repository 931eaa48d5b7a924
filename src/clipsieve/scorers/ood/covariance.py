"""Inverse covariances of unit vectors: pseudo-inverse, shrinkage, squared distances."""

from dataclasses import dataclass

import numpy as np

#: Covariances of fewer rows than this many times the components are shrunk: eigenvalues that are
#: all equal then come out 12 times too small to 3 times too large (Marchenko-Pastur, at 2).
SHRUNK_BELOW = 2

_EPSILON = float(np.finfo(np.float64).eps)


def smallest_eigenvalue(dim: int) -> float:
    """Return the eigenvalue of a covariance of unit vectors below which all are rounding.

    Vectors have unit norm, so it is absolute: 4 D times the spacing of float64 at 1.

    Args:
      dim: D.
    """
    return 4 * dim * _EPSILON


def oas_shrinkage(covariance: np.ndarray, freedom: int) -> float:
    """Return the weight of a multiple of the identity, oracle approximating shrinkage.

    Chen et al. 2010, arXiv:0907.4698, equation 23: the weight r of F in (1 - r) S + r F, where
    F = trace(S) / D times the identity.

    Args:
      covariance: (D, D) S, symmetric, not 0.
      freedom: rows less the means that were estimated, at least 1.

    Returns:
      From 0 to 1.
    """
    dim = len(covariance)
    square, trace = float(np.sum(covariance**2)), float(np.trace(covariance))
    spread = square - trace**2 / dim
    weight = (1 - 2 / dim) * square + trace**2
    bound = (freedom + 1 - 2 / dim) * spread
    return 1.0 if weight >= bound else max(0.0, weight / bound)


def shrink(covariance: np.ndarray, freedom: int) -> tuple[np.ndarray, float]:
    """Return a covariance, shrunk if it is of few rows, and the weight that it was shrunk with.

    Args:
      covariance: (D, D), not 0.
      freedom: rows less the means that were estimated, at least 1.
    """
    dim = len(covariance)
    if freedom >= SHRUNK_BELOW * dim:
        return covariance, 0.0
    weight = oas_shrinkage(covariance, freedom)
    identity = np.eye(dim) * (np.trace(covariance) / dim)
    return (1 - weight) * covariance + weight * identity, weight


def inverse_factor(covariance: np.ndarray) -> np.ndarray:
    """Return L (D, R) with L L^T the pseudo-inverse of a covariance of unit vectors.

    Directions without spread are left out, as `scipy.linalg.pinvh` does; see
    `smallest_eigenvalue`.

    Args:
      covariance: (D, D) float64, symmetric.
    """
    values, vectors = np.linalg.eigh(covariance)
    kept = values > smallest_eigenvalue(len(values))
    return np.ascontiguousarray(vectors[:, kept] / np.sqrt(values[kept]))


@dataclass(frozen=True, slots=True)
class SquaredDistances:
    """Squared Mahalanobis distances to K means under one covariance.

    Attributes:
      factor: (D, R) float64 L, see `inverse_factor`.
      centre: (D,) mean of all; points are taken relative to it, so that the expansion below
        cancels no more than it must.
      means: (K, R), L^T (m_k - centre).
    """

    factor: np.ndarray
    centre: np.ndarray
    means: np.ndarray

    @classmethod
    def from_means(
        cls, factor: np.ndarray, centre: np.ndarray, means: np.ndarray
    ) -> "SquaredDistances":
        """Take K means as (K, D)."""
        return cls(factor, centre, (means - centre) @ factor)

    def nearest(self, points: np.ndarray) -> np.ndarray:
        """Return the (N,) float64 smallest squared distance of each point, at least 0.

        ||y||^2 + min_k (||v_k||^2 - 2 y v_k), with y = L^T (x - centre).

        Args:
          points: (N, D) float64.
        """
        whitened = (points - self.centre) @ self.factor
        own = np.einsum("nr,nr->n", whitened, whitened)
        halves = whitened @ -self.means.T
        halves += 0.5 * np.einsum("kr,kr->k", self.means, self.means)
        return np.asarray(np.maximum(own + 2.0 * halves.min(axis=1), 0.0))
