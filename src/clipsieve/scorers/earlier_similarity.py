"""How similar each vector of an ordered list is to those before it, in blocks of products."""

import numpy as np

#: Rows of a block: its products, 1 MiB, stay in the caches of a core.
BLOCK_ROWS = 512


def max_earlier_similarity(vectors: np.ndarray, block_rows: int = BLOCK_ROWS) -> np.ndarray:
    """Return the highest cosine of each vector with one before it, or 0.

    SemDeDup's M_j = max(0, max_{i<j} cos_ij), Abbas et al., arXiv:2303.09540.  Vectors
    that are dropped count for later ones like those that are kept, as published.

    Args:
      vectors: (N, D) float32 unit rows in their order, N >= 0.
      block_rows: rows that are multiplied together; another number may change the last bit.

    Returns:
      (N,) float32 in [0, 1]; 0 for the first.
    """
    highest = np.zeros(len(vectors), np.float32)
    for first in range(0, len(vectors), block_rows):
        part, best = vectors[first : first + block_rows], highest[first : first + block_rows]
        for other in range(0, first, block_rows):
            products = part @ vectors[other : other + block_rows].T
            np.maximum(best, products.max(axis=1), out=best)
        earlier = np.tril(part @ part.T, -1)
        np.maximum(best, earlier.max(axis=1, initial=0.0), out=best)
    return np.minimum(highest, np.float32(1.0), out=highest)
