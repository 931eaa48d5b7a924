"""Density scores of image embeddings against a reference sample.

Distances are Euclidean between embeddings that are not normalised, unless the caller normalises
them.  A row that is in the reference is not its own neighbour.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from clipsieve.neighbours.index import ExactIndex
from clipsieve.scorers.density import (
    DEFAULT_LID_K,
    dao,
    k_distance,
    lid_mle,
    reference_density,
    slof,
)

DETECTORS = ("k-distance", "SLOF", "DAO", "LID")

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


def sample_rows(count: int, size: int, seed: int) -> Rows:
    """The `size` of `count` rows whose hashes are smallest, in ascending order."""
    keys = [hashlib.blake2b(f"{seed}/{row}".encode()).digest() for row in range(count)]
    return np.sort(np.array(sorted(range(count), key=keys.__getitem__)[:size]))


def density_scores(features: NDArray[np.float32], reference: Rows) -> dict[str, Floats]:
    """Scores of every row against a reference; higher is more suspicious.

    Those of `clipsieve.scorers.density`: k-distance, SLOF and DAO with 16 neighbours, LID with 64.

    Args:
      features: (N, D).
      reference: (R,) rows, ascending, R greater than 64.

    Returns:
      Detector name -> (N,) scores.
    """
    own = np.full(len(features), -1)
    own[reference] = np.arange(len(reference))
    found = ExactIndex(features[reference]).search(features, DEFAULT_LID_K, own)
    distances, indices = found.distances, found.indices
    known = reference_density(distances[reference], indices[reference])
    return {
        "k-distance": k_distance(distances),
        "SLOF": slof(distances, indices, known),
        "DAO": dao(distances, indices, known),
        "LID": lid_mle(distances),
    }
