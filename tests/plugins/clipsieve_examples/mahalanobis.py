"""Mahalanobis distance of each image to the mean of the dataset, and as a multiple of the average.

Two passes: the moments of all unit vectors, then the average distance.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from clipsieve import Input, Scorer, score_column

RIDGE = 1e-3


@dataclass(frozen=True)
class Moments:
    """State: rows, their mean (D,) and scatter about it (D, D); Chan et al. 1979 merge two."""

    rows: int
    mean: np.ndarray
    scatter: np.ndarray

    def __add__(self, other):
        rows = self.rows + other.rows
        step, share = other.mean - self.mean, other.rows / max(rows, 1)
        between = np.outer(step, step) * self.rows * share
        return Moments(rows, self.mean + step * share, self.scatter + other.scatter + between)


@dataclass(frozen=True)
class UnitMoments:
    """Statistic: the moments of the unit vectors of valid images."""

    needs = frozenset({Input.IMAGE_EMBEDDING})

    def observe(self, batch, context):
        unit = batch.image.unit()[batch.image.valid]
        mean = unit.mean(axis=0) if len(unit) else np.zeros(context.dim)
        return Moments(len(unit), mean, (unit - mean).T @ (unit - mean))


@dataclass(frozen=True)
class DistanceMoments(UnitMoments):
    """Statistic: the moments of all distances to `mean` under `precision`, both as bytes."""

    mean: bytes
    precision: bytes

    def observe(self, batch, context):
        values = distances(batch, np.frombuffer(self.mean), np.frombuffer(self.precision))
        values = values[np.isfinite(values)]
        mean = np.asarray(values.mean() if len(values) else 0.0)
        return Moments(len(values), mean, np.zeros(()))


def distances(batch, mean, precision):
    """(N,) Mahalanobis distances; NaN without image."""
    offset = batch.image.unit() - mean
    square = np.einsum("nd,de,ne->n", offset, precision.reshape(len(mean), -1), offset)
    return np.where(batch.image.valid, np.sqrt(square), np.nan)


class Mahalanobis(Scorer):
    """Distance to the mean of the dataset in units of its spread."""

    name = family = "mahalanobis"
    columns = pa.schema(
        [
            score_column(name, doc, "higher is farther", "[0, inf)", "Mahalanobis 1936")
            for name, doc in (
                ("mahalanobis_distance", "distance to the mean of all images"),
                ("mahalanobis_ratio", "the same as a multiple of the average distance"),
            )
        ]
    )

    def parameters(self):
        return {"ridge": RIDGE}

    def statistics(self, known, context):
        if "mean" not in known:
            return {"moments": UnitMoments()}
        if "average" not in known:
            return {"all": DistanceMoments(known["mean"].tobytes(), known["precision"].tobytes())}
        return {}

    def learn(self, sums, known, context):
        if "all" in sums:
            return {**known, "average": np.asarray(sums["all"].mean)}
        moments = sums["moments"]
        covariance = moments.scatter / max(moments.rows, 1) + RIDGE * np.eye(context.dim)
        return {"mean": moments.mean, "precision": np.linalg.inv(covariance)}

    def score(self, batch, loaded):
        values = distances(batch, loaded["mean"], loaded["precision"])
        return {"mahalanobis_distance": values, "mahalanobis_ratio": values / loaded["average"]}
