"""For every key how many rows have it, and which of them is the best.

The best row is that of the highest score; a row without one comes last.  Of equal scores it is the
lowest uid, then the first shard by name, then the first row: so exactly one row is the best.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True, slots=True)
class KeyRows:
    """Rows, or groups of rows with one key of which only the best is named.

    Attributes:
      keys: (n, 2) uint64.
      counts: (n,) int64 rows with the key that are not counted elsewhere.
      scores: (n,) float32; -inf for a row without one.
      uids: n uids as `ordered_bytes` makes them.
      shards: names of shards, sorted, each once.
      shard: (n,) int32 positions in `shards`.
      rows: (n,) int64 positions in the shard.
    """

    keys: np.ndarray
    counts: np.ndarray
    scores: np.ndarray
    uids: pa.Array
    shards: tuple[str, ...]
    shard: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.keys)

    @classmethod
    def of(
        cls, keys: np.ndarray, scores: np.ndarray, uids: pa.Array, shard: str, rows: np.ndarray
    ) -> "KeyRows":
        """Take rows of one shard.

        Args:
          keys: (n, 2) uint64.
          scores: (n,) floating, NaN for none.
          uids: n uids of any type.
          shard: its name.
          rows: (n,) positions in it.
        """
        return cls(
            keys=keys,
            counts=np.ones(len(keys), np.int64),
            scores=np.where(np.isnan(scores), -np.inf, scores).astype(np.float32),
            uids=ordered_bytes(uids),
            shards=(shard,),
            shard=np.zeros(len(keys), np.int32),
            rows=rows.astype(np.int64),
        )

    def take(self, at: np.ndarray) -> "KeyRows":
        """Return some rows, in the order of `at`."""
        return replace(
            self,
            keys=self.keys[at],
            counts=self.counts[at],
            scores=self.scores[at],
            uids=self.uids.take(pa.array(at)),
            shard=self.shard[at],
            rows=self.rows[at],
        )

    def by_rank(self) -> np.ndarray:
        """Return the positions of all rows, the best first."""
        return np.lexsort(self._rank_keys())

    def by_key(self) -> "KeyRows":
        """Return every key once, in their order, with its best row and all its rows counted."""
        order = np.lexsort((*self._rank_keys(), self.keys[:, 1], self.keys[:, 0]))
        keys = self.keys[order]
        starts = np.flatnonzero(np.append(True, (keys[1:] != keys[:-1]).any(axis=1))[: len(keys)])
        best = self.take(order[starts])
        if not len(starts):
            return best
        return replace(best, counts=np.add.reduceat(self.counts[order], starts))

    def _rank_keys(self) -> tuple[np.ndarray, ...]:
        """What rows are ranked by, as `np.lexsort` takes it: the last counts first."""
        uid_ranks = pc.rank(self.uids, "ascending", tiebreaker="dense").to_numpy()
        return self.rows, self.shard, uid_ranks, -self.scores


def joined(parts: Sequence[KeyRows]) -> KeyRows:
    """Return the rows of one or more parts, one after the other."""
    shards = tuple(sorted({shard for part in parts for shard in part.shards}))
    places = {shard: at for at, shard in enumerate(shards)}
    codes = [np.array([places[s] for s in part.shards], np.int32)[part.shard] for part in parts]
    return KeyRows(
        keys=np.concatenate([part.keys for part in parts]),
        counts=np.concatenate([part.counts for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        uids=pa.concat_arrays([part.uids for part in parts]),
        shards=shards,
        shard=np.concatenate(codes),
        rows=np.concatenate([part.rows for part in parts]),
    )


@dataclass(frozen=True, slots=True)
class BestRows:
    """Rows by key; adding two collects the rows of both.

    Rows are brought together by key only when those that wait outnumber those that were, so that
    adding many states sorts every row a few times and not once for each state.

    Attributes:
      parts: one or more, the longest first.
    """

    parts: tuple[KeyRows, ...]

    def __add__(self, other: "BestRows") -> "BestRows":
        """Return the rows of both."""
        parts = sorted([*self.parts, *other.parts], key=len, reverse=True)
        if sum(map(len, parts[1:])) <= len(parts[0]):
            return BestRows(tuple(parts))
        return BestRows((joined(parts).by_key(),))

    def by_key(self) -> KeyRows:
        """Return every key once, in their order: the same however the parts were added."""
        return joined(self.parts).by_key()


def ordered_bytes(uids: pa.Array) -> pa.Array:
    """Return uids as bytes whose order is that of the uids: text in UTF-8, numbers big-endian.

    Args:
      uids: text, bytes, or integers; NULL stays NULL, and is ranked last.

    >>> low, high = ordered_bytes(pa.array([-1, 256])).to_pylist()
    >>> low < high
    True
    """
    if not pa.types.is_integer(uids.type):
        return uids.cast(pa.large_binary())
    values = uids.fill_null(0).to_numpy(zero_copy_only=False)
    numbers = values.astype(np.uint64)
    if pa.types.is_signed_integer(uids.type):
        numbers = values.astype(np.int64).view(np.uint64) ^ np.uint64(1 << 63)
    raw = pa.py_buffer(numbers.astype(">u8").tobytes())
    packed = pa.Array.from_buffers(pa.binary(8), len(uids), [None, raw]).cast(pa.large_binary())
    return pc.if_else(uids.is_valid(), packed, pa.scalar(None, pa.large_binary()))
