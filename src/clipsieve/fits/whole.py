"""Neighbours of rows among all rows of a dataset, or among those of their batch.

The reference is never in memory as a whole: it is read in blocks of shards, and the lists found in
each are merged.  Vectors are numbered as the rows are, image of row r of a shard: `first + r`; its
caption, if the set has captions: that plus the number of all rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from clipsieve.neighbours.index import ExactIndex, SearchOptions
from clipsieve.neighbours.lists import NeighbourLists, fill_missing, merge_lists
from clipsieve.scorers.base import PairBatch, ReferenceSet
from clipsieve.statistics.sample import row_hashes
from clipsieve.stored import Member, StoredPairs

#: Rows of the reference in memory at once, and rows whose lists are sought together.
BLOCK_ROWS = 65_536
QUERY_ROWS = 131_072


@dataclass(frozen=True, slots=True)
class _Vectors:
    """V vectors with their numbers (ascending), and the batches their rows are in."""

    vectors: np.ndarray
    numbers: np.ndarray
    batches: np.ndarray


@dataclass(frozen=True, slots=True)
class WholeSearch:
    """Finds neighbours among all rows of the shards that a fit is made of.

    Attributes:
      pairs: where the vectors are read.
      wanted: the set; its size is that of the batches, or None.
      members: the shards.
      device: `auto`, `cpu`, `cuda` or `cuda:N`.
      block_rows: rows of the reference in memory at once.
    """

    pairs: StoredPairs
    wanted: ReferenceSet
    members: Sequence[Member]
    device: str
    block_rows: int = BLOCK_ROWS

    @property
    def rows(self) -> int:
        """All rows of the shards."""
        return sum(member.rows for member in self.members)

    @property
    def batches(self) -> int:
        """How many batches the rows are dealt into."""
        if self.wanted.size is None:
            return 1
        return max(1, round(sum(member.scored for member in self.members) / self.wanted.size))

    def of(self, shards: Sequence[PairBatch]) -> list[NeighbourLists]:
        """Of each row's image; rows without a valid one have none.

        Args:
          shards: rows whose lists are sought together: the reference is read once for all.
        """
        members = {member.shard: member for member in self.members}
        queries = [self._images(batch, members.get(batch.shard)) for batch in shards]
        vectors = np.concatenate([query.vectors for query in queries])
        numbers = np.concatenate([query.numbers for query in queries])
        batches = np.concatenate([query.batches for query in queries])
        own = numbers[:, None]
        if self.wanted.texts:
            own = np.stack([numbers, np.where(numbers < 0, -1, numbers + self.rows)], axis=1)
        found = self._search(vectors, own, batches)
        lists, first = [], 0
        for batch, query in zip(shards, queries, strict=True):
            last = first + len(query.numbers)
            part = NeighbourLists(found.distances[first:last], found.indices[first:last])
            assert batch.image is not None
            lists.append(fill_missing(part, batch.image.valid))
            first = last
        return lists

    def of_captions(self, shard: PairBatch) -> NeighbourLists:
        """Of each row's caption; rows without a valid one have none."""
        (member,) = (member for member in self.members if member.shard == shard.shard)
        text = shard.texts[""]
        images = np.flatnonzero(text.valid) + member.first
        own = np.stack([images, images + self.rows], axis=1)
        batches = self._batch_of(shard)[text.valid]
        return fill_missing(self._search(text.vectors[text.valid], own, batches), text.valid)

    def _search(self, queries: np.ndarray, own: np.ndarray, batches: np.ndarray) -> NeighbourLists:
        """Lists of all queries, merged over the blocks of the reference."""
        k = self.wanted.k
        found = NeighbourLists.empty(len(queries), k)
        for block in self._blocks():
            for batch in range(self.batches):
                rows = np.flatnonzero(batches == batch)
                there = block.batches == batch
                if not len(rows) or not there.any():
                    continue
                part = self._search_block(
                    queries[rows], own[rows], block.vectors[there], block.numbers[there]
                )
                held = NeighbourLists(found.distances[rows], found.indices[rows])
                merged = merge_lists([held, part], k)
                found.distances[rows], found.indices[rows] = merged.distances, merged.indices
        return found

    def _search_block(
        self, queries: np.ndarray, own: np.ndarray, vectors: np.ndarray, numbers: np.ndarray
    ) -> NeighbourLists:
        """Lists of queries within some vectors, in the numbering of the dataset."""
        index = ExactIndex(
            vectors, metric=self.wanted.metric, options=SearchOptions(device=self.device)
        )
        places = np.searchsorted(numbers, own)
        places[places == len(numbers)] = 0
        places[numbers[places] != own] = -1
        found = index.search(queries, self.wanted.k, places)
        return NeighbourLists(
            found.distances, np.where(found.indices < 0, -1, numbers[found.indices])
        )

    def _blocks(self) -> Iterator[_Vectors]:
        """The reference, in blocks of about `block_rows` rows."""
        waiting: list[_Vectors] = []
        for member in self.members:
            waiting.append(self._all(self.pairs.read(member.shard, self.wanted.texts), member))
            if sum(len(part.numbers) for part in waiting) >= self.block_rows:
                yield _joined(waiting)
                waiting = []
        if waiting:
            yield _joined(waiting)

    def _images(self, batch: PairBatch, member: Member | None) -> _Vectors:
        """The images of a shard; they have no numbers if the shard is no member."""
        assert batch.image is not None
        rows = np.flatnonzero(batch.image.valid)
        numbers = np.full(len(rows), -1) if member is None else rows + member.first
        return _Vectors(batch.image.vectors[rows], numbers, self._batch_of(batch)[rows])

    def _all(self, batch: PairBatch, member: Member) -> _Vectors:
        """The images of a member, and its captions if the set has them."""
        images = self._images(batch, member)
        if not self.wanted.texts:
            return images
        text = batch.texts[""]
        rows = np.flatnonzero(text.valid)
        captions = _Vectors(
            text.vectors[rows], rows + member.first + self.rows, self._batch_of(batch)[rows]
        )
        return _joined([images, captions])

    def _batch_of(self, batch: PairBatch) -> np.ndarray:
        """Batch of each row, from the high half of its hash: even, and the same for equal uids."""
        if self.batches == 1:
            return np.zeros(len(batch), np.int64)
        high = row_hashes(batch.uid, self.wanted.seed) >> np.uint64(32)
        return (high * np.uint64(self.batches) >> np.uint64(32)).astype(np.int64)


def grouped(shards: Iterable[tuple[str, int]], rows: int = QUERY_ROWS) -> list[list[str]]:
    """Shards in groups of at most `rows` rows, or of one shard.

    Args:
      shards: name and rows of each.
      rows: of a group.

    >>> grouped([("a", 3), ("b", 2), ("c", 9)], rows=5)
    [['a', 'b'], ['c']]
    """
    groups: list[list[str]] = []
    held = 0
    for name, count in shards:
        if not groups or held + count > rows:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += count
    return groups


def _joined(parts: Sequence[_Vectors]) -> _Vectors:
    """All parts as one, in the order of their numbers."""
    numbers = np.concatenate([part.numbers for part in parts])
    order = np.argsort(numbers, kind="stable")
    return _Vectors(
        np.concatenate([part.vectors for part in parts])[order],
        numbers[order],
        np.concatenate([part.batches for part in parts])[order],
    )
