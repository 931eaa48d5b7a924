"""Isolation forest over embeddings, a baseline of Huang et al. (arXiv:2502.01385)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from clipsieve.errors import UsageError
from clipsieve.scorers.base import Arrays, Context, PairBatch, Scorer, Statistic, score_column
from clipsieve.scorers.density_scorer import (
    keep_sample,
    reference_sample,
    sample_reference_name,
)

if TYPE_CHECKING:
    from sklearn.ensemble import IsolationForest

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
    if vectors.ndim != 2 or reference.ndim != 2 or vectors.shape[1] != reference.shape[1]:
        raise UsageError(
            f"vectors of shape {vectors.shape} and reference of shape {reference.shape} must be "
            "(N, D) and (R, D) with one D; embed both with one model"
        )
    return forest_scores(grow_forest(reference, seed), vectors)


def grow_forest(reference: np.ndarray, seed: int) -> "IsolationForest":
    """Grow the trees over a reference; see `isolation_forest`."""
    try:
        from sklearn.ensemble import IsolationForest
    except ImportError as error:
        raise UsageError(
            "the isolation forest needs scikit-learn, which is not installed here; "
            "pip install 'clipsieve[forest]'"
        ) from error
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed must be from 0 to 2**32 - 1, got {seed}")
    usable = reference[np.isfinite(reference).all(axis=1)]
    if not len(usable):
        raise UsageError(
            f"none of the {len(reference)} reference rows is finite; fit on rows that are"
        )
    return IsolationForest(n_estimators=TREES, random_state=seed).fit(usable)


def forest_scores(forest: "IsolationForest", vectors: np.ndarray) -> np.ndarray:
    """Score vectors with a grown forest; see `isolation_forest`."""
    present = np.isfinite(vectors).all(axis=1)
    scores = np.full(len(vectors), np.nan)
    if present.any():
        scores[present] = -forest.score_samples(vectors[present])
    return scores


class IsolationForestScore(Scorer):
    """How easily random cuts set each image embedding apart from a sample of the dataset.

    A row whose image has no embedding has no score; nor has any if the sample is empty.
    """

    name, family = "density.isolation_forest", "density"
    columns = pa.schema(
        [
            score_column(
                "density_isolation_forest",
                "2 to the power of minus the mean depth, normalised, at which cuts isolate a row",
                "higher is more suspicious",
                "(0, 1]",
                "10.1109/ICDM.2008.17, equation 2",
            )
        ]
    )

    def __init__(self, reference: str | int = "auto", seed: int = 0) -> None:
        """Make a scorer against one sample.

        Args:
          reference: a number of rows (those whose uids hash lowest), `auto` or `large`.
          seed: of the sample's hash and of the trees, 0 to 2**32 - 1.

        Raises:
          UsageError: for a value out of range.
        """
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise UsageError(
                f"option seed of scorer {self.name} must be an int from 0 to 2**32 - 1, "
                f"got {seed!r}"
            )
        self._reference, self._seed = sample_reference_name(reference), seed

    def parameters(self) -> Mapping[str, Any]:
        """All options."""
        return {"reference": self._reference, "seed": self._seed, "trees": TREES}

    def statistics(self, known: Arrays, context: Context) -> Mapping[str, Statistic]:
        """Return the sample; the same that `density` draws."""
        name = self._reference
        if f"{name}.images" in known:
            return {}
        return {name: reference_sample(name, self._seed, False, known, context)}

    def learn(self, sums: Mapping[str, Any], known: Arrays, context: Context) -> Arrays:
        """Return the sample."""
        arrays = dict(known)
        keep_sample(self._reference, sums[self._reference], arrays)
        return arrays

    def load(self, known: Arrays, context: Context) -> "IsolationForest | None":
        """Grow the forest."""
        images = known[f"{self._reference}.images"]
        return grow_forest(images, self._seed) if len(images) else None

    def score(self, batch: PairBatch, loaded: Any) -> Mapping[str, np.ndarray]:
        """One column; NaN where the image has no embedding."""
        assert batch.image is not None
        scores = np.full(len(batch), np.nan)
        if loaded is not None:
            valid = batch.image.valid
            scores[valid] = forest_scores(loaded, batch.image.vectors[valid])
        return {"density_isolation_forest": scores}
