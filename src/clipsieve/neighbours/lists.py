"""Lists of nearest neighbours, and how lists over parts of a reference add up."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipsieve.errors import UsageError


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The k nearest reference rows of N queries, nearest first.

    Attributes:
      distances: (N, k) float32, at least 0, ascending; inf where the reference has fewer rows.
      indices: (N, k) int64 numbers of reference rows; equal distances by lower number first; -1
        where the distance is inf.
    """

    distances: np.ndarray
    indices: np.ndarray

    @classmethod
    def none(cls, queries: int, k: int) -> "Neighbours":
        """The lists of an empty reference: the zero of `merge_neighbours`."""
        return cls(np.full((queries, k), np.inf, np.float32), np.full((queries, k), -1, np.int64))

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.distances)

    @property
    def k(self) -> int:
        """Length of each list."""
        return int(self.distances.shape[1])


def merge_neighbours(parts: Sequence[Neighbours], k: int) -> Neighbours:
    """The lists over a whole reference from those over disjoint parts of it.

    Associative and commutative: parts may be merged in any order and grouping, with the same
    result to the last bit, if each holds lists of at least `k` (or all that its part has).

    Args:
      parts: one or more, for the same queries in the same order.
      k: length of the merged lists, at least 1.

    Returns:
      (N, k) lists, filled up with inf and -1 where all parts together have fewer rows.

    Raises:
      UsageError: for no part, parts of different numbers of queries, or k below 1.

    >>> near = Neighbours(np.array([[1.0, 3.0]], np.float32), np.array([[7, 2]]))
    >>> far = Neighbours(np.array([[1.0, 2.0]], np.float32), np.array([[5, 9]]))
    >>> merge_neighbours([near, far], 3).indices.tolist()
    [[5, 7, 9]]
    """
    check_k(k)
    if not parts:
        raise UsageError("no lists were given to merge; Neighbours.none(queries, k) is the zero")
    rows = {len(part) for part in parts}
    if len(rows) > 1:
        raise UsageError(
            f"lists of different numbers of queries cannot be merged, got {sorted(rows)}; "
            "each part must answer the same queries"
        )
    distances = np.concatenate([part.distances for part in parts], axis=1)
    indices = np.concatenate([part.indices for part in parts], axis=1)
    order = np.lexsort((indices, distances), axis=1)[:, :k]
    merged = Neighbours.none(len(distances), k)
    width = order.shape[1]
    merged.distances[:, :width] = np.take_along_axis(distances, order, axis=1)
    merged.indices[:, :width] = np.take_along_axis(indices, order, axis=1)
    return merged


def check_k(k: int) -> None:
    """Refuse a k that is not an int of at least 1.

    Raises:
      UsageError: if it is not.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise UsageError(f"k must be an int of at least 1, got {k!r}")
