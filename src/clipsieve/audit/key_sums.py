"""Sums of normal scores over the rows of each key: a state of any number of rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Scores are summed as whole multiples of 2**-24, so that no order of rows changes a sum.
SCALE = float(1 << 24)


@dataclass(frozen=True, slots=True)
class KeySums:
    """What is known of the rows of each of K keys; adding two takes the rows of both.

    Attributes:
      keys: (K,) uint64, rising.
      rows: (K,) int64: rows with the key.
      scored: (K, W) int64: those with a value of each witness.
      scores: (K, W) int64: sums of their normal scores, in 1 / `SCALE`.
      surprises: (K, W) int64: sums of their surprise, in nats / `SCALE`.
    """

    keys: np.ndarray
    rows: np.ndarray
    scored: np.ndarray
    scores: np.ndarray
    surprises: np.ndarray

    @classmethod
    def from_rows(cls, keys: np.ndarray, scores: np.ndarray, surprises: np.ndarray) -> "KeySums":
        """Sum (N, W) float64 scores and surprises, NaN if there are none, by (N,) uint64 keys."""
        present = ~np.isnan(scores)
        return _summed(
            keys,
            np.ones(len(keys), np.int64),
            present.astype(np.int64),
            fixed(np.where(present, scores, 0.0)),
            fixed(np.where(present, surprises, 0.0)),
        )

    def __add__(self, other: "KeySums") -> "KeySums":
        """Return the sums over the rows of both."""
        return joined([self, other])

    def among(self, chosen: np.ndarray) -> "KeySums":
        """The keys that `chosen` (K,) bool marks."""
        parts = (self.keys, self.rows, self.scored, self.scores, self.surprises)
        return KeySums(*(part[chosen] for part in parts))


def joined(parts: Sequence[KeySums]) -> KeySums:
    """Add at least one state."""
    return _summed(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("keys", "rows", "scored", "scores", "surprises")
        )
    )


def fixed(values: np.ndarray) -> np.ndarray:
    """Numbers as whole multiples of 1 / `SCALE`, int64."""
    return np.rint(values * SCALE).astype(np.int64)


def exact_total(values: np.ndarray) -> float:
    """Sum of the (N,) values that are not NaN, the same in any order."""
    return int(fixed(values[~np.isnan(values)]).sum()) / SCALE


class KeySumsBuilder:
    """Adds up many states; parts wait until together they outgrow what is summed."""

    def __init__(self, witnesses: int) -> None:
        """Nothing yet, of so many witnesses."""
        none, wide = np.zeros(0, np.int64), np.zeros((0, witnesses), np.int64)
        self._total = KeySums(none.astype(np.uint64), none, wide, wide, wide)
        self._waiting: list[KeySums] = []
        self._waiting_keys = 0

    def add(self, part: KeySums) -> None:
        """Take a state."""
        self._waiting.append(part)
        self._waiting_keys += len(part.keys)
        if self._waiting_keys > max(len(self._total.keys), 100_000):
            self.total()

    def total(self) -> KeySums:
        """Return the sum of all states so far."""
        if self._waiting:
            self._total = joined([self._total, *self._waiting])
            self._waiting, self._waiting_keys = [], 0
        return self._total


def _summed(keys: np.ndarray, *columns: np.ndarray) -> KeySums:
    """Sum columns over equal keys."""
    if not len(keys):
        return KeySums(keys, *columns)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return KeySums(keys[starts], *(np.add.reduceat(part[order], starts) for part in columns))
