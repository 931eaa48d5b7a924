"""Vectors of stored rows as one would naively see them, searched by a loop."""

from dataclasses import dataclass

import numpy as np

from clipsieve.neighbours.lists import NeighbourLists


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
