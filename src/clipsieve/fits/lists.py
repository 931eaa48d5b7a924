"""Neighbour lists of a shard's rows: with gaps where a row has none, and as a table."""

import numpy as np
import pyarrow as pa

from clipsieve.neighbours.lists import Neighbours


def spread(found: Neighbours, valid: np.ndarray) -> Neighbours:
    """Lists of all rows from those of the rows that have one.

    Args:
      found: lists of the M rows that are valid, in order.
      valid: (N,) bool, M of them true.

    Returns:
      N lists; those of rows that are not valid are empty.
    """
    lists = Neighbours.none(len(valid), found.k)
    lists.distances[valid], lists.indices[valid] = found.distances, found.indices
    return lists


def lists_table(uids: pa.Array, lists: Neighbours) -> pa.Table:
    """Lists as a table: `uid, neighbours list<int64>, distances list<float>`, nearest first.

    A neighbour is the number of a vector: rows of the shards of `fit.json` numbered through, then
    their captions.
    """
    there = lists.indices >= 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32))
    return pa.table(
        {
            "uid": uids,
            "neighbours": pa.ListArray.from_arrays(offsets, pa.array(lists.indices[there])),
            "distances": pa.ListArray.from_arrays(offsets, pa.array(lists.distances[there])),
        }
    )


def lists_from(table: pa.Table, k: int) -> Neighbours:
    """The lists that `lists_table` wrote, of k columns."""
    neighbours = table["neighbours"].combine_chunks()
    counts = neighbours.value_lengths().to_numpy()
    there = np.arange(k) < counts[:, None]
    lists = Neighbours.none(len(counts), k)
    lists.indices[there] = neighbours.flatten().to_numpy()
    lists.distances[there] = table["distances"].combine_chunks().flatten().to_numpy()
    return lists
