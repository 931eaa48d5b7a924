"""A fit as work that travels: what each shard contributes, and what is made of the sum."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from clipsieve.fits.sample import SampleSearch, sample_arrays
from clipsieve.fits.store import FitFolder
from clipsieve.fits.whole import WholeSearch
from clipsieve.neighbours.lists import NeighbourLists, lists_table
from clipsieve.schemas import footers
from clipsieve.scorers.base import Input, PairBatch, ReferenceSet, Scorer
from clipsieve.scorers.registry import scorers_named
from clipsieve.statistics.base import PairStatistic
from clipsieve.statistics.sample import Sample
from clipsieve.store.layout import Layout
from clipsieve.store.parquet import read_footer, write_table
from clipsieve.stored import Member, StoredPairs

#: Ends the name of the lists that start from captions, beside those of the images.
CAPTIONS = "-captions"


@dataclass(frozen=True, slots=True)
class Sums:
    """Statistics of several scorers, by family and name; adding two merges shards."""

    states: Mapping[tuple[str, str], PairStatistic] = field(default_factory=dict)
    shards: int = 0

    def __add__(self, other: "Sums") -> "Sums":
        """The statistics of the rows of both."""
        both = {
            key: state + other.states[key] if key in other.states else state
            for key, state in self.states.items()
        }
        return Sums({**other.states, **both}, self.shards + other.shards)


@dataclass(frozen=True, slots=True)
class FitJob:
    """What a process needs to take part in a fit.

    Attributes:
      out: the output folder, absolute.
      scorers: names of scorers; all of them are fitted.
      options: their options, by name.
      fits: id of the fit of each.
      dim: components of a vector.
      embeddings: slug and revision of the embeddings.
      device: for the search of neighbours.
      rows: rows in state `ok` of the shards that the fits are made of.
      bounded: whether samples may leave out at once what hashes far too high; see `Sample`.
    """

    out: str
    scorers: tuple[str, ...]
    options: Mapping[str, Mapping[str, Any]]
    fits: Mapping[str, str]
    dim: int
    embeddings: Mapping[str, str]
    device: str
    rows: int
    bounded: bool = True

    @property
    def pairs(self) -> StoredPairs:
        """The stored pairs of the folder."""
        return StoredPairs(Layout.at(self.out), self.embeddings, self.dim)

    def opened(self) -> tuple[Scorer, ...]:
        """The scorers."""
        return scorers_named(self.scorers, self.options)

    def folder(self, family: str) -> FitFolder:
        """Where the fit of a family is kept."""
        return FitFolder.of(Layout.at(self.out), family, self.fits[family])

    def references(self, scorer: Scorer) -> Mapping[str, ReferenceSet]:
        """Sets that a scorer asks for, of the rows that its fit is made of."""
        return scorer.references(self.rows)

    def whole(self) -> list[tuple[str, str, ReferenceSet]]:
        """Family, name and set of every reference that is the whole dataset."""
        return [
            (scorer.family, name, wanted)
            for scorer in self.opened()
            for name, wanted in self.references(scorer).items()
            if not wanted.is_sample
        ]

    def lists_todo(self, members: Sequence[Member]) -> list[Member]:
        """Members that lack neighbour lists of a reference that is the whole dataset."""
        # Of an image's and a caption's lists the latter are written last.
        last = [
            (self.folder(family), name + CAPTIONS if wanted.texts else name)
            for family, name, wanted in self.whole()
        ]
        return [
            member
            for member in members
            if not all(read_footer(folder.lists(name, member.shard)) for folder, name in last)
        ]

    def write_lists(self, shards: Sequence[str]) -> None:
        """Find and write the neighbour lists of some members."""
        whole = self.whole()
        texts = any(wanted.texts for _, _, wanted in whole)
        pairs = [self.pairs.read(shard, texts) for shard in shards]
        for family, name, wanted in whole:
            folder = self.folder(family)
            search = WholeSearch(self.pairs, wanted, folder.members(), self.device)
            for batch, lists in zip(pairs, search.of(pairs), strict=True):
                self._write(folder, name, batch, lists)
            if wanted.texts:
                for batch in pairs:
                    self._write(folder, name + CAPTIONS, batch, search.of_captions(batch))

    def observe(self, shard: str) -> Sums:
        """The statistics of one shard."""
        needs = frozenset(need for scorer in self.opened() for need in scorer.needs)
        batch = self.pairs.read(shard, texts=Input.TEXT_EMBEDDING in needs)
        if Input.CAPTION in needs:
            samples = self.pairs.read_samples(shard, batch.uid, ["caption"])
            batch = replace(batch, captions=samples["caption"].to_pylist())
        return Sums({key: state.of(batch) for key, state in self._zeros().items()}, shards=1)

    def finish(self, sums: Sums) -> bool:
        """Make and keep the fits.

        Returns:
          False, and nothing is written, if a sample came out short or a shard is missing.
        """
        members = self.folder(self.scorers[0]).members()
        short = any(isinstance(s, Sample) and s.is_short for s in sums.states.values())
        if short or sums.shards != len(members):
            return False
        for scorer in self.opened():
            merged = {
                name: state
                for (family, name), state in sums.states.items()
                if family == scorer.family
            }
            arrays = dict(scorer.fit(merged))
            for name, wanted in self.references(scorer).items():
                arrays |= self._described(scorer, name, wanted, merged.get(name))
            self.folder(scorer.family).save(arrays)
        return True

    def _zeros(self) -> dict[tuple[str, str], PairStatistic]:
        """Everything that is summed: the scorers' own statistics, and samples for references."""
        zeros: dict[tuple[str, str], PairStatistic] = {}
        for scorer in self.opened():
            for name, zero in scorer.statistics().items():
                zeros[scorer.family, name] = zero
            for name, wanted in self.references(scorer).items():
                if wanted.is_sample:
                    assert wanted.size is not None
                    zeros[scorer.family, name] = Sample.bounded(
                        wanted.size,
                        wanted.seed,
                        wanted.texts,
                        self.rows if self.bounded else 0,
                    )
        return zeros

    def _described(
        self, scorer: Scorer, name: str, wanted: ReferenceSet, sample: PairStatistic | None
    ) -> dict[str, np.ndarray]:
        """Arrays of one reference set: the sample if it is one, and what each vector is like."""
        if isinstance(sample, Sample):
            arrays = sample_arrays(name, sample)
            described = scorer.describe(SampleSearch(name, wanted, arrays, self.device).within())
        else:
            arrays, parts = {}, []
            folder = self.folder(scorer.family)
            members = folder.members()
            for suffix in ("", CAPTIONS)[: 2 if wanted.texts else 1]:
                for member in members:
                    lists = folder.read_lists(name + suffix, member.shard, wanted.k)
                    parts.append(scorer.describe(lists))
            described = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        return arrays | {f"{name}.{key}": value for key, value in described.items()}

    def _write(self, folder: FitFolder, name: str, batch: PairBatch, lists: NeighbourLists) -> None:
        ledger = read_footer(self.pairs.layout.samples(batch.shard))
        footer = {**ledger, footers.FAMILY: folder.path.parent.name + "-neighbours"}
        write_table(folder.lists(name, batch.shard), lists_table(batch.uid, lists), footer)
