"""Lists of nearest neighbours: merged over parts of a reference, with gaps, and as a table."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from clipsieve.errors import UsageError


@dataclass(frozen=True, slots=True)
class NeighbourLists:
    """The k nearest reference rows of N queries, nearest first.

    Attributes:
      distances: (N, k) float32, at least 0, ascending; inf where the reference has fewer rows.
      indices: (N, k) int64 numbers of reference rows; equal distances by lower number first; -1
        where the distance is inf.
    """

    distances: np.ndarray
    indices: np.ndarray

    @classmethod
    def empty(cls, queries: int, k: int) -> "NeighbourLists":
        """Create lists that hold no neighbour: the zero of `merge_lists`."""
        return cls(np.full((queries, k), np.inf, np.float32), np.full((queries, k), -1, np.int64))

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.distances)

    @property
    def k(self) -> int:
        """Length of each list."""
        return int(self.distances.shape[1])


def check_k(k: int) -> None:
    """Refuse a k that is not an int of at least 1.

    Raises:
      UsageError: if it is not.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise UsageError(f"k must be an int of at least 1, got {k!r}")


def merge_lists(parts: Sequence[NeighbourLists], k: int) -> NeighbourLists:
    """Merge lists over disjoint parts of a reference into those over all of it.

    Associative and commutative: parts may be merged in any order and grouping, with the same
    result to the last bit, if each holds lists of at least `k` (or all that its part has).

    Args:
      parts: one or more, for the same queries in the same order.
      k: length of the merged lists, at least 1.

    Returns:
      (N, k) lists, filled up with inf and -1 where all parts together have fewer rows.

    Raises:
      UsageError: for no part, parts of different numbers of queries, or k below 1.

    >>> near = NeighbourLists(np.array([[1.0, 3.0]], np.float32), np.array([[7, 2]]))
    >>> far = NeighbourLists(np.array([[1.0, 2.0]], np.float32), np.array([[5, 9]]))
    >>> merge_lists([near, far], 3).indices.tolist()
    [[5, 7, 9]]
    """
    check_k(k)
    if not parts:
        raise UsageError(
            "no lists were given to merge; NeighbourLists.empty(queries, k) is the zero"
        )
    counts = {len(part) for part in parts}
    if len(counts) > 1:
        raise UsageError(
            f"lists of different numbers of queries cannot be merged, got {sorted(counts)}; "
            "each part must answer the same queries"
        )
    distances = np.concatenate([part.distances for part in parts], axis=1)
    indices = np.concatenate([part.indices for part in parts], axis=1)
    order = np.lexsort((indices, distances), axis=1)[:, :k]
    merged = NeighbourLists.empty(len(distances), k)
    width = order.shape[1]
    merged.distances[:, :width] = np.take_along_axis(distances, order, axis=1)
    merged.indices[:, :width] = np.take_along_axis(indices, order, axis=1)
    return merged


def fill_missing(lists: NeighbourLists, valid: np.ndarray) -> NeighbourLists:
    """Give empty lists to the rows that have none.

    Args:
      lists: those of the M valid rows, in order.
      valid: (N,) bool, M of them true.

    Returns:
      N lists.

    Raises:
      UsageError: if M differs.

    >>> one = NeighbourLists(np.array([[0.5]], np.float32), np.array([[7]]))
    >>> fill_missing(one, np.array([False, True])).indices.tolist()
    [[-1], [7]]
    """
    if len(lists) != np.count_nonzero(valid):
        raise UsageError(
            f"{len(lists)} lists do not go with {np.count_nonzero(valid)} valid rows of "
            f"{len(valid)}; give one list for each valid row"
        )
    filled = NeighbourLists.empty(len(valid), lists.k)
    filled.distances[valid], filled.indices[valid] = lists.distances, lists.indices
    return filled


def lists_table(uids: pa.Array, lists: NeighbourLists) -> pa.Table:
    """Convert lists to a table: `uid, neighbours list<int64>, distances list<float>`.

    Args:
      uids: of the N queries.
      lists: theirs.

    Returns:
      N rows, nearest first within each; places without a neighbour are left out.
    """
    present = lists.indices >= 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(present.sum(axis=1))]).astype(np.int32))
    return pa.table(
        {
            "uid": uids,
            "neighbours": pa.ListArray.from_arrays(offsets, pa.array(lists.indices[present])),
            "distances": pa.ListArray.from_arrays(offsets, pa.array(lists.distances[present])),
        }
    )


def lists_from_table(table: pa.Table, k: int) -> NeighbourLists:
    """Read lists of length k back from a table of `lists_table`, none of whose lists is longer."""
    neighbours = table["neighbours"].combine_chunks()
    counts = neighbours.value_lengths().to_numpy()
    present = np.arange(k) < counts[:, None]
    lists = NeighbourLists.empty(len(counts), k)
    lists.indices[present] = neighbours.flatten().to_numpy()
    lists.distances[present] = table["distances"].combine_chunks().flatten().to_numpy()
    return lists
