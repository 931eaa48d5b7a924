"""The passes of an audit over a dataset, and what they find.

1. Narrow columns of every row: counts of each witness, and the keys of every row.
2. Keys: sums by key, of which come the candidates.  Nothing is read again.
3. Image vectors of every row, once: near pictures, vector sums of copies, members of candidates.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np

from clipsieve.audit.candidates import (
    Candidate,
    find_candidates,
    groups_of_kind,
    tests_of_kinds,
)
from clipsieve.audit.copies import KINDS, Copies, CopiesBuilder, most_frequent
from clipsieve.audit.data import AuditData
from clipsieve.audit.evidence import CopyShares, Tests
from clipsieve.audit.groups import Assessor, SuspectGroup, copied_pictures, disjoint_groups
from clipsieve.audit.key_sums import KeySums, KeySumsBuilder
from clipsieve.audit.keys import Kind, RowKeys, row_keys
from clipsieve.audit.members import Members, MembersBuilder
from clipsieve.audit.near import nearest
from clipsieve.audit.ordinary import NO_COUNTS, OrdinaryRows, ScoreCounts
from clipsieve.audit.pictures import NO_CENTRES, complete_candidates, find_centres, picture_tests
from clipsieve.audit.witnesses import LOW_SIMILARITY, SawData, Witness
from clipsieve.statistics.slot_counts import SlotCounts, has_slot, slot_bits, slots_of
from clipsieve.threads import one_core_products

#: Cosine from which two pictures are near: by the bundled model, an edited copy reaches it.
NEAR_COSINE = 0.97
#: Keys and values that are kept in memory.
SPOOL_BYTES = 256 * 2**20
_ARRAYS = ("word_rows", "word_keys", "bits", "has_bits")
#: Words of a row, for the size of their slots.
_WORDS_A_ROW = 8


@dataclass(frozen=True, slots=True)
class Findings:
    """What an audit found.

    Attributes:
      groups: most evidence first.
      members: rows of all candidates.
      ordinary: the ordinary rows of each witness.
      tests: by kind.
      copies: by kind of key.
      rows: of the dataset, scored or not.
      shards: their names.
    """

    groups: tuple[SuspectGroup, ...]
    members: Members
    ordinary: tuple[OrdinaryRows, ...]
    tests: Mapping[Kind, Tests]
    copies: Mapping[Kind, Copies]
    rows: int
    shards: tuple[str, ...]


def survey(
    data: AuditData,
    witnesses: Sequence[Witness],
    saw_data: SawData = SawData.UNKNOWN,
    averaged: Sequence[str] = (),
    near_cosine: float = NEAR_COSINE,
    check: Callable[[], None] = lambda: None,
) -> Findings:
    """Find groups of suspicious rows, and copies.

    Keys, scores and sums are whole numbers, so the findings depend on the rows alone: not on the
    order in which shards come, nor on how many threads read.  Memory is what rows have in
    common: keys of repeated captions and pictures, words, and the members of candidates; the keys
    of single rows wait in a temporary file.

    Args:
      data: the dataset.
      witnesses: its columns, low CLIP similarity among them or not.
      saw_data: whether the scoring model was trained on it.
      averaged: columns whose means copies have.
      near_cosine: from which pictures are near, in (0, 1].
      check: is called for each shard, and may raise to stop.
    """
    shards = data.shards()
    with tempfile.TemporaryDirectory(prefix="clipsieve-audit-") as folder, one_core_products():
        first = _FirstPass(data, witnesses, averaged, _Spool(Path(folder)))
        first.run(shards, check)
        return _SecondPass(data, first, saw_data, near_cosine).run(shards, check)


class _Spool:
    """Keys and values of shards, so that captions are read and normalised once.

    They are kept in memory until they outgrow `SPOOL_BYTES`; further shards go to files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: dict[int, tuple[RowKeys, Mapping[str, np.ndarray]]] = {}
        self._bytes = 0

    def save(self, shard: int, keys: RowKeys, values: Mapping[str, np.ndarray]) -> None:
        """Keep what is known of a shard."""
        arrays = {f"single.{kind}": column for kind, column in keys.single.items()}
        arrays |= {f"value.{name}": column for name, column in values.items()}
        arrays |= {name: getattr(keys, name) for name in _ARRAYS}
        size = sum(column.nbytes for column in arrays.values())
        if self._bytes + size <= SPOOL_BYTES:
            self._kept[shard] = keys, values
            self._bytes += size
        else:
            np.savez(self._folder / f"{shard}.npz", allow_pickle=False, **arrays)

    def load(self, shard: int) -> tuple[RowKeys, Mapping[str, np.ndarray]]:
        """Return what is known of a shard."""
        if shard in self._kept:
            return self._kept[shard]
        with np.load(self._folder / f"{shard}.npz", allow_pickle=False) as arrays:
            named = dict(arrays)
        single = {Kind(name): column for name, column in _beginning(named, "single.")}
        return RowKeys(single, *(named[name] for name in _ARRAYS)), dict(
            _beginning(named, "value.")
        )


