"""Rows of clusters in the order in which SemDeDup goes through them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipsieve.scorers.earlier_similarity import max_earlier_similarity
from clipsieve.statistics.cluster_rows import MemberRows
from clipsieve.threads import map_parts

Keep = Literal["hard", "easy", "random"]
"""Which rows come first: those least like the centroid, most like it, or any."""


@dataclass(frozen=True, slots=True)
class OrderedMembers:
    """All rows of some clusters, cluster by cluster, each in its order.

    Attributes:
      positions: (n,) int64, of rows in the dataset.
      clusters: (n,) int32, rising.
      vectors: (n, D) float32 of unit norm.
    """

    positions: np.ndarray
    clusters: np.ndarray
    vectors: np.ndarray

    @classmethod
    def from_parts(
        cls, parts: Sequence[MemberRows], keep: Keep, hashes: np.ndarray
    ) -> "OrderedMembers":
        """Put rows in order; the vectors are copied once.

        Args:
          parts: rows, one part at least.
          keep: `hard` is by cosine with the centroid, rising, as float32; `easy` falling; `random`
            by the hash of the uid.  Ties by uid, then by the place in the dataset.
          hashes: (R,) uint64, of the uids of all rows.
        """
        positions = np.concatenate([part.positions for part in parts])
        clusters = np.concatenate([part.clusters for part in parts])
        cosines = np.concatenate([part.cosines for part in parts])
        keys = {"hard": cosines, "easy": -cosines, "random": hashes[positions]}
        uids = pa.concat_arrays([part.uids for part in parts])
        columns = {"cluster": clusters, "key": keys[keep], "uid": uids, "position": positions}
        table = pa.table(columns)
        sort_keys = [(name, "ascending") for name in columns]
        order = pc.sort_indices(table, sort_keys=sort_keys).to_numpy()
        ranks = np.empty(len(order), np.int64)
        ranks[order] = np.arange(len(order))
        vectors = np.empty((len(order), parts[0].vectors.shape[1]), np.float32)
        first = 0
        for part in parts:
            vectors[ranks[first : first + len(part.vectors)]] = part.vectors
            first += len(part.vectors)
        return cls(positions[order], clusters[order], vectors)

    def similarities(self) -> np.ndarray:
        """Return (n,) float32 highest cosines with an earlier row of the same cluster."""
        bounds = np.flatnonzero(np.diff(self.clusters, prepend=-1, append=-1))
        parts = [self.vectors[first:stop] for first, stop in pairwise(bounds)]
        return np.concatenate(map_parts(max_earlier_similarity, parts))
