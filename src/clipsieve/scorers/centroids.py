"""Which of many centroids a vector has the largest inner product with.

The products are of float32 matrices, whose last bits depend on how many rows are multiplied
together.  Where a rounding error could decide, the products are computed again in float64, a pair
at a time: the answer is that of float64, and the same in whatever batches vectors come.
"""

import numpy as np

#: Products of a block: 64 MiB of float32.
_BLOCK_PRODUCTS = 1 << 24
#: Pairs whose products are computed again at once.
_PAIRS = 4096


class Centroids:
    """C centroids, which need not have unit norm, and the search for the best of them."""

    def __init__(self, vectors: np.ndarray) -> None:
        """Take (C, D) vectors, C >= 1, finite also as float32, to which they are rounded."""
        self.vectors = np.ascontiguousarray(vectors, np.float32)
        # A float32 sum of D products is off by (D + 1) 2^-24 |v| |c| at most in any order, plus
        # one more unit for rounding v; the difference of two by twice that.
        longest = float(self._norms(self.vectors).max())
        self._doubt = 2 * (self.vectors.shape[1] + 8) * 2.0**-24 * longest

    def __len__(self) -> int:
        """Return C."""
        return len(self.vectors)

    def assign(self, vectors: np.ndarray) -> np.ndarray:
        """Return the centroid with the largest inner product for each vector.

        Scaling a vector by a positive number changes nothing.

        Args:
          vectors: (N, D) of a floating type, N >= 0, finite and not zero.

        Returns:
          (N,) int32; the lowest number of equal products.
        """
        assigned = np.empty(len(vectors), np.int32)
        rows = max(1, _BLOCK_PRODUCTS // len(self))
        for first in range(0, len(vectors), rows):
            part = slice(first, first + rows)
            assigned[part] = self._assign_block(vectors[part])
        return assigned

    def products(self, vectors: np.ndarray, assigned: np.ndarray) -> np.ndarray:
        """Return (N,) float64 products of vectors with one centroid each.

        Each is computed alone, so equal vectors have equal products wherever they stand.

        Args:
          vectors: (N, D) of a floating type.
          assigned: (N,) numbers of centroids.
        """
        products = np.empty(len(vectors))
        for first in range(0, len(vectors), _PAIRS):
            part = slice(first, first + _PAIRS)
            own = self.vectors[assigned[part]].astype(np.float64)
            products[part] = np.vecdot(vectors[part].astype(np.float64), own)
        return products

    def _assign_block(self, vectors: np.ndarray) -> np.ndarray:
        products = vectors.astype(np.float32) @ self.vectors.T
        least = products.max(axis=1) - self._doubt * self._norms(vectors)
        least = np.nextafter(least.astype(np.float32), np.float32(-np.inf))
        rows, candidates = np.nonzero(products >= least[:, None])
        counts = np.bincount(rows, minlength=len(vectors))
        best = np.asarray(candidates[np.cumsum(counts) - counts])
        in_doubt = counts[rows] > 1
        rows, candidates = rows[in_doubt], candidates[in_doubt]
        exact = np.empty(len(rows))
        for first in range(0, len(rows), _PAIRS):
            pairs = slice(first, first + _PAIRS)
            exact[pairs] = self.products(vectors[rows[pairs]], candidates[pairs])
        order = np.lexsort((candidates, -exact, rows))
        rows, candidates = rows[order], candidates[order]
        is_first = np.diff(rows, prepend=-1) > 0
        best[rows[is_first]] = candidates[is_first]
        return best

    @staticmethod
    def _norms(vectors: np.ndarray) -> np.ndarray:
        """Return (N,) float64 Euclidean norms."""
        wide = vectors.astype(np.float64)
        return np.asarray(np.sqrt(np.vecdot(wide, wide)))
