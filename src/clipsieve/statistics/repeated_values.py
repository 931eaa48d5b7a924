"""The distinct 64-bit values of all rows, and which of them occur more than once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class RepeatedValues:
    """Distinct values; adding two joins them.

    Values are sorted again only when those that wait outnumber those that were sorted.

    Attributes:
      parts: one or more pairs of (n,) uint64 values, rising, and (n,) bool: whether a value occurs
        twice or more in its part; the longest part first.
    """

    parts: tuple[tuple[np.ndarray, np.ndarray], ...]

    @classmethod
    def of(cls, values: np.ndarray) -> "RepeatedValues":
        """Take (N,) uint64 values as they come."""
        distinct, counts = np.unique(values, return_counts=True)
        return cls(((distinct, counts > 1),))

    def __add__(self, other: "RepeatedValues") -> "RepeatedValues":
        """Return the values of both."""
        parts = sorted([*self.parts, *other.parts], key=lambda part: len(part[0]), reverse=True)
        if sum(len(values) for values, _ in parts[1:]) <= len(parts[0][0]):
            return RepeatedValues(tuple(parts))
        return RepeatedValues((_joined(parts),))

    def sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (n,) distinct values, rising, and (n,) bool: whether each occurs more than once.

        The same however the parts were added.
        """
        return _joined(self.parts)


def _joined(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    values = np.concatenate([part for part, _ in parts])
    order = np.argsort(values, kind="stable")
    values, repeated = values[order], np.concatenate([again for _, again in parts])[order]
    starts = np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(values)])
    if not len(starts):
        return values, repeated
    counts = np.diff(np.append(starts, len(values)))
    return values[starts], np.logical_or.reduceat(repeated, starts) | (counts > 1)
