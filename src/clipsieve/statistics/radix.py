"""The value of a given rank among all values of a dataset, exactly, from histograms that add up.

A value is mapped to an unsigned integer whose order is that of the values.  A pass counts one digit
of 16 bits, the highest first, of the values that agree with the digits known so far; after two
passes (32-bit values) or four (64-bit values) the value itself is known.  Nothing is sorted and no
value is kept: the state of a pass has at most 65,536 counts a group.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

DIGIT_BITS = 16
_DIGITS = 1 << DIGIT_BITS
#: The one group of a quantity without groups.
ALL_ROWS: tuple[str | None, ...] = (None,)


def ordered_bits(values: np.ndarray) -> np.ndarray:
    """Map numbers to unsigned integers of the same order.

    Args:
      values: (N,) of a floating type of 32 or 64 bits without NaN, or of integers.  -0.0 counts
        as 0.0.

    Returns:
      (N,) uint32, or uint64 for types of 64 bits.

    >>> ordered_bits(np.array([-1.5, 0.0, 2.0], np.float32)).argsort().tolist()
    [0, 1, 2]
    """
    if values.dtype.itemsize < 4:
        values = values.astype(np.int32)
    unsigned = np.dtype(f"u{values.dtype.itemsize}")
    sign = unsigned.type(1 << (8 * unsigned.itemsize - 1))
    if values.dtype.kind == "u":
        return values
    if values.dtype.kind == "i":
        return np.asarray(values.view(unsigned) ^ sign)
    bits = (values + values.dtype.type(0)).view(unsigned)
    return np.asarray(np.where(bits & sign, ~bits, bits | sign))


def values_of_bits(bits: Sequence[int] | np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Return the (N,) numbers of `dtype` that `ordered_bits` maps to `bits`."""
    wide = np.dtype(np.int32) if dtype.itemsize < 4 else dtype
    plain = np.array(bits, f"u{wide.itemsize}")
    sign = plain.dtype.type(1 << (8 * wide.itemsize - 1))
    if wide.kind == "i":
        plain = plain ^ sign
    elif wide.kind == "f":
        plain = np.where(plain & sign, plain ^ sign, ~plain)
    return plain.view(wide).astype(dtype)


@dataclass(frozen=True, slots=True)
class DigitCounts:
    """How many values of each group have each digit; adding two counts the rows of both.

    Attributes:
      groups: names of the groups, sorted, None first.
      keys: (M,) int64, ascending: position of the group times 65,536, plus the digit.
      counts: (M,) int64, of each key, at least 1.
    """

    groups: tuple[str | None, ...] = ()
    keys: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    counts: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def from_digits(
        cls, groups: tuple[str | None, ...], codes: np.ndarray, digits: np.ndarray
    ) -> "DigitCounts":
        """Count digits.

        Args:
          groups: names, sorted, None first.
          codes: (N,) position of each value's group.
          digits: (N,) digit of each value, below 65,536.
        """
        if not len(digits):
            return cls()
        keys = codes.astype(np.int64) * _DIGITS + digits
        if len(groups) == 1:  # a histogram: no sort
            counts = np.bincount(digits, minlength=_DIGITS)
            present = np.flatnonzero(counts)
            return cls(groups, present.astype(np.int64), counts[present].astype(np.int64))
        present, counts = np.unique(keys, return_counts=True)
        return cls(groups, present, counts.astype(np.int64))

    def __add__(self, other: "DigitCounts") -> "DigitCounts":
        """Return the counts of the rows of both."""
        if not len(other.keys):
            return self
        if not len(self.keys):
            return other
        groups = self.groups
        keys = [self.keys, other.keys]
        if self.groups != other.groups:
            groups = sorted_groups({*self.groups, *other.groups})
            places = {group: place for place, group in enumerate(groups)}
            keys = [_moved(part, places) for part in (self, other)]
        both, inverse = np.unique(np.concatenate(keys), return_inverse=True)
        counts = np.bincount(
            inverse, np.concatenate([self.counts, other.counts]), minlength=len(both)
        )
        return DigitCounts(groups, both, counts.astype(np.int64))


