"""Density scores of image embeddings against a reference sample, by brute force.

Distances are Euclidean between embeddings that are not normalised, unless the caller normalises
them.  A row that is in the reference is not its own neighbour.
"""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray

K = 16  #: neighbours of k-distance, SLOF and DAO
LID_K = 64  #: neighbours of the local intrinsic dimension
DETECTORS = ("k-distance", "SLOF", "DAO", "LID")
_BLOCK = 1000
_LEAST = 1e-12

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


def sample_rows(count: int, size: int, seed: int) -> Rows:
    """The `size` of `count` rows whose hashes are smallest, in ascending order."""
    keys = [
        hashlib.blake2b(f"{seed}/{row}".encode(), digest_size=8).digest() for row in range(count)
    ]
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
        gaps[torch.from_numpy(reference[own] - start), torch.from_numpy(np.flatnonzero(own))] = (
            torch.inf
        )
        near = gaps.topk(k, largest=False).indices
        exact = (block[:, None] - anchors[near]).double().square().sum(dim=2).sqrt()
        exact, order = exact.sort(dim=1, stable=True)
        distances.append(exact.numpy())
        places.append(near.gather(1, order).numpy())
    return np.concatenate(distances), np.concatenate(places)


def intrinsic_dimension(distances: Floats) -> Floats:
    """(N,) maximum likelihood estimates, -k / sum of log(d_j / d_k), from (N, k) distances."""
    ratios = np.maximum(distances, _LEAST) / np.maximum(distances[:, -1:], _LEAST)
    return -distances.shape[1] / np.minimum(np.log(ratios).sum(axis=1), -_LEAST)


def density_scores(features: NDArray[np.float32], reference: Rows) -> dict[str, Floats]:
    """Scores of every row against a reference; higher is more suspicious.

    With d_i the distance of row i to its 16th neighbour, o its 16 neighbours: k-distance is d_i,
    SLOF the mean of d_i / d_o, DAO the mean of (d_i / d_o) ** LID_o, where LID is estimated from 64
    neighbours.

    Args:
      features: (N, D).
      reference: (R,) rows, ascending, R greater than 64.

    Returns:
      Detector name -> (N,) scores.
    """
    distances, places = nearest(features, reference, LID_K)
    radius, dimension = distances[:, K - 1], intrinsic_dimension(distances)
    around = places[:, :K]
    ratio = radius[:, None] / np.maximum(radius[reference][around], _LEAST)
    return {
        "k-distance": radius,
        "SLOF": ratio.mean(axis=1),
        "DAO": (ratio ** dimension[reference][around]).mean(axis=1),
        "LID": dimension,
    }
