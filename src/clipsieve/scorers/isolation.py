"""Isolation forest over embeddings, a baseline of Huang et al. (arXiv:2502.01385)."""

import numpy as np

from clipsieve.errors import UsageError

TREES = 100


def isolation_forest(vectors: np.ndarray, reference: np.ndarray, seed: int) -> np.ndarray:
    """Score how easily random axis-parallel cuts set each vector apart from a reference.

    Liu, Ting and Zhou, ICDM 2008, equation 2, with 100 trees of at most 256 reference rows each;
    scikit-learn's `score_samples`, negated.  In the authors' code the reference is the batch and,
    with captions, its captions, and lower is more suspicious.

    Args:
      vectors: (N, D) floating; a row with a component that is not finite is missing.
      reference: (R, D) floating; missing rows are left out.
      seed: of the trees, 0 to 2**32 - 1.  Equal seeds give equal values, within one version of
        scikit-learn.

    Returns:
      (N,) float64 in (0, 1], higher more suspicious; 1/2 throughout if the reference rows are all
      equal.  NaN where missing.  N = 0: an empty array.

    Raises:
      UsageError: if scikit-learn is missing, shapes do not fit, the reference has no row that is
        finite, or the seed is out of range.
    """
    try:
        from sklearn.ensemble import IsolationForest
    except ImportError as error:
        raise UsageError(
            "the isolation forest needs scikit-learn, which is not installed here; "
            "pip install 'clipsieve[forest]'"
        ) from error
    if vectors.ndim != 2 or reference.ndim != 2 or vectors.shape[1] != reference.shape[1]:
        raise UsageError(
            f"vectors of shape {vectors.shape} and reference of shape {reference.shape} must be "
            "(N, D) and (R, D) with one D; embed both with one model"
        )
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed must be from 0 to 2**32 - 1, got {seed}")
    usable = reference[np.isfinite(reference).all(axis=1)]
    if not len(usable):
        raise UsageError(
            f"none of the {len(reference)} reference rows is finite; fit on rows that are"
        )
    forest = IsolationForest(n_estimators=TREES, random_state=seed).fit(usable)
    present = np.isfinite(vectors).all(axis=1)
    scores = np.full(len(vectors), np.nan)
    if present.any():
        scores[present] = -forest.score_samples(vectors[present])
    return scores
