"""Groups of duplicates as they are learnt, kept and looked up."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from clipsieve.scorers.base import Arrays, PairBatch, score_column
from clipsieve.scorers.duplicates.keys import Keys
from clipsieve.statistics.best_rows import KeyRows, ordered_bytes
from clipsieve.statistics.hash_sample import row_hashes


@dataclass(frozen=True, slots=True)
class Groups:
    """Keys in groups of two or more rows.

    Attributes:
      keys: (n, 2) uint64, in order.
      groups: (n,) uint64 number of each key's group.
      sizes: (n,) int64 rows of its group.
      shards: names of shards in which representatives are, sorted.
      shard: (n,) int32 position in `shards` of its group's representative.
      rows: (n,) int64 its position in the shard.
      uids: (n,) uint64 hash of its uid: a shard that was embedded again may have another row there.
    """

    keys: np.ndarray
    groups: np.ndarray
    sizes: np.ndarray
    shards: np.ndarray
    shard: np.ndarray
    rows: np.ndarray
    uids: np.ndarray

    @classmethod
    def of(cls, best: KeyRows, centres: np.ndarray, numbers: np.ndarray) -> "Groups":
        """Make groups of keys around centres.

        Args:
          best: n keys with their best rows, by key.
          centres: (n,) position of the key that is the centre of each key's group; the best row of
            a centre is the best of its group.
          numbers: (n,) uint64 number of the group whose centre a key is; not read for others.

        Returns:
          The groups of two or more rows.
        """
        sizes = np.zeros(len(best), np.int64)
        np.add.at(sizes, centres, best.counts)
        kept = sizes[centres] > 1
        centres = centres[kept]
        used, shard = np.unique(best.shard[centres], return_inverse=True)
        names = [best.shards[at] for at in used]
        return cls(
            keys=best.keys[kept],
            groups=numbers[centres],
            sizes=sizes[centres],
            shards=np.array(names, np.str_),
            shard=shard.astype(np.int32),
            rows=best.rows[centres],
            uids=row_hashes(best.uids.take(pa.array(centres))),
        )

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "Groups":
        """Return the groups that `to_arrays` gave."""
        return cls(**{name: arrays[name] for name in cls.__dataclass_fields__})

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return all attributes, by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return (N,) positions of (N, 2) keys; -1 of those that are in no group."""
        first, second = self.keys[:, 0], self.keys[:, 1]
        at = np.searchsorted(first, keys[:, 0])
        found = np.full(len(keys), -1)
        left = np.flatnonzero(at < len(first))
        while len(left):  # more than once only where keys share their first half
            left = left[first[at[left]] == keys[left, 0]]
            same = second[at[left]] == keys[left, 1]
            found[left[same]] = at[left[same]]
            left = left[~same]
            at[left] += 1
            left = left[at[left] < len(first)]
        return found

    def columns(self, prefix: str, keys: Keys, batch: PairBatch) -> dict[str, np.ndarray]:
        """Return the columns of `group_columns` for the rows of a batch.

        Args:
          prefix: of the columns.
          keys: of the rows.
          batch: the rows.
        """
        rows = np.flatnonzero(keys.valid)
        at = self.find(keys.values[rows])
        rows, at = rows[at >= 0], at[at >= 0]
        columns = {name: np.full(len(batch), None, object) for name in ("group", "size", "first")}
        columns["size"][keys.valid], columns["first"][keys.valid] = 1, True
        columns["group"][rows], columns["size"][rows] = self.groups[at], self.sizes[at]
        columns["first"][rows] = self._are_representatives(rows, at, batch)
        return {f"{prefix}_{name}": values for name, values in columns.items()}

    def _are_representatives(
        self, rows: np.ndarray, at: np.ndarray, batch: PairBatch
    ) -> np.ndarray:
        """Whether rows of a batch, whose keys are at positions `at`, represent their groups."""
        are = np.zeros(len(rows), bool)
        shard = np.flatnonzero(self.shards == batch.shard)
        if len(shard):
            are = (self.shard[at] == shard[0]) & (self.rows[at] == rows + batch.start)
            uids = row_hashes(ordered_bytes(batch.uid.take(pa.array(rows[are]))))
            are[are] = self.uids[at[are]] == uids
        return are


def group_columns(prefix: str, what: str, source: str) -> pa.Schema:
    """Return the three columns of a kind of duplicates.

    Args:
      prefix: of their names.
      what: of rows in one group, e.g. "with equal image bytes".
      source: paper, or definition.
    """
    return pa.schema(
        [
            score_column(
                f"{prefix}_group",
                f"number of the group of rows {what}; NULL if the row is alone",
                "no order: rows of one group have the same number",
                "[0, 2**64)",
                source,
                pa.uint64(),
            ),
            score_column(
                f"{prefix}_size",
                f"rows {what} that were there when it was learnt; 1 if the row is alone",
                "higher is more often repeated",
                "[1, inf)",
                source,
                pa.int64(),
            ),
            score_column(
                f"{prefix}_first",
                f"whether the row represents its group of rows {what}: it has the best clip_score, "
                "of equal ones the lowest uid; true if the row is alone",
                "true is the one row of a group to keep",
                "false, true",
                source,
                pa.bool_(),
            ),
        ]
    )


def unique_numbers(keys: np.ndarray) -> np.ndarray:
    """Return a number for each key: its first half, or the next that is free.

    Args:
      keys: (n, 2) uint64, in order, all different.

    Returns:
      (n,) uint64, all different.

    >>> unique_numbers(np.array([[5, 1], [5, 2], [6, 0]], np.uint64)).tolist()
    [5, 6, 7]
    """
    numbers = keys[:, 0].copy()
    while (repeated := np.flatnonzero(numbers[1:] == numbers[:-1]) + 1).size:
        numbers[repeated] += np.uint64(1)
        numbers[:] = np.maximum.accumulate(numbers)
    return numbers
