"""Which of many keys can occur twice: a saturating count of hashed slots.

Every key falls into a slot by its hash.  A key whose slot was hit once is alone; one whose slot was
hit twice or more may not be.  So the keys that occur twice are found in two passes, and the second
collects little else.
"""

from dataclasses import dataclass

import numpy as np

#: Slots a row, at least: of the keys that are alone, one in 16 shares its slot with another.
_SLOTS_A_ROW = 16
_LEAST_BITS, _MOST_BITS = 10, 33


def slot_bits(rows: int) -> int:
    """Return the binary logarithm of the number of slots for so many rows.

    At most 33, which is 2 GiB of counts: of more rows more share a slot by chance.

    >>> slot_bits(1_000_000)
    24
    """
    return min(_MOST_BITS, max(_LEAST_BITS, (_SLOTS_A_ROW * rows - 1).bit_length()))


def slots_of(hashes: np.ndarray, bits: int) -> np.ndarray:
    """Return the slots of 64-bit hashes: their highest bits, as uint64."""
    return hashes >> np.uint64(64 - bits)


@dataclass(frozen=True, slots=True)
class SlotCounts:
    """Slots hit once, and slots hit twice or more; adding two counts the hits of both.

    Hits are kept as they come until they outgrow the bitmaps, so that the state of a few rows is
    small and adding many costs what their hits cost.

    Attributes:
      bits: there are 2**bits slots.
      pending: arrays of slots, uint64, one for each hit.
      seen: (2, 2**bits / 8) uint8 bitmaps of the other hits: once or more, twice or more; None if
        there are none.
    """

    bits: int
    pending: tuple[np.ndarray, ...] = ()
    seen: np.ndarray | None = None

    def __add__(self, other: "SlotCounts") -> "SlotCounts":
        """Return the counts of both."""
        seen = self.seen if other.seen is None else other.seen
        if self.seen is not None and other.seen is not None:
            once, twice = self.seen | other.seen
            seen = np.stack([once, twice | (self.seen[0] & other.seen[0])])
        total = SlotCounts(self.bits, self.pending + other.pending, seen)
        outgrown = sum(hits.nbytes for hits in total.pending) > 2 * 2**self.bits // 8
        return total._settled() if outgrown else total

    def repeated(self) -> np.ndarray:
        """Return the bitmap of slots hit twice or more, (2**bits / 8) uint8."""
        seen = self._settled().seen
        assert seen is not None
        return np.asarray(seen[1])

    def _settled(self) -> "SlotCounts":
        """Return the same counts with no hit pending."""
        seen = np.zeros((2, 2**self.bits // 8), np.uint8) if self.seen is None else self.seen.copy()
        if any(map(len, self.pending)):
            slots, hits = np.unique(np.concatenate(self.pending), return_counts=True)
            again = (hits > 1) | has_slot(seen[0], slots)
            _set_slots(seen[1], slots[again])
            _set_slots(seen[0], slots)
        return SlotCounts(self.bits, (), seen)


def has_slot(bitmap: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """Return (N,) bool: whether the bit of each slot is set in a bitmap."""
    bits = 1 << (slots & np.uint64(7)).astype(np.uint8)
    return np.asarray(bitmap[slots >> np.uint64(3)] & bits != 0)


def _set_slots(bitmap: np.ndarray, slots: np.ndarray) -> None:
    """Set the bits of slots, which rise."""
    if len(slots):
        places, bits = slots >> np.uint64(3), 1 << (slots & np.uint64(7)).astype(np.uint8)
        starts = np.flatnonzero(np.append(True, places[1:] != places[:-1]))
        bitmap[places[starts]] |= np.bitwise_or.reduceat(bits.astype(np.uint8), starts)
