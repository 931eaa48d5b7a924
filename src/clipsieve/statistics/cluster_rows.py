"""Rows by cluster: which cluster each is in, and the vectors of some clusters' rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from clipsieve.scorers.base import Context, Input, PairBatch
from clipsieve.scorers.centroids import Centroids
from clipsieve.statistics.hash_sample import row_hashes
from clipsieve.statistics.hashed_array import HashedArray
from clipsieve.statistics.recorded_rows import RecordedRows
from clipsieve.statistics.row_arrays import RowArrays

#: Rows that are observed at once, by one thread.
BATCH_ROWS = 4096
#: Cluster of a row whose image has no embedding.
NO_CLUSTER = -1


@dataclass(frozen=True, slots=True)
class AssignedRows:
    """Statistic: cluster of every row, and hash of its uid.

    Attributes:
      centroids: (K, D) float32.
      seed: of the hash.
      search: for the same centroids.
    """

    centroids: HashedArray
    seed: int
    search: Centroids = field(compare=False, repr=False)
    batch_rows = BATCH_ROWS
    needs = frozenset({Input.IMAGE_EMBEDDING})

    def observe(self, batch: PairBatch, context: Context) -> RowArrays:
        """Return `rows.clusters`, int32, and `rows.hashes`, uint64, of the rows of `batch`."""
        arrays = {
            "rows.clusters": assigned_clusters(batch, self.search),
            "rows.hashes": row_hashes(batch.uid, self.seed),
        }
        return RowArrays({(batch.shard, batch.start): arrays})


@dataclass(frozen=True, slots=True)
class MemberRows:
    """Rows of some clusters, of one batch.

    Attributes:
      positions: (n,) int64, in the order of the dataset.
      clusters: (n,) int32.
      cosines: (n,) float32, with the centroid.
      uids: n uids.
      vectors: (n, D) float32 of unit norm.
    """

    positions: np.ndarray
    clusters: np.ndarray
    cosines: np.ndarray
    uids: pa.Array
    vectors: np.ndarray


@dataclass(frozen=True, slots=True)
class MemberState:
    """State: rows by batch; adding two collects the rows of both.

    Attributes:
      parts: by (shard, position of the first row); batches without a row are left out.
    """

    parts: Mapping[tuple[str, int], MemberRows] = field(default_factory=dict)

    def __add__(self, other: "MemberState") -> "MemberState":
        """Return the rows of both."""
        return MemberState({**self.parts, **other.parts})

    def ordered(self) -> list[MemberRows]:
        """Return the parts in the order of the dataset."""
        return [self.parts[key] for key in sorted(self.parts)]


@dataclass(frozen=True, slots=True)
class ClusterMembers:
    """Statistic: vectors of the rows of clusters `first` to `stop` - 1.

    Attributes:
      first: first cluster.
      stop: cluster after the last.
      centroids: (K, D) float32.
      search: for the same centroids.
      clusters: (R,) int32, of all rows.
      rows: finds the rows of a batch among them, by shard and row.
    """

    first: int
    stop: int
    centroids: HashedArray
    search: Centroids = field(compare=False, repr=False)
    clusters: np.ndarray = field(compare=False, repr=False)
    rows: RecordedRows = field(compare=False, repr=False)
    batch_rows = BATCH_ROWS
    needs = frozenset({Input.IMAGE_EMBEDDING})

    def observe(self, batch: PairBatch, context: Context) -> MemberState:
        """Return the rows of `batch` that are in these clusters."""
        assert batch.image is not None
        positions = self.rows.places(batch)
        clusters = np.where(positions >= 0, self.clusters[positions], NO_CLUSTER)
        members = (clusters >= self.first) & (clusters < self.stop) & batch.image.valid
        if not members.any():
            return MemberState()
        unit, own = batch.image.unit()[members], clusters[members]
        return MemberState(
            {
                (batch.shard, batch.start): MemberRows(
                    positions=positions[members],
                    clusters=own.astype(np.int32),
                    cosines=centroid_cosines(unit, own, self.search),
                    uids=batch.uid.filter(pa.array(members)),
                    vectors=unit.astype(np.float32),
                )
            }
        )


def assigned_clusters(batch: PairBatch, centroids: Centroids) -> np.ndarray:
    """Return (N,) int32 clusters; `NO_CLUSTER` where the image has no embedding."""
    assert batch.image is not None
    valid = batch.image.valid
    clusters = np.full(len(batch), NO_CLUSTER, np.int32)
    clusters[valid] = centroids.assign(batch.image.unit()[valid])
    return clusters


def centroid_cosines(unit: np.ndarray, clusters: np.ndarray, centroids: Centroids) -> np.ndarray:
    """Return (N,) float32 cosines of unit vectors with the centroids of their clusters."""
    cosines = centroids.products(unit, clusters)
    return np.asarray(np.clip(cosines, -1.0, 1.0), np.float32)