@dataclass(frozen=True, slots=True)
class RankSearch:
    """How far the search for the values of given ranks has come.

    Attributes:
      bits: of a value: 32 or 64.
      known: bits that are known, the highest.
      groups: names, sorted, None first; () before the first pass.
      prefixes: the known bits of each group's value.
      ranks: rank of each group's value, descending from 1, among those that agree with them; 0 for
        a group without one.
      rows: values of each group.
    """

    bits: int
    known: int = 0
    groups: tuple[str | None, ...] = ()
    prefixes: tuple[int, ...] = ()
    ranks: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether the values are known."""
        return self.known == self.bits

    def observe(
        self, bits: np.ndarray, groups: tuple[str | None, ...], codes: np.ndarray
    ) -> DigitCounts:
        """Count the next digit of the values that may still be the one.

        Args:
          bits: (N,) from `ordered_bits`.
          groups: names of the groups of these values, sorted, None first.
          codes: (N,) position of each value's group among them.
        """
        if self.known:
            places = {group: place for place, group in enumerate(self.groups)}
            prefixes = np.array([self.prefixes[places[group]] for group in groups], np.uint64)
            rest = np.uint64(self.bits - self.known)
            agreeing = (bits.astype(np.uint64) >> rest) == prefixes[codes]
            bits, codes = bits[agreeing], codes[agreeing]
        shift = bits.dtype.type(self.bits - self.known - DIGIT_BITS)
        digits = ((bits >> shift) & bits.dtype.type(_DIGITS - 1)).astype(np.int64)
        return DigitCounts.from_digits(groups, codes, digits)

    def narrowed(self, counts: DigitCounts, rank: Callable[[int], int]) -> "RankSearch":
        """Return the search after a pass.

        Args:
          counts: of the pass, over all rows.
          rank: maps the number of values of a group to the rank that is searched for.
        """
        first = self.known == 0
        groups = counts.groups if first else self.groups
        ends = np.searchsorted(counts.keys, np.arange(len(counts.groups) + 1) * _DIGITS)
        parts = {
            group: np.arange(ends[place], ends[place + 1])
            for place, group in enumerate(counts.groups)
        }
        prefixes, ranks, rows = [], [], []
        for place, group in enumerate(groups):
            own = parts.get(group, np.empty(0, np.int64))[::-1]
            above = np.cumsum(counts.counts[own])
            total = int(above[-1]) if len(above) else 0
            searched = rank(total) if first else self.ranks[place]
            at = int(np.searchsorted(above, searched))
            digit = int(counts.keys[own[at]]) % _DIGITS
            before = int(above[at - 1]) if at else 0
            prefix = 0 if first else self.prefixes[place]
            prefixes.append(prefix << DIGIT_BITS | digit)
            ranks.append(searched - before)
            rows.append(total if first else self.rows[place])
        return RankSearch(
            self.bits, self.known + DIGIT_BITS, groups, tuple(prefixes), tuple(ranks), tuple(rows)
        )

    def to_json(self) -> dict[str, Any]:
        """Return the search as plain JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "RankSearch":
        """Return the search that `to_json` gave."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content.items()
        }
        return cls(**fields)


def sorted_groups(groups: Sequence[str | None] | set[str | None]) -> tuple[str | None, ...]:
    """Return names of groups in order, None first."""
    return tuple(sorted(groups, key=lambda group: (group is not None, group or "")))


def _moved(counts: DigitCounts, places: Mapping[str | None, int]) -> np.ndarray:
    """Return the keys of counts under other positions of their groups."""
    moved = np.array([places[group] for group in counts.groups], np.int64)
    return np.asarray(moved[counts.keys >> DIGIT_BITS] * _DIGITS + (counts.keys & (_DIGITS - 1)))
