"""DataComp's image-based filter: whether an image's cluster has an image of a target set.

Gadre et al., "DataComp: In search of the next generation of multimodal datasets",
arXiv:2304.14108, the baseline "image-based filtering".  The released code takes the centroid with
the largest inner product, and its centroids do not have unit norm: the nearest centroid by distance
is often another one.  DataComp's centroids are of images whose caption passed a filter of its own.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.errors import UsageError
from clipsieve.scorers.array_file import decode_array
from clipsieve.scorers.base import Arrays, Context, PairBatch, Scorer, score_column
from clipsieve.scorers.centroids import Centroids
from clipsieve.scorers.nulls import with_nulls
from clipsieve.scorers.option_file import OptionFile
from clipsieve.threads import map_parts

_PAPER = "arXiv:2304.14108, image-based filtering"
#: Vectors that are assigned at once, by one thread.
_BATCH_ROWS = 2048


def target_clusters(centroids: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the clusters in which at least one target is, for option `target_clusters`.

    Args:
      centroids: (C, D), C >= 1, of a floating type.
      targets: (M, D) embeddings of the target set, of a floating type, finite and not zero.

    Returns:
      Distinct numbers of centroids, rising, int64.
    """
    search = Centroids(centroids)
    parts = [targets[at : at + _BATCH_ROWS] for at in range(0, len(targets), _BATCH_ROWS)]
    assigned = map_parts(search.assign, parts)
    return np.unique(np.concatenate([np.empty(0, np.int32), *assigned])).astype(np.int64)


class ImageCluster(Scorer):
    """Cluster of each image among given centroids, and whether a target is in that cluster.

    A row whose image has no embedding has neither value.
    """

    name, family = "datacomp.image_cluster", "datacomp"
    batch_rows = _BATCH_ROWS
    columns = pa.schema(
        [
            score_column(
                "image_cluster",
                "centroid with the largest inner product, the first of equals",
                "none",
                "[0, C)",
                _PAPER,
                pa.int32(),
            ),
            score_column(
                "image_cluster_is_target",
                "whether an image of the target set is in that cluster",
                "true is kept",
                "true or false",
                _PAPER,
                pa.bool_(),
            ),
        ]
    )

    def __init__(
        self,
        centroids: str | Mapping[str, str] | None = None,
        targets: str | Mapping[str, str] | None = None,
        target_clusters: str | Mapping[str, str] | None = None,
    ) -> None:
        """Make a scorer; every worker reads the files.

        Args:
          centroids: `.npy` file, (C, D) of a floating type, not normalised.  They are rounded to
            float32.
          targets: `.npy` file, (M, D) of a floating type: image embeddings of the target set, by
            the same model.  Every process assigns them anew, which for a million targets and
            100,000 centroids takes an hour of a core: then give `target_clusters`.
          target_clusters: `.npy` file of integers: the clusters themselves, as the function
            `target_clusters` makes them; in place of `targets`.

        Raises:
          UsageError: without centroids, and without one of the other two.
        """
        self._centroids = OptionFile.from_value(
            self.name, "centroids", centroids, "the centroids of clusters"
        )
        if (targets is None) == (target_clusters is None):
            raise UsageError(
                f"scorer {self.name} needs a target set, either as option targets or as option "
                f"target_clusters; give one of them: --option {self.name}.targets=FILE"
            )
        name = "targets" if target_clusters is None else "target_clusters"
        value = targets if target_clusters is None else target_clusters
        self._targets = OptionFile.from_value(self.name, name, value, "a target set")

    def parameters(self) -> Mapping[str, Any]:
        """Return the hash of both files.

        Raises:
          UsageError: if one cannot be read.
        """
        return {
            "centroids": self._centroids.digest(),
            self._targets.option: self._targets.digest(),
        }

    def load(self, known: Arrays, context: Context) -> tuple[Centroids, np.ndarray]:
        """Return the centroids, and (C,) bool, whether a target is in the cluster.

        Raises:
          UsageError: if a file cannot be read, or has changed; for another shape or type, a number
            that is not finite, a target that is zero, and a cluster that is not there.
        """
        centroids = self._matrix(self._centroids, context.dim)
        is_target = np.zeros(len(centroids), bool)
        if self._targets.option == "target_clusters":
            is_target[self._cluster_numbers(len(centroids))] = True
        else:
            targets = self._matrix(self._targets, context.dim)
            if not targets.any(axis=1).all():
                row = int(targets.any(axis=1).argmin())
                raise UsageError(f"{self._targets.path}: row {row} is zero; leave such rows out")
            is_target[target_clusters(centroids, targets)] = True
        return Centroids(centroids), is_target

    def score(self, batch: PairBatch, loaded: Any) -> Mapping[str, np.ndarray]:
        """Two columns; None without image."""
        assert batch.image is not None
        centroids, is_target = loaded
        valid = batch.image.valid
        clusters = np.zeros(len(batch), np.int32)
        clusters[valid] = centroids.assign(batch.image.unit()[valid])
        return {
            "image_cluster": with_nulls(clusters, valid),
            "image_cluster_is_target": with_nulls(is_target[clusters], valid),
        }

    def _matrix(self, file: OptionFile, dim: int) -> np.ndarray:
        """Return (rows, dim) float32, finite."""
        array = decode_array(file.read(), file.path, file.option)
        if array.dtype.kind != "f" or array.ndim != 2 or not len(array):
            raise UsageError(
                f"{file.path} has shape {array.shape} and type {array.dtype}; option {file.option} "
                f"of scorer {self.name} must be a matrix of floating-point numbers"
            )
        if array.shape[1] != dim:
            raise UsageError(
                f"{file.path} has shape {array.shape}, and the model's embeddings have {dim} "
                "components; give one of the same model"
            )
        with np.errstate(over="ignore"):
            rounded = array.astype(np.float32)
        if not np.isfinite(rounded).all():
            row = int(np.isfinite(rounded).all(axis=1).argmin())
            raise UsageError(
                f"{file.path}: row {row} holds a number that is not finite as float32; correct it"
            )
        return rounded

    def _cluster_numbers(self, count: int) -> np.ndarray:
        """Return the numbers in the file of target clusters."""
        file = self._targets
        numbers = decode_array(file.read(), file.path, file.option)
        if numbers.dtype.kind not in "iu" or numbers.ndim != 1:
            raise UsageError(
                f"{file.path} has shape {numbers.shape} and type {numbers.dtype}; option "
                f"{file.option} of scorer {self.name} must be a list of integers"
            )
        wrong = numbers[(numbers < 0) | (numbers >= count)]
        if len(wrong):
            raise UsageError(
                f"{file.path} names cluster {wrong[0]}, and there are {count} centroids, from 0 "
                "on; give clusters of these centroids"
            )
        return numbers
