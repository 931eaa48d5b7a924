"""SemDeDup: how similar a row is to the rows before it in its cluster.

Abbas et al., "SemDeDup: Data-efficient learning at web-scale through semantic deduplication",
arXiv:2303.09540.  Written from the formulas.
"""

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from clipsieve.errors import UsageError
from clipsieve.scorers.base import (
    Arrays,
    Context,
    PairBatch,
    Scorer,
    Statistic,
    score_column,
)
from clipsieve.scorers.centroids import Centroids
from clipsieve.scorers.cluster_order import Keep, OrderedMembers
from clipsieve.scorers.cluster_passes import PassLimit
from clipsieve.scorers.nulls import with_nulls
from clipsieve.scorers.options import check_ints
from clipsieve.scorers.spherical_kmeans import spherical_kmeans
from clipsieve.statistics.cluster_rows import (
    BATCH_ROWS,
    NO_CLUSTER,
    AssignedRows,
    ClusterMembers,
    centroid_cosines,
)
from clipsieve.statistics.hash_sample import HashSample
from clipsieve.statistics.hashed_array import HashedArray
from clipsieve.statistics.recorded_rows import RecordedRows, recorded_rows

AUTO = "auto"
#: Rows of a cluster on average, and clusters at most: those of the released code.
_ROWS_PER_CLUSTER, _MOST_CLUSTERS = 1000, 50_000
#: Rows of the sample: 64 a cluster; 40 a cluster are left of the most clusters.
_SAMPLE_PER_CLUSTER, _LEAST_SAMPLE, _MOST_SAMPLE = 64, 4096, 2_000_000

_PAPER = "arXiv:2303.09540"


