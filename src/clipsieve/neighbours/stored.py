"""Neighbour lists of a whole dataset: found once, kept beside the embeddings.

The vectors are never in memory as a whole: they are read in blocks of shards, and the lists found
in each are merged.  Vectors are numbered as the rows are, image of row r of a member: `first + r`;
its caption, if captions are among the neighbours: that plus the number of all rows.

A set of lists is `neighbours/<id>/`: `set.json` says among which shards its neighbours are, and
every shard, also one that came later, has a file of lists.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated

import numpy as np

from clipsieve.control import Control
from clipsieve.neighbours.index import ExactIndex, SearchOptions
from clipsieve.neighbours.lists import (
    NeighbourLists,
    fill_missing,
    lists_from_table,
    lists_table,
    merge_lists,
)
from clipsieve.neighbours.metric import Metric
from clipsieve.schemas import footers
from clipsieve.scorers.base import Embedded, Input, NeighbourSpec, PairBatch
from clipsieve.stage import Element, Report, Worker
from clipsieve.statistics.hash_sample import row_hashes
from clipsieve.store import names
from clipsieve.store.canonical import short_hash
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import EmbeddingsEntry
from clipsieve.store.members import ShardRange, ledger_key, members_key, ok_rows
from clipsieve.store.pairs import StoredPairs
from clipsieve.store.validation import Count, Range, decode

#: Rows whose vectors are in memory at once, and rows whose lists are found together.
BLOCK_ROWS = 65_536
QUERY_ROWS = 131_072
IMAGE, TEXT = "image", "text"


@dataclass(frozen=True, slots=True)
class _Vectors:
    """V vectors with their numbers (ascending), and the batches their rows are in."""

    vectors: np.ndarray
    numbers: np.ndarray
    batches: np.ndarray


@dataclass(frozen=True, slots=True)
class DatasetSearch:
    """Finds neighbours among all rows of some shards.

    Attributes:
      pairs: where vectors are read.
      spec: which neighbours.
      members: the shards among whose rows they are.
      device: `auto`, `cpu`, `cuda` or `cuda:N`.
      block_rows: rows whose vectors are in memory at once.
      step: called after each block.
    """

    pairs: StoredPairs
    spec: NeighbourSpec
    members: Sequence[ShardRange]
    device: str
    block_rows: int = BLOCK_ROWS
    step: Callable[[], None] = lambda: None

    @property
    def rows(self) -> int:
        """All rows of the members."""
        return sum(member.rows for member in self.members)

    @property
    def batches(self) -> int:
        """How many batches the rows are dealt into."""
        if self.spec.batch is None:
            return 1
        return max(1, round(ok_rows(self.members) / self.spec.batch))

    def search_images(self, shards: Sequence[PairBatch]) -> list[NeighbourLists]:
        """Return lists of each row's image; rows without a valid one have empty lists.

        Args:
          shards: rows whose lists are found together: the members are read once for all.
        """
        members = {member.shard: member for member in self.members}
        queries = [self._numbered(batch, batch.image, _first(members, batch)) for batch in shards]
        joined = _joined(queries, in_order=False)
        own = joined.numbers[:, None]
        if self.spec.texts:
            captions = np.where(joined.numbers < 0, -1, joined.numbers + self.rows)
            own = np.stack([joined.numbers, captions], axis=1)
        lists = self._search(joined.vectors, own, joined.batches)
        ends = np.cumsum([len(query.numbers) for query in queries])
        distances = np.split(lists.distances, ends[:-1])
        indices = np.split(lists.indices, ends[:-1])
        return [
            fill_missing(NeighbourLists(d, i), batch.image.valid)
            for d, i, batch in zip(distances, indices, shards, strict=True)
            if batch.image is not None
        ]

    def search_captions(self, batch: PairBatch) -> NeighbourLists:
        """Return lists of each row's caption; rows without a valid one have empty lists."""
        (member,) = (member for member in self.members if member.shard == batch.shard)
        text = batch.texts[""]
        images = np.flatnonzero(text.valid) + member.first
        own = np.stack([images, images + self.rows], axis=1)
        batches = self._batch_numbers(batch)[text.valid]
        return fill_missing(self._search(text.vectors[text.valid], own, batches), text.valid)

    def _search(self, queries: np.ndarray, own: np.ndarray, batches: np.ndarray) -> NeighbourLists:
        """Return lists of all queries, merged over the blocks of the dataset."""
        k = self.spec.k
        lists = NeighbourLists.empty(len(queries), k)
        for block in self._blocks():
            for batch in range(self.batches):
                rows = np.flatnonzero(batches == batch)
                inside = block.batches == batch
                if not len(rows) or not inside.any():
                    continue
                part = self._search_block(
                    queries[rows], own[rows], block.vectors[inside], block.numbers[inside]
                )
                before = NeighbourLists(lists.distances[rows], lists.indices[rows])
                merged = merge_lists([before, part], k)
                lists.distances[rows], lists.indices[rows] = merged.distances, merged.indices
                self.step()
        return lists

    def _search_block(
        self, queries: np.ndarray, own: np.ndarray, vectors: np.ndarray, numbers: np.ndarray
    ) -> NeighbourLists:
        """Return lists of queries within some vectors, in the numbering of the dataset."""
        options = SearchOptions(device=self.device)
        index = ExactIndex(vectors, metric=self.spec.metric, options=options)
        places = np.searchsorted(numbers, own)
        places[places == len(numbers)] = 0
        places[numbers[places] != own] = -1
        lists = index.search(queries, self.spec.k, places)
        indices = np.where(lists.indices < 0, -1, numbers[lists.indices])
        return NeighbourLists(lists.distances, indices)

    def _blocks(self) -> Iterator[_Vectors]:
        """Yield the vectors of the dataset in blocks of about `block_rows` rows."""
        waiting: list[_Vectors] = []
        for member in self.members:
            batch = self.pairs.read(member.shard, vector_inputs(self.spec))
            waiting.append(self._numbered(batch, batch.image, member.first))
            if self.spec.texts:
                waiting.append(self._numbered(batch, batch.texts[""], member.first + self.rows))
            if sum(len(part.numbers) for part in waiting) >= self.block_rows:
                yield _joined(waiting)
                waiting = []
        if waiting:
            yield _joined(waiting)

    def _numbered(self, batch: PairBatch, embedded: Embedded | None, first: int | None) -> _Vectors:
        """Return the valid vectors of a shard; number -1 throughout if `first` is None."""
        assert embedded is not None
        rows = np.flatnonzero(embedded.valid)
        numbers = np.full(len(rows), -1) if first is None else rows + first
        return _Vectors(embedded.vectors[rows], numbers, self._batch_numbers(batch)[rows])

    def _batch_numbers(self, batch: PairBatch) -> np.ndarray:
        """Return the batch of each row, from the high half of its hash: equal for equal uids."""
        if self.batches == 1:
            return np.zeros(len(batch), np.int64)
        high = row_hashes(batch.uid, self.spec.seed) >> np.uint64(32)
        return (high * np.uint64(self.batches) >> np.uint64(32)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class _Spec:
    """A `NeighbourSpec` as its file has it."""

    k: Annotated[int, Range(1, 1 << 20)]
    batch: Annotated[int, Range(1, 1 << 60)] | None
    seed: Count
    metric: Metric
    texts: bool


@dataclass(frozen=True, slots=True)
class _Description:
    """The content of `set.json`."""

    spec: _Spec
    members: tuple[ShardRange, ...]


@dataclass(frozen=True, slots=True)
class NeighbourSet:
    """A set of lists in an output folder.

    Attributes:
      id: hash of everything that decides the lists.
      spec: which neighbours.
      members: the shards among whose rows they are.
    """

    id: str
    spec: NeighbourSpec
    members: tuple[ShardRange, ...]

    @classmethod
    def new(
        cls, spec: NeighbourSpec, members: Sequence[ShardRange], embeddings: str
    ) -> "NeighbourSet":
        """Return the set of lists among `members`; `embeddings` is the revision of the vectors."""
        identifier = short_hash([spec.key, embeddings, members_key(members)])
        return cls(identifier, spec, tuple(members))

    @classmethod
    def load(cls, folder: OutputFolder, identifier: str) -> "NeighbourSet | None":
        """Return the set of this id; None if the folder does not have it."""
        try:
            content: _Description = decode(
                _Description, folder.read_json(names.neighbours_description(identifier))
            )
            return cls(identifier, NeighbourSpec(**asdict(content.spec)), content.members)
        except (FileNotFoundError, ValueError):  # searched for and written again
            return None

    def save(self, folder: OutputFolder) -> None:
        """Write the description of the set."""
        content = {"spec": asdict(self.spec), "members": [asdict(m) for m in self.members]}
        folder.write_json(names.neighbours_description(self.id), content)

    def sides(self, shard: str) -> tuple[str, ...]:
        """Return the sides that have lists for a shard: captions of later shards have none."""
        is_member = any(member.shard == shard for member in self.members)
        return (IMAGE, TEXT) if self.spec.texts and is_member else (IMAGE,)


@dataclass(frozen=True, slots=True)
class NeighbourStage:
    """Finds and writes the lists of shards; an element is a group of shards.

    Attributes:
      out: the output folder, absolute.
      run_id: the run.
      device: for the search.
      control: stop and progress.
      sets: id of each set of lists.
      embeddings: the vectors.
      dim: components of a vector.
    """

    out: str
    run_id: str
    device: str
    control: Control
    sets: tuple[str, ...]
    embeddings: EmbeddingsEntry
    dim: int
    name = "neighbours"

    def elements(self, members: Sequence[ShardRange]) -> list[Element]:
        """Return groups of those shards that lack lists of their present rows."""
        folder = OutputFolder.open(self.out)
        missing = missing_lists(folder, self.sets, members)
        rows = {member.shard: member.rows for member in members}
        return [
            Element(group[0], json.dumps(group), sum(rows[shard] for shard in group) or 1)
            for group in grouped((shard, rows[shard]) for shard in missing)
        ]

    def open(self) -> Worker:
        """Load nothing yet."""
        return _NeighbourWorker(self)

    def finish(self, total: Report) -> Report:
        """Nothing is left to do."""
        return total


class _NeighbourWorker:
    def __init__(self, stage: NeighbourStage) -> None:
        self._stage = stage
        self._folder = OutputFolder.open(stage.out)
        self._pairs = StoredPairs(self._folder, stage.embeddings, stage.dim)

    def work(self, elements: Sequence[str]) -> Iterator[Report]:
        for text in elements:
            if self._stage.control.stopped:
                return
            group: list[str] = json.loads(text)
            self._stage.control.begin(group[0])
            for identifier in self._stage.sets:
                lists = NeighbourSet.load(self._folder, identifier)
                assert lists is not None
                self._write_group(lists, group)
            self._stage.control.end(group[0])
            yield Report((group[0],))

    def _write_group(self, lists: NeighbourSet, group: Sequence[str]) -> None:
        stage = self._stage
        search = DatasetSearch(
            self._pairs, lists.spec, lists.members, stage.device, step=stage.control.step
        )
        pairs = [self._pairs.read(shard, vector_inputs(lists.spec)) for shard in group]
        for batch, found in zip(pairs, search.search_images(pairs), strict=True):
            self._write(lists.id, IMAGE, batch, found)
            if TEXT in lists.sides(batch.shard):
                self._write(lists.id, TEXT, batch, search.search_captions(batch))

    def _write(self, identifier: str, side: str, batch: PairBatch, lists: NeighbourLists) -> None:
        ledger = self._folder.read_footer(names.samples(batch.shard))
        footer = {**ledger, footers.FAMILY: "neighbours", footers.LEDGER: ledger_key(ledger)}
        name = names.neighbour_lists(identifier, side, batch.shard)
        self._folder.write_table(name, lists_table(batch.uid, lists), footer)


def vector_inputs(spec: NeighbourSpec) -> frozenset[Input]:
    """Return the embeddings that a search reads."""
    sides = {Input.IMAGE_EMBEDDING, Input.TEXT_EMBEDDING} if spec.texts else {Input.IMAGE_EMBEDDING}
    return frozenset(sides)


def missing_lists(
    folder: OutputFolder, sets: Iterable[str], members: Sequence[ShardRange]
) -> list[str]:
    """Return the shards that lack lists of their present rows in one of the sets, in order."""
    missing: set[str] = set()
    for identifier in sets:
        lists = NeighbourSet.load(folder, identifier)
        assert lists is not None
        files = [(m, side) for m in members for side in lists.sides(m.shard)]
        written = folder.read_footers(
            names.neighbour_lists(identifier, side, member.shard) for member, side in files
        )
        for (member, _), footer in zip(files, written, strict=True):
            if footer.get(footers.LEDGER) != member.key:
                missing.add(member.shard)
    return [member.shard for member in members if member.shard in missing]


def read_shard_lists(
    folder: OutputFolder,
    batch: PairBatch,
    specs: Sequence[NeighbourSpec],
    sets: Mapping[str, str],
) -> PairBatch:
    """Return the pairs of a whole shard with their neighbour lists.

    Args:
      folder: where the lists are.
      batch: all pairs of a shard.
      specs: which lists.
      sets: id of the set, by key of the specification.
    """
    sides: dict[str, dict[NeighbourSpec, NeighbourLists]] = {IMAGE: {}, TEXT: {}}
    for spec in specs:
        for side in (IMAGE, TEXT) if spec.texts else (IMAGE,):
            name = names.neighbour_lists(sets[spec.key], side, batch.shard)
            if side == IMAGE or folder.files.exists(name):
                sides[side][spec] = lists_from_table(folder.read_table(name), spec.k)
    return replace(batch, neighbours=sides[IMAGE], caption_neighbours=sides[TEXT])


def grouped(shards: Iterable[tuple[str, int]], rows: int = QUERY_ROWS) -> list[list[str]]:
    """Put shards into groups of at most `rows` rows, or of one shard.

    Args:
      shards: name and rows of each.
      rows: of a group.

    >>> grouped([("a", 3), ("b", 2), ("c", 9)], rows=5)
    [['a', 'b'], ['c']]
    """
    groups: list[list[str]] = []
    total = 0
    for name, count in shards:
        if not groups or total + count > rows:
            groups.append([])
            total = 0
        groups[-1].append(name)
        total += count
    return groups


def _first(members: Mapping[str, ShardRange], batch: PairBatch) -> int | None:
    member = members.get(batch.shard)
    return None if member is None else member.first


def _joined(parts: Sequence[_Vectors], in_order: bool = True) -> _Vectors:
    """Join all parts, by their numbers or as they come."""
    joined = _Vectors(
        np.concatenate([part.vectors for part in parts]),
        np.concatenate([part.numbers for part in parts]),
        np.concatenate([part.batches for part in parts]),
    )
    if not in_order:
        return joined
    order = np.argsort(joined.numbers, kind="stable")
    return _Vectors(joined.vectors[order], joined.numbers[order], joined.batches[order])
