"""Nearest rows of one batch by comparing all with all: the plain reference for any search."""

import numpy as np
import torch

#: Distances held at a time, besides the result.
_BLOCK = 1 << 22


def nearest(
    queries: np.ndarray, reference: np.ndarray, own: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k reference rows nearest to each query, by Euclidean distance.

    Distances come from differences, not from products, so that equal rows are at distance 0.

    Args:
      queries: (N, D) float32 or float64, finite.
      reference: (R, D) of the same type, finite.
      own: (N, E) int64 numbers of reference rows that are no neighbours of the query; -1 for
        none.
      k: columns of the result, at least 1.

    Returns:
      Distances, (N, k) of the type given, ascending, inf where there are fewer than k; numbers
      of reference rows, (N, k) int64, -1 where there are fewer.  Equal distances: lower first.
    """
    distances = np.full((len(queries), k), np.inf, queries.dtype)
    indices = np.full((len(queries), k), -1, np.int64)
    kept = min(k, len(reference))
    if not kept:
        return distances, indices
    rows = max(1, _BLOCK // len(reference))
    wide = torch.from_numpy(np.ascontiguousarray(reference))
    for start in range(0, len(queries), rows):
        block = slice(start, start + rows)
        near = torch.cdist(
            torch.from_numpy(np.ascontiguousarray(queries[block])),
            wide,
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        row, slot = np.nonzero(own[block] >= 0)
        near[row, own[block][row, slot]] = torch.inf
        ascending, columns = torch.sort(near, dim=1, stable=True)
        distances[block, :kept] = ascending[:, :kept].numpy()
        indices[block, :kept] = columns[:, :kept].numpy()
    indices[np.isposinf(distances)] = -1
    return distances, indices
