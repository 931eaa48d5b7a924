"""Density scores of image embeddings against a reference sample, by brute force.

Distances are Euclidean between embeddings that are not normalised, unless the caller normalises
them.  A row that is in the reference is not its own neighbour.
"""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray

from clipsieve.scorers.density import (
    DEFAULT_LID_K,
    dao,
    k_distance,
    lid_mle,
    reference_density,
    slof,
)

DETECTORS = ("k-distance", "SLOF", "DAO", "LID")
_BLOCK = 1000

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


def sample_rows(count: int, size: int, seed: int) -> Rows:
    """The `size` of `count` rows whose hashes are smallest, in ascending order."""
    keys = [hashlib.blake2b(f"{seed}/{row}".encode()).digest() for row in range(count)]
    return np.sort(np.array(sorted(range(count), key=keys.__getitem__)[:size]))


def nearest(features: NDArray[np.float32], reference: Rows, k: int) -> tuple[Floats, Rows]:
    """The k nearest reference rows of every row.

    Args:
      features: (N, D).
      reference: (R,) rows of `features`, ascending, R greater than k.
      k: neighbours.

    Returns:
      (N, k) distances, ascending, computed from differences; (N, k) positions in `reference`.
    """
    everything = torch.from_numpy(features)
    anchors = everything[torch.from_numpy(reference)]
    squares = anchors.square().sum(dim=1)
    distances, places = [], []
    for start in range(0, len(features), _BLOCK):
        block = everything[start : start + _BLOCK]
        # The square of the row's own norm does not change the order.
        gaps = torch.addmm(squares, block, anchors.T, alpha=-2)
        own = (reference >= start) & (reference < start + len(block))
        rows, columns = reference[own] - start, np.flatnonzero(own)
        gaps[torch.from_numpy(rows), torch.from_numpy(columns)] = torch.inf
        near = gaps.topk(k, largest=False).indices
        exact = (block[:, None] - anchors[near]).double().square().sum(dim=2).sqrt()
        exact, order = exact.sort(dim=1, stable=True)
        distances.append(exact.numpy())
        places.append(near.gather(1, order).numpy())
    return np.concatenate(distances), np.concatenate(places)


def density_scores(features: NDArray[np.float32], reference: Rows) -> dict[str, Floats]:
    """Scores of every row against a reference; higher is more suspicious.

    Those of `clipsieve.scorers.density`: k-distance, SLOF and DAO with 16 neighbours, LID with 64.

    Args:
      features: (N, D).
      reference: (R,) rows, ascending, R greater than 64.

    Returns:
      Detector name -> (N,) scores.
    """
    distances, indices = nearest(features, reference, DEFAULT_LID_K)
    known = reference_density(distances[reference], indices[reference])
    return {
        "k-distance": k_distance(distances),
        "SLOF": slof(distances, indices, known),
        "DAO": dao(distances, indices, known),
        "LID": lid_mle(distances),
    }
