"""Stored folders of made-up embeddings, and the vectors they hold as one would naively see them."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from clipsieve.neighbours.lists import NeighbourLists
from clipsieve.stored import StoredPairs
from tests.store.folders import DIM, make_folder, shard_of

#: Shards with rows that lack an image, a caption, or both; rows with equal vectors and equal uids.
SHARDS = {"a": 30, "b": 1, "c": 45, "d": 24}


def make_pairs(root, shards=None):
    """A folder of `shards` (rows by name); its layout and dataset, and what reads its pairs."""
    made = [
        shard_of(
            name,
            rows,
            seed=7 if name in "cd" else number,  # so that "d" repeats vectors of "c"
            uids=pa.array([f"{name}-{row // 2}" for row in range(rows)]),
            no_image=[row for row in (1, 5) if row < rows],
            no_text=[row for row in (0, 5) if row < rows],
        )
        for number, (name, rows) in enumerate((shards or SHARDS).items())
    ]
    layout, dataset = make_folder(root, made)
    return layout, dataset, StoredPairs(layout, dataset.embeddings, DIM)


@dataclass
class Naive:
    """Every vector of some rows, with the row it belongs to; searched by a loop."""

    vectors: list
    owners: list
    numbers: list

    def nearest(self, query, owner, k, metric="euclidean", where=lambda owner: True):
        """Distances and numbers of the k nearest vectors of other rows, ties by number."""
        found = []
        for vector, other, number in zip(self.vectors, self.owners, self.numbers, strict=True):
            if other != owner and where(other):
                found.append((distance(query, vector, metric), number))
        return sorted(found)[:k]


def distance(one, other, metric):
    one, other = one.astype(np.float64), other.astype(np.float64)
    if metric == "cosine":
        return 1 - float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
    return float(np.float32(np.sqrt(((one - other) ** 2).sum())))


def assert_lists(lists: NeighbourLists, row, expected, tolerance=1e-6):
    """The list of a row has these (distance, number) and nothing else."""
    count = len(expected)
    assert lists.indices[row, :count].tolist() == [number for _, number in expected]
    assert np.allclose(lists.distances[row, :count], [d for d, _ in expected], rtol=tolerance)
    assert (lists.indices[row, count:] == -1).all()
    assert np.isinf(lists.distances[row, count:]).all()