class SemDeDup(Scorer):
    """Clusters of images by k-means, and the highest cosine with an earlier row of the cluster.

    A row whose image has no embedding has none of the values.  Rows that come after the clusters
    were learnt have a cluster and a cosine with its centroid; `semdedup_similarity` and
    `semdedup_keep` are NULL until all is learnt again (`--refit`).
    """

    name, family = "duplicates.semdedup", "duplicates"
    batch_rows = BATCH_ROWS
    columns = pa.schema(
        [
            score_column(
                "semdedup_cluster", "number of the cluster", "none", "[0, K)", _PAPER, pa.int32()
            ),
            score_column(
                "semdedup_centroid_cosine",
                "cosine with the centroid of the cluster",
                "higher is more typical of the cluster",
                "[-1, 1]",
                _PAPER,
            ),
            score_column(
                "semdedup_similarity",
                "highest cosine with a row before it in its cluster; 0 if there is none above",
                "higher is more of a duplicate",
                "[0, 1]",
                _PAPER,
            ),
            score_column(
                "semdedup_keep",
                "whether the similarity is at most 1 - eps",
                "true is kept",
                "true or false",
                _PAPER,
                pa.bool_(),
            ),
        ]
    )

    def __init__(
        self,
        eps: float = 0.07,
        clusters: str | int = AUTO,
        keep: Keep = "hard",
        iterations: int = 20,
        sample: str | int = AUTO,
        seed: int = 1234,
        memory_mib: int = 2048,
    ) -> None:
        """Make a scorer.

        Args:
          eps: rows with a similarity above 1 - eps are not kept; the released configuration
            has 0.059 to 0.07, which keeps about half of LAION.
          clusters: of k-means, or `auto`: one for 1,000 rows, 50,000 at most, as in the
            released code.
          keep: `hard`: rows come in rising order of their cosine with the centroid, so that of
            duplicates the one least like the centroid is kept, as published; `easy`: in falling
            order; `random`: by the hash of the uid.  Ties by uid, then shard and row.
          iterations: of k-means, at most; the released code makes 100.
          sample: rows that k-means learns of, those whose uids hash lowest, or `auto`: 64 for each
            cluster, 4,096 at least and 2,000,000 at most.
          seed: of the hash and of the first centroids.
          memory_mib: MiB that the vectors of a pass may take.  Fewer take more passes; the
            values do not depend on it.

        Raises:
          UsageError: for a value out of range.
        """
        self._clusters = _auto_or_int(self.name, "clusters", clusters)
        self._sample = _auto_or_int(self.name, "sample", sample)
        counts = {"iterations": (iterations, 1), "seed": (seed, 0), "memory_mib": (memory_mib, 1)}
        check_ints(self.name, counts)
        if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps <= 1:
            raise UsageError(
                f"option eps of scorer {self.name} must be a number from 0 to 1, got {eps!r}"
            )
        if keep not in get_args(Keep):
            raise UsageError(
                f"option keep of scorer {self.name} must be one of {', '.join(get_args(Keep))}, "
                f"got {keep!r}"
            )
        self._eps, self._keep = float(eps), keep
        self._iterations, self._seed = iterations, seed
        self._memory_mib = memory_mib

    def parameters(self) -> Mapping[str, Any]:
        """All options but `memory_mib`."""
        return {
            "eps": self._eps,
            "clusters": self._clusters,
            "keep": self._keep,
            "iterations": self._iterations,
            "sample": self._sample,
            "seed": self._seed,
        }

    def statistics(self, known: Arrays, context: Context) -> Mapping[str, Statistic]:
        """Return the sample for k-means, then the cluster of each row, then groups of clusters.

        Raises:
          UsageError: if the vectors of all rows do not fit into as many passes as there may be.
        """
        if "centroids" not in known:
            self._limit(context).check_rows(context.rows)
            clusters = self._cluster_count(context.rows)
            size = self._sample_size(clusters)
            enough = 0 if "short" in known else context.rows
            return {"sample": HashSample.bounded(size, self._seed, False, enough)}
        centroids, search = HashedArray(known["centroids"]), Centroids(known["centroids"])
        if "rows.clusters" not in known:
            return {"rows": AssignedRows(centroids, self._seed, search)}
        first = int(known["clusters_done"])
        if first == len(centroids.values):
            return {}
        stop = self._limit(context).group_ends(known["counts"], first)[0]
        rows = RecordedRows(known, self._seed)
        members = ClusterMembers(first, stop, centroids, search, known["rows.clusters"], rows)
        return {"members": members}

    def learn(self, sums: Mapping[str, Any], known: Arrays, context: Context) -> Arrays:
        """Return the centroids, then cluster and counts, then similarities of a group of clusters.

        Raises:
          UsageError: if there is no row with an image, or fewer than clusters; if a cluster does
            not fit into a pass, or all of them not into as many passes as there may be.
        """
        if "sample" in sums:
            sample = sums["sample"]
            if sample.is_short:
                return {**known, "short": np.array(True)}
            return {"centroids": self._centroids(sample.images, context.rows)}
        if "rows" in sums:
            rows = recorded_rows(sums["rows"])
            clusters = rows["rows.clusters"]
            counts = np.bincount(
                clusters[clusters != NO_CLUSTER], minlength=len(known["centroids"])
            )
            self._limit(context).check_counts(counts)
            return {
                **known,
                **rows,
                "counts": counts,
                "clusters_done": np.array(0),
                "rows.similarities": np.full(len(clusters), np.nan, np.float32),
            }
        first = int(known["clusters_done"])
        stop = self._limit(context).group_ends(known["counts"], first)[0]
        parts, similarities = sums["members"].ordered(), known["rows.similarities"].copy()
        if parts:
            members = OrderedMembers.from_parts(parts, self._keep, known["rows.hashes"])
            similarities[members.positions] = members.similarities()
        return {**known, "rows.similarities": similarities, "clusters_done": np.array(stop)}

    def load(self, known: Arrays, context: Context) -> Any:
        """Return the centroids, and what is known of single rows."""
        rows = RecordedRows(known, self._seed)
        values = known["rows.clusters"], known["rows.similarities"]
        return Centroids(known["centroids"]), rows, *values

    def score(self, batch: PairBatch, loaded: Any) -> Mapping[str, np.ndarray]:
        """Four columns; see the class for what is NULL."""
        assert batch.image is not None
        centroids, rows, recorded_clusters, recorded_similarities = loaded
        valid = batch.image.valid
        positions = rows.positions(batch)
        is_recorded = (positions >= 0) & (recorded_clusters[positions] != NO_CLUSTER) & valid
        clusters = np.full(len(batch), NO_CLUSTER, np.int32)
        clusters[is_recorded] = recorded_clusters[positions[is_recorded]]
        new = valid & ~is_recorded
        clusters[new] = centroids.assign(batch.image.unit()[new])
        cosines = np.full(len(batch), np.nan, np.float32)
        cosines[valid] = centroid_cosines(batch.image.unit()[valid], clusters[valid], centroids)
        similarities = np.full(len(batch), np.nan, np.float32)
        similarities[is_recorded] = recorded_similarities[positions[is_recorded]]
        keep = similarities <= np.float64(1 - self._eps)
        return {
            "semdedup_cluster": with_nulls(clusters, valid),
            "semdedup_centroid_cosine": cosines,
            "semdedup_similarity": similarities,
            "semdedup_keep": with_nulls(keep, ~np.isnan(similarities)),
        }

    def _centroids(self, images: np.ndarray, rows: int) -> np.ndarray:
        """Return (K, D) float32 centroids learnt of (n, D) vectors."""
        if not len(images):
            raise UsageError(
                f"scorer {self.name} learns of 0 rows with an image, and needs one at least; "
                "run `clipsieve run` on images first"
            )
        clusters = self._cluster_count(rows)
        if self._clusters == AUTO:
            clusters = min(clusters, len(images))
        if clusters > len(images):
            raise UsageError(
                f"scorer {self.name} is to make {clusters} clusters of a sample of {len(images)} "
                "rows; set option clusters to fewer, or option sample to more"
            )
        return spherical_kmeans(images, clusters, self._iterations, self._seed)

    def _cluster_count(self, rows: int) -> int:
        if self._clusters != AUTO:
            return int(self._clusters)
        return min(_MOST_CLUSTERS, max(1, rows // _ROWS_PER_CLUSTER))

    def _sample_size(self, clusters: int) -> int:
        if self._sample != AUTO:
            return int(self._sample)
        return min(_MOST_SAMPLE, max(_LEAST_SAMPLE, _SAMPLE_PER_CLUSTER * clusters))

    def _limit(self, context: Context) -> PassLimit:
        return PassLimit(self.name, self._memory_mib, context.dim)


def _auto_or_int(scorer: str, name: str, value: Any) -> str | int:
    """Return an option that is `auto` or a number of at least 1."""
    if value == AUTO:
        return AUTO
    check_ints(scorer, {name: (value, 1)})
    return int(value)
