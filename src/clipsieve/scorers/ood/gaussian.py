"""Gaussian classes with one covariance: Mahalanobis distance, relative, and the discriminant.

Of unit vectors x: S_w is the scatter within classes, m_k the mean of class k, m that of all N
rows.  Classes without rows are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.errors import UsageError
from clipsieve.scorers.base import Arrays, Context, PairBatch, Statistic
from clipsieve.scorers.ood.covariance import (
    SquaredDistances,
    inverse_factor,
    shrink,
    smallest_eigenvalue,
)
from clipsieve.scorers.ood.family import ood_column
from clipsieve.scorers.ood.learnt import MOMENTS, MomentsScorer, image_of
from clipsieve.statistics.hashed_array import HashedArray
from clipsieve.statistics.moments import ClassMoments


@dataclass(frozen=True, eq=False, slots=True)
class LoadedDistances:
    """Distances with a key to share them under.

    Attributes:
      distances: to the means.
      key: its factor, centre and means, hashed; equal for equal distances.
    """

    distances: SquaredDistances
    key: tuple[HashedArray, HashedArray, HashedArray]

    @classmethod
    def from_arrays(
        cls, factor: np.ndarray, centre: np.ndarray, means: np.ndarray
    ) -> "LoadedDistances":
        """Take the parts of `SquaredDistances`."""
        key = (HashedArray(factor), HashedArray(centre), HashedArray(means))
        return cls(SquaredDistances(factor, centre, means), key)

    def nearest(self, batch: PairBatch) -> np.ndarray:
        """Return (N,) squared distances to the nearest mean; NaN without image."""
        image = image_of(batch)

        def make() -> np.ndarray:
            return np.where(image.valid, self.distances.nearest(image.unit()), np.nan)

        return batch.shared(("squared distances", *self.key), make)


class Mahalanobis(MomentsScorer):
    """Squared Mahalanobis distance to the nearest class mean, under the covariance S_w / N.

    Lee et al. 2018, without the factor 1/2 and without a ridge.  The inverse is a pseudo-inverse.
    With fewer than twice as many degrees of freedom (rows less classes) as components the
    covariance is shrunk (`oas_shrinkage`), and the weight is recorded as `shrinkage`.
    """

    name = "ood.mahalanobis"
    columns = pa.schema(
        [
            ood_column(
                "ood_mahalanobis",
                "squared Mahalanobis distance to the nearest class mean",
                "[0, inf)",
                "arXiv:1807.03888, equation 2",
            )
        ]
    )

    def statistics(self, known: Arrays, context: Context) -> Mapping[str, Statistic]:
        """Return the moments."""
        return {} if "factor" in known else {MOMENTS: self.moments()}

    def learn(self, sums: Mapping[str, Any], known: Arrays, context: Context) -> Arrays:
        """Return the factor of the inverse covariance and the whitened means.

        Raises:
          UsageError: for fewer rows than components, and for rows that are alike in each class.
        """
        moments: ClassMoments = sums[MOMENTS]
        counts = self.recorded_counts(moments)
        covariance, shrinkage = within_covariance(self.name, moments)
        distances = SquaredDistances.from_means(
            inverse_factor(covariance),
            moments.mean(),
            moments.class_means()[moments.present],
        )
        return {
            **counts,
            "factor": distances.factor,
            "centre": distances.centre,
            "means": distances.means,
            "shrinkage": np.array(shrinkage),
        }

    def load(self, known: Arrays, context: Context) -> Any:
        """Return the distances to the classes."""
        return LoadedDistances.from_arrays(known["factor"], known["centre"], known["means"])

    def score(self, batch: PairBatch, loaded: Any) -> Mapping[str, np.ndarray]:
        """One column; NaN without image."""
        return {"ood_mahalanobis": loaded.nearest(batch)}


class RelativeMahalanobis(Mahalanobis):
    """The distance of `Mahalanobis` less that to the mean of all, under the covariance of all / N.

    Ren et al. 2021.  Both covariances are divided by N.
    """

    name = "ood.relative_mahalanobis"
    columns = pa.schema(
        [
            ood_column(
                "ood_relative_mahalanobis",
                "squared Mahalanobis distance to the nearest class mean, less that to the mean "
                "of all",
                "(-inf, inf)",
                "arXiv:2106.09022, section 2",
            )
        ]
    )

    def learn(self, sums: Mapping[str, Any], known: Arrays, context: Context) -> Arrays:
        """Return what `Mahalanobis` learns, and the factor of the inverse covariance of all."""
        moments: ClassMoments = sums[MOMENTS]
        learned = super().learn(sums, known, context)
        total = moments.total_scatter() / moments.rows
        covariance, shrinkage = shrink(total, moments.rows - 1)
        return {
            **learned,
            "background_factor": inverse_factor(covariance),
            "background_shrinkage": np.array(shrinkage),
        }

    def load(self, known: Arrays, context: Context) -> Any:
        """Return the distances to the classes, and to the mean of all."""
        factor = known["background_factor"]
        origin = np.zeros((1, factor.shape[1]))
        return (
            super().load(known, context),
            LoadedDistances.from_arrays(factor, known["centre"], origin),
        )

    def score(self, batch: PairBatch, loaded: Any) -> Mapping[str, np.ndarray]:
        """One column; NaN without image."""
        classes, background = loaded
        return {"ood_relative_mahalanobis": classes.nearest(batch) - background.nearest(batch)}


def within_covariance(scorer: str, moments: ClassMoments) -> tuple[np.ndarray, float]:
    """Return the covariance within classes, S_w / N, shrunk if need be, and the shrinkage.

    Args:
      scorer: its name, for messages.
      moments: of N rows.

    Raises:
      UsageError: if all rows of each class are alike.
    """
    covariance = moments.within_scatter() / moments.rows
    freedom = moments.rows - int(moments.present.sum())
    if freedom < 1 or np.trace(covariance) <= smallest_eigenvalue(len(covariance)):
        raise UsageError(
            f"scorer {scorer}: the {moments.rows} rows are in {int(moments.present.sum())} "
            "classes, each without any spread, so they have no covariance; learn on more rows "
            "with --learn-on, or name fewer classes"
        )
    return shrink(covariance, freedom)
