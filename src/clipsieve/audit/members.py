"""The rows of candidate groups, collected in one pass over keys and image vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from clipsieve.audit.candidates import Candidate
from clipsieve.audit.keys import NO_KEY, Kind, RowKeys

#: Perceptual hashes that differ in at most so many of 64 bits are of one picture.
SAME_PICTURE_BITS = 6
#: Pictures of a group that are told apart; of more, each row counts as one.
MOST_PICTURES = 256


@dataclass(frozen=True, slots=True)
class Members:
    """The rows of all candidates, each once; M rows in the order of shards and rows.

    Attributes:
      shards: (M,) int64 numbers of shards.
      rows: (M,) int64 numbers of rows in their shard.
      scores: (M, W) float64 normal scores, NaN where there are none.
      surprises: (M, W) float64 nats of surprise.
      values: (M, W) float32 values of the witnesses.
      captions: (M,) uint64 keys.
      pictures: (M,) uint64: perceptual hashes, or keys of the bytes without one.
      has_bits: (M,) bool: which of them are hashes.
      groups: for each candidate the numbers of its members, rising.
    """

    shards: np.ndarray
    rows: np.ndarray
    scores: np.ndarray
    surprises: np.ndarray
    values: np.ndarray
    captions: np.ndarray
    pictures: np.ndarray
    has_bits: np.ndarray
    groups: Sequence[np.ndarray]


@dataclass
class MembersBuilder:
    """Collects members shard by shard.

    Attributes:
      candidates: the groups; those of `Kind.PICTURE` by the number of their centre.
    """

    candidates: Sequence[Candidate]
    _lookups: Mapping[Kind, tuple[np.ndarray, np.ndarray]] = field(init=False)
    _parts: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    _pairs: list[np.ndarray] = field(default_factory=list)
    _members: int = 0

    def __post_init__(self) -> None:
        """Sort the keys of each kind."""
        lookups = {}
        for kind in {candidate.kind for candidate in self.candidates} - {Kind.PICTURE}:
            numbers = [n for n, c in enumerate(self.candidates) if c.kind is kind]
            keys = np.array([self.candidates[n].key for n in numbers], np.uint64)
            order = np.argsort(keys)
            lookups[kind] = keys[order], np.array(numbers)[order]
        self._lookups = lookups
        self._pictures = {c.key: n for n, c in enumerate(self.candidates) if c.kind is Kind.PICTURE}

    def add(
        self,
        shard: int,
        keys: RowKeys,
        witnesses: Sequence[np.ndarray],
        centres: np.ndarray,
    ) -> None:
        """Take the members among the N rows of a shard.

        Args:
          shard: its number.
          keys: of its rows.
          witnesses: (N, W) normal scores, nats of surprise and values.
          centres: (N,) number of the representative near each picture; -1 without one.
        """
        rows, groups = self._memberships(keys, centres)
        if not len(rows):
            return
        members, places = np.unique(rows, return_inverse=True)
        self._pairs.append(np.stack([groups, places + self._members]))
        self._members += len(members)
        has_bits = keys.has_bits[members]
        self._parts.append(
            (
                np.full(len(members), shard, np.int64),
                members,
                *(column[members] for column in witnesses),
                keys.single[Kind.CAPTION][members],
                np.where(has_bits, keys.bits[members], keys.single[Kind.IMAGE_BYTES][members]),
                has_bits,
            )
        )

    def _memberships(self, keys: RowKeys, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(P,) rows and (P,) candidates that they belong to."""
        found_rows, found_groups = [], []
        for kind, (wanted, numbers) in self._lookups.items():
            rows, own = keys.of_kind(kind)
            places = np.minimum(np.searchsorted(wanted, own), len(wanted) - 1)
            hits = wanted[places] == own
            found_rows.append(rows[hits])
            found_groups.append(numbers[places[hits]])
        if self._pictures:
            rows = np.flatnonzero(centres >= 0)
            found_rows.append(rows)
            found_groups.append(np.array([self._pictures[n] for n in centres[rows].tolist()], int))
        if not found_rows:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        return np.concatenate(found_rows), np.concatenate(found_groups)

    def build(self, witnesses: int) -> Members:
        """Return the members of so many witnesses."""
        empty = np.zeros(0, np.int64)
        if not self._parts:
            none = np.zeros((0, witnesses))
            keys = empty.astype(np.uint64)
            groups = [empty for _ in self.candidates]
            return Members(empty, empty, none, none, none, keys, keys, empty.astype(bool), groups)
        columns = [np.concatenate(column) for column in zip(*self._parts, strict=True)]
        owners, members = np.concatenate(self._pairs, axis=1)
        order = np.lexsort((members, owners))
        ends = np.searchsorted(owners[order], np.arange(1, len(self.candidates)))
        groups = np.split(members[order], ends)
        shards, rows, scores, nats, values, captions, pictures, has_bits = columns
        return Members(shards, rows, scores, nats, values, captions, pictures, has_bits, groups)


def number_pictures(pictures: np.ndarray, has_bits: np.ndarray) -> np.ndarray:
    """Number the pictures of a group: near hashes are one picture.

    Hashes are taken in rising order, and each takes all that are near it: no chains.

    Args:
      pictures: (M,) uint64 hashes, or keys of the bytes; `NO_KEY` without either.
      has_bits: (M,) bool: which are hashes.

    Returns:
      (M,) int64 numbers; a row without hash and bytes has one of its own.
    """
    numbers = np.full(len(pictures), -1, np.int64)
    hashes, places = np.unique(pictures[has_bits], return_inverse=True)
    hash_numbers = np.full(len(hashes), -1, np.int64)
    count = 0
    for place in range(len(hashes)):
        if hash_numbers[place] >= 0:
            continue
        near = hash_numbers < 0
        if count < MOST_PICTURES:
            near &= np.bitwise_count(hashes ^ hashes[place]) <= SAME_PICTURE_BITS
            hash_numbers[near] = count
        else:
            hash_numbers[near] = count + np.arange(np.count_nonzero(near))
        count = int(hash_numbers.max()) + 1
    numbers[has_bits] = hash_numbers[places]
    with_bytes = ~has_bits & (pictures != NO_KEY)
    different, places = np.unique(pictures[with_bytes], return_inverse=True)
    numbers[with_bytes] = count + places
    alone = numbers < 0
    numbers[alone] = count + len(different) + np.arange(np.count_nonzero(alone))
    return numbers
