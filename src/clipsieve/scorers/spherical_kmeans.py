"""Spherical k-means: clusters of unit vectors by cosine.

Dhillon and Modha, "Concept Decompositions for Large Sparse Text Data Using Clustering", Machine
Learning 42 (2001).  For equal vectors in equal order the result has the same bits
whatever the number of threads.
"""

from hashlib import blake2b

import numpy as np

from clipsieve.scorers.base import unit_rows
from clipsieve.scorers.centroids import Centroids
from clipsieve.threads import map_parts

#: Rows of a block; sums are added in the order of blocks.
_BLOCK_ROWS = 4096


def spherical_kmeans(vectors: np.ndarray, clusters: int, iterations: int, seed: int) -> np.ndarray:
    """Return centroids of unit norm.

    It begins with distinct vectors drawn by the seed.  A vector belongs to the centroid of the
    largest cosine, the first of equals; a centroid is the normalised sum of its vectors, added in
    float64.  A centroid without vectors is put onto the vector whose cosine with its own centroid
    is lowest, the first of equals, and each of several such onto another vector.

    Args:
      vectors: (N, D) of a floating type, N >= 1, finite and not zero; they need not have unit norm.
      clusters: at least 1, at most N.
      iterations: at least 1; it ends before if no vector changes its cluster.
      seed: of the draw of the first centroids.

    Returns:
      (K, D) float32 of unit norm, K = `clusters`, or the number of distinct vectors if that is
      lower.
    """
    unit = np.concatenate([unit_rows(part).astype(np.float32) for part in _blocks(vectors)])
    centroids = Centroids(_first_centroids(unit, clusters, seed))
    assigned = np.empty(0, np.int32)
    for _ in range(iterations):
        previous = assigned
        assigned = np.concatenate(map_parts(centroids.assign, _blocks(unit)))
        if np.array_equal(assigned, previous):
            break
        centroids = Centroids(_updated(unit, assigned, centroids))
    return centroids.vectors


def _first_centroids(unit: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    rows: list[int] = []
    digests: set[bytes] = set()
    for row in np.random.default_rng(seed).permutation(len(unit)).tolist():
        digest = blake2b(unit[row].tobytes(), digest_size=16).digest()
        if digest not in digests:
            digests.add(digest)
            rows.append(row)
            if len(rows) == clusters:
                break
    return np.asarray(unit[rows])


def _updated(unit: np.ndarray, assigned: np.ndarray, centroids: Centroids) -> np.ndarray:
    """Return (K, D) float64 means of unit norm."""
    sums = np.zeros(centroids.vectors.shape)
    counts = np.bincount(assigned, minlength=len(centroids))
    for part, own in zip(_blocks(unit), _blocks(assigned), strict=True):
        order = np.argsort(own, kind="stable")
        numbers, firsts = np.unique(own[order], return_index=True)
        sums[numbers] += np.add.reduceat(part[order].astype(np.float64), firsts, axis=0)
    # Opposite vectors may cancel out: their centroid stays where it is.
    lost = ~sums.any(axis=1)
    sums[lost] = centroids.vectors[lost]
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        cosines = centroids.products(unit, assigned)
        sums[empty] = unit[np.argsort(cosines, kind="stable")[: len(empty)]]
    return unit_rows(sums)


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[first : first + _BLOCK_ROWS] for first in range(0, len(rows), _BLOCK_ROWS)]