def _beginning(arrays: Mapping[str, np.ndarray], prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays whose names begin with `prefix`, without it."""
    for name, column in arrays.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), column


class _FirstPass:
    """Counts of witnesses, and keys; see the module."""

    def __init__(
        self,
        data: AuditData,
        witnesses: Sequence[Witness],
        averaged: Sequence[str],
        spool: _Spool,
    ) -> None:
        self.data, self.witnesses, self.averaged, self.spool = data, witnesses, averaged, spool
        self.columns = list(dict.fromkeys([w.column for w in witnesses] + list(averaged)))
        self.rows = 0
        self.counts: list[ScoreCounts] = [NO_COUNTS for _ in witnesses]

    def run(self, shards: Sequence[str], check: Callable[[], None]) -> None:
        """Read every shard."""

        def read(name: str) -> tuple[RowKeys, Mapping[str, np.ndarray]]:
            columns = self.data.columns(name, self.columns)
            keys = row_keys(
                columns.captions,
                columns.urls,
                columns.image_bytes,
                columns.image_hashes,
                columns.has_hash,
            )
            return keys, columns.values

        counts: list[list[ScoreCounts]] = [[] for _ in self.witnesses]
        for number, (keys, values) in enumerate(self.data.each(read, shards)):
            check()
            self.rows += len(keys)
            for witness, parts in zip(self.witnesses, counts, strict=True):
                parts.append(ScoreCounts.from_values(values[witness.column]))
            self.spool.save(number, keys, values)
        self.counts = [reduce(ScoreCounts.__add__, parts, NO_COUNTS) for parts in counts]


class _SecondPass:
    """Sums, candidates, members and copies; see the module."""

    def __init__(
        self, data: AuditData, first: _FirstPass, saw_data: SawData, near_cosine: float
    ) -> None:
        self._data, self._first, self._spool = data, first, first.spool
        self._saw_data, self._near_cosine = saw_data, near_cosine
        self._ordinary = tuple(
            OrdinaryRows.from_counts(witness, counts)
            for witness, counts in zip(first.witnesses, first.counts, strict=True)
        )

    def run(self, shards: Sequence[str], check: Callable[[], None]) -> Findings:
        """Find everything."""
        witnesses = self._first.witnesses
        sums = self._sums(len(shards), check)
        groups = {
            kind: groups_of_kind(kind, total, self._first.rows) for kind, total in sums.items()
        }
        tests = tests_of_kinds(groups, witnesses, self._saw_data)
        candidates = find_candidates(groups, tests)
        centres = NO_CENTRES
        if LOW_SIMILARITY in witnesses:
            similarity = self._ordinary[witnesses.index(LOW_SIMILARITY)]
            centres = find_centres(
                self._data, shards, self._spool.load, similarity, self._near_cosine
            )
        copies = {
            kind: CopiesBuilder(
                kind, most_frequent(sums[kind].keys, sums[kind].rows), self._first.averaged
            )
            for kind in KINDS
        }
        candidates += [Candidate(Kind.PICTURE, n, 0) for n in range(len(centres.vectors))]
        builder, sample = MembersBuilder(candidates), KeySumsBuilder(len(witnesses))

        def read(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
            unit, has_vector = self._data.vectors(name)
            numbers, drawn = (np.full(len(unit), -1, np.int64) for _ in range(2))
            numbers[has_vector] = nearest(unit[has_vector], centres.vectors, self._near_cosine)
            drawn[has_vector] = nearest(unit[has_vector], centres.sample, self._near_cosine)
            return unit, has_vector, numbers, drawn

        for shard, (unit, has_vector, numbers, drawn) in enumerate(self._data.each(read, shards)):
            check()
            keys, values = self._spool.load(shard)
            own = np.stack([values[w.column] for w in witnesses], axis=1)
            scores, nats = self._scores(values), self._surprises(values)
            builder.add(shard, keys, (scores, nats, own), numbers)
            near = drawn >= 0
            sample.add(KeySums.from_rows(drawn[near].astype(np.uint64), scores[near], nats[near]))
            for each in copies.values():
                each.add(shard, keys, values, unit, has_vector)
        members = builder.build(len(witnesses))
        candidates, middles = complete_candidates(candidates, members, centres)
        tests[Kind.PICTURE] = picture_tests(
            tests[Kind.PICTURE], candidates, centres.suspects, sample.total()
        )
        pictures = sums[Kind.IMAGE_HASH if len(sums[Kind.IMAGE_HASH].keys) else Kind.IMAGE_BYTES]
        repeated = np.sort(pictures.rows[pictures.rows > 1])
        shares = CopyShares(repeated, self._first.rows)
        copied = copied_pictures(candidates, members, tests, shares)
        assessor = Assessor(members, tests, shares, self._ordinary, copied)
        found = disjoint_groups(candidates, assessor, middles)
        return Findings(
            tuple(found),
            members,
            self._ordinary,
            tests,
            {kind: each.build() for kind, each in copies.items()},
            self._first.rows,
            tuple(shards),
        )

    def _scores(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """(N, W) normal scores of a shard's rows."""
        columns = [each.scores(values[each.witness.column]) for each in self._ordinary]
        return np.stack(columns, axis=1)

    def _surprises(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """(N, W) nats of surprise of a shard's rows."""
        columns = [each.surprises(values[each.witness.column]) for each in self._ordinary]
        return np.stack(columns, axis=1)

    def _sums(self, shards: int, check: Callable[[], None]) -> dict[Kind, KeySums]:
        """Sums over the rows of every key that occurs twice."""
        slots = self._slots(shards)
        builders = {kind: KeySumsBuilder(len(self._ordinary)) for kind in slots}
        for shard in range(shards):
            check()
            keys, values = self._spool.load(shard)
            scores, nats = self._scores(values), self._surprises(values)
            for kind, (bits, again) in slots.items():
                rows, own = keys.of_kind(kind)
                kept = has_slot(again, slots_of(own, bits))
                rows, own = rows[kept], own[kept]
                builders[kind].add(KeySums.from_rows(own, scores[rows], nats[rows]))
        return {kind: builder.total() for kind, builder in builders.items()}

    def _slots(self, shards: int) -> dict[Kind, tuple[int, np.ndarray]]:
        """By kind the binary logarithm of the number of slots, and which were hit twice."""
        rows = self._first.rows
        bits = {
            kind: slot_bits(rows * (_WORDS_A_ROW if kind is Kind.CAPTION_WORD else 1))
            for kind in Kind
            if kind is not Kind.PICTURE
        }
        counts = {kind: SlotCounts(each) for kind, each in bits.items()}
        for shard in range(shards):
            keys, _ = self._spool.load(shard)
            for kind, each in bits.items():
                counts[kind] += SlotCounts(each, (slots_of(keys.of_kind(kind)[1], each),))
        return {kind: (bits[kind], each.repeated()) for kind, each in counts.items()}
