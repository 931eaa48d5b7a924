"""Values that were learnt of single rows, found again by the place of the row and its uid."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from clipsieve.scorers.base import Arrays, PairBatch
from clipsieve.statistics.hash_sample import row_hashes
from clipsieve.statistics.row_arrays import RowArrays

_SHARDS, _STARTS, _HASHES = "rows.shards", "rows.starts", "rows.hashes"


def recorded_rows(state: RowArrays) -> dict[str, np.ndarray]:
    """Return arrays with which rows are found again, and the values collected of them.

    Args:
      state: of all rows; one of its arrays, `rows.hashes`, has the hashes of the uids.

    Returns:
      `rows.shards`: (S,) names of shards, rising; `rows.starts`: (S + 1,) int64, the rows of shard
      s are `starts[s]` to `starts[s + 1]`; and each array of the state, whole.
    """
    counts: dict[str, int] = {}
    for (shard, _), arrays in state.parts.items():
        counts[shard] = counts.get(shard, 0) + len(arrays[_HASHES])
    shards = sorted(counts)
    starts = np.concatenate([[0], np.cumsum([counts[shard] for shard in shards])])
    return {_SHARDS: np.array(shards), _STARTS: starts.astype(np.int64), **state.joined()}


class RecordedRows:
    """Finds rows in the arrays of `recorded_rows`."""

    def __init__(self, arrays: Arrays, seed: int) -> None:
        """Take the arrays, and the seed of the hashes in them."""
        self._shards: Mapping[str, int] = {
            str(name): at for at, name in enumerate(arrays[_SHARDS].tolist())
        }
        self._starts, self.hashes = arrays[_STARTS], arrays[_HASHES]
        self._seed = seed

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.hashes)

    def places(self, batch: PairBatch) -> np.ndarray:
        """Return the position of each row of a batch by shard and row alone.

        Returns:
          (N,) int64; -1 for a row that was not recorded.
        """
        places = np.full(len(batch), -1, np.int64)
        at = self._shards.get(batch.shard)
        if at is not None:
            first = int(self._starts[at]) + batch.start
            count = max(0, min(len(batch), int(self._starts[at + 1]) - first))
            places[:count] = first + np.arange(count)
        return places

    def positions(self, batch: PairBatch) -> np.ndarray:
        """Return the position of each row of a batch, if it has the uid it had.

        Returns:
          (N,) int64; -1 for a row that was not recorded: its shard came later, or was read again
          since and has a row of another uid in that place.
        """
        places = self.places(batch)
        recorded = np.flatnonzero(places >= 0)
        if len(recorded):
            hashes = row_hashes(batch.uid.take(pa.array(recorded)), self._seed)
            places[recorded[hashes != self.hashes[places[recorded]]]] = -1
        return places
