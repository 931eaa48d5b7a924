"""The passes in which groups are learnt: first which keys can repeat, then their best rows."""

from dataclasses import dataclass

import numpy as np

from clipsieve.scorers.base import Context, Input, PairBatch
from clipsieve.scorers.duplicates.keys import KeyFilter, RowKeys
from clipsieve.statistics.best_rows import BestRows, KeyRows
from clipsieve.statistics.hashed_array import LocalArray
from clipsieve.statistics.slot_counts import SlotCounts, has_slot, slots_of


@dataclass(frozen=True, slots=True)
class CountSlots:
    """Counts, up to two, the rows whose keys fall into each slot.

    Attributes:
      source: of the keys, whose first half is spread evenly.
      bits: there are 2**bits slots.
    """

    source: RowKeys
    bits: int

    @property
    def needs(self) -> frozenset[Input]:
        """What the keys need."""
        return self.source.needs

    def observe(self, batch: PairBatch, context: Context) -> SlotCounts:
        """Return the counts of the rows of `batch` alone."""
        keys = self.source.keys(batch)
        return SlotCounts(self.bits, (slots_of(keys.values[keys.valid, 0], self.bits),))


@dataclass(frozen=True, slots=True)
class CollectRows:
    """Collects the rows of some keys: how many each has, and the best of them.

    Attributes:
      source: of the keys.
      chosen: which keys.
    """

    source: RowKeys
    chosen: KeyFilter

    @property
    def needs(self) -> frozenset[Input]:
        """What the keys need, and the scores that rows are ranked by."""
        return self.source.needs | {Input.CLIP_SCORE}

    def observe(self, batch: PairBatch, context: Context) -> BestRows:
        """Return the rows of `batch` alone."""
        assert batch.clip_score is not None
        keys = self.source.keys(batch)
        rows = np.flatnonzero(keys.valid)
        rows = rows[self.chosen(keys.values[rows])]
        collected = KeyRows.of(
            keys=keys.values[rows],
            scores=batch.clip_score[rows],
            uids=batch.uid.take(rows),
            shard=batch.shard,
            rows=rows + batch.start,
        )
        return BestRows((collected.by_key(),))


@dataclass(frozen=True, slots=True)
class InSlots:
    """Keys whose slot is set.

    Attributes:
      bitmap: (2**bits / 8,) uint8.
      bits: there are 2**bits slots.
    """

    bitmap: LocalArray
    bits: int

    def __call__(self, keys: np.ndarray) -> np.ndarray:
        """Return (N,) bool for (N, 2) keys."""
        return has_slot(self.bitmap.values, slots_of(keys[:, 0], self.bits))


@dataclass(frozen=True, slots=True)
class AmongValues:
    """Keys whose first half is one of some values.

    Attributes:
      values: (n,) uint64, rising.
    """

    values: LocalArray

    def __call__(self, keys: np.ndarray) -> np.ndarray:
        """Return (N,) bool for (N, 2) keys."""
        return positions(self.values.values, keys[:, 0]) >= 0


def positions(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return (N,) positions of N numbers among rising ones, each there once; -1 where it is not."""
    if not len(values):
        return np.full(len(wanted), -1)
    at = np.minimum(np.searchsorted(values, wanted), len(values) - 1)
    return np.where(values[at] == wanted, at, -1)
