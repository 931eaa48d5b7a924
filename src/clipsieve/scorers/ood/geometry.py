"""How images and classes are compared: by cosine, or as checkpoints of other geometries declare.

Desai et al., MERU, ICML 2023 (Lorentz model of hyperbolic space); Chou and Alam, "Embedding
Geometries of Contrastive Language-Image Pre-Training", 2024 (Euclidean and Lorentz): features are
not normalised there but divided by the square root of their number.
"""

import numpy as np

COSINE, EUCLIDEAN, LORENTZ = "cosine", "euclidean", "lorentz"
GEOMETRIES = (COSINE, EUCLIDEAN, LORENTZ)


def euclidean_similarities(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Return (N, K) -||x - t||^2 in float64, at most 0.

    Args:
      images: (N, D) features as the model gives them.
      texts: (K, D) likewise.
    """
    x, t = _scaled(images), _scaled(texts)
    products = x @ t.T
    products *= 2.0
    products -= np.einsum("nd,nd->n", x, x)[:, None]
    products -= np.einsum("kd,kd->k", t, t)
    return np.minimum(products, 0.0)


def lorentz_similarities(images: np.ndarray, texts: np.ndarray, curvature: float) -> np.ndarray:
    """Return (N, K) negative distances on the hyperboloid in float64, at most 0.

    The features are the space components; MERU, equations 1 to 4.

    Args:
      images: (N, D) features as the model gives them.
      texts: (K, D) likewise.
      curvature: minus the curvature of the space, above 0.
    """
    x, t = _scaled(images), _scaled(texts)
    x_time = np.sqrt(1.0 / curvature + np.einsum("nd,nd->n", x, x))
    t_time = np.sqrt(1.0 / curvature + np.einsum("kd,kd->k", t, t))
    inner = np.outer(x_time, t_time)
    inner -= x @ t.T
    inner *= curvature
    distances: np.ndarray = np.arccosh(np.maximum(inner, 1.0, out=inner))
    return -distances / np.sqrt(curvature)


def _scaled(features: np.ndarray) -> np.ndarray:
    return features.astype(np.float64) / np.sqrt(features.shape[1])
