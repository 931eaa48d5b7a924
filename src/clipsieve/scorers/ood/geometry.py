"""How images and classes are compared: by cosine, or as checkpoints of other geometries declare.

Desai et al., MERU, ICML 2023 (Lorentz model of hyperbolic space); Chou and Alam, "Embedding
Geometries of Contrastive Language-Image Pre-Training", 2024 (Euclidean and Lorentz): features are
not normalised there but divided by the square root of their number.
"""

import numpy as np

from clipsieve.scorers.base import unit_rows

COSINE, EUCLIDEAN, LORENTZ = "cosine", "euclidean", "lorentz"
GEOMETRIES = (COSINE, EUCLIDEAN, LORENTZ)


def euclidean_similarities(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Return (N, K) -||x - t||^2 in float64, at most 0.

    Args:
      images: (N, D) features as the model gives them.
      texts: (K, D) likewise.
    """
    x, t = _scaled(images), _scaled(texts)
    products: np.ndarray = x @ t.T
    products *= 2.0
    products -= np.einsum("nd,nd->n", x, x)[:, None]
    products -= np.einsum("kd,kd->k", t, t)
    return np.asarray(np.minimum(products, 0.0))


def lorentz_similarities(images: np.ndarray, texts: np.ndarray, curvature: float) -> np.ndarray:
    """Return (N, K) negative distances on the hyperboloid in float64, at most 0.

    The features are tangent vectors at its apex and are lifted by the exponential map (MERU,
    equations 1 to 6).  With a and b their lengths times the root of the curvature and t the angle
    between them, the distance is arccosh(1 + d), d = 2 sinh((a - b) / 2)^2 + sinh a sinh b
    (1 - cos t), which keeps its digits where points are close.

    Args:
      images: (N, D) features as the model gives them; a row of zeros is the apex.
      texts: (K, D) likewise.
      curvature: minus the curvature of the space, above 0.
    """
    root = np.sqrt(curvature)
    a = root * np.linalg.norm(_scaled(images), axis=1)
    b = root * np.linalg.norm(_scaled(texts), axis=1)
    x, t = unit_rows(images), unit_rows(texts)
    excess: np.ndarray = 1.0 - x @ t.T
    near, of = np.nonzero(excess < 1e-3)
    steps = x[near] - t[of]
    excess[near, of] = np.vecdot(steps, steps) / 2.0
    excess *= np.outer(np.sinh(a), np.sinh(b))
    excess += 2.0 * np.sinh((a[:, None] - b) / 2.0) ** 2
    distances: np.ndarray = np.log1p(excess + np.sqrt(excess * (excess + 2.0)))
    return np.asarray(-distances / root)


def _scaled(features: np.ndarray) -> np.ndarray:
    return np.asarray(features.astype(np.float64) / np.sqrt(features.shape[1]))
