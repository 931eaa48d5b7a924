"""What scorers learn of a dataset: one pass over it after the other, until they ask for no more.

A pass observes every shard's statistics and adds them up; equal statistics of several scorers are
observed once.  After each pass the arrays made so far are kept, so an interrupted one is resumed
where the last pass ended.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from clipsieve.clip.identity import ModelIdentity
from clipsieve.control import Control
from clipsieve.errors import ClipsieveError, LedgerError, UsageError
from clipsieve.neighbours.stored import read_shard_lists
from clipsieve.schemas import footers
from clipsieve.scorers.base import Arrays, Context, Input, PairBatch, Scorer, State, Statistic
from clipsieve.scorers.registry import make_scorer
from clipsieve.scoring.prompts import load_prototypes, prompt_sets
from clipsieve.stage import Element, Report, Worker
from clipsieve.store import names
from clipsieve.store.fits import read_fit_description
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import EmbeddingsEntry, Manifest
from clipsieve.store.members import ShardRange
from clipsieve.store.pairs import StoredPairs, split_batch
from clipsieve.threads import iterate_parts, one_core_products

#: A scorer that asks for more passes than this will never end.
MOST_PASSES = 64
#: Shards whose sums are reported together: states of classes are megabytes.
REPORTED_TOGETHER = 16


@dataclass(frozen=True, slots=True)
class ScorerSpec:
    """A scorer as a value that travels: its name and options, and what it reads of the folder.

    Attributes:
      name: of the scorer.
      options: it is made with.
      revision: of its columns; "" while it learns.
      learned: id of what it learns; None if it learns nothing.
      neighbours: id of each set of lists, by key of the specification.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    revision: str = ""
    learned: str | None = None
    neighbours: Mapping[str, str] = field(default_factory=dict)

    def make(self) -> Scorer:
        """Make the scorer."""
        return make_scorer(self.name, self.options)


@dataclass(frozen=True, slots=True)
class Sums:
    """States of statistics; adding two merges the rows of both."""

    states: Mapping[Statistic, State] = field(default_factory=dict)

    def __add__(self, other: "Sums") -> "Sums":
        """Return the states of the rows of both."""
        both = {
            statistic: state + other.states[statistic] if statistic in other.states else state
            for statistic, state in self.states.items()
        }
        return Sums({**other.states, **both})


@dataclass(frozen=True, slots=True)
class Basis:
    """What the scoring stages know of a folder.

    Attributes:
      model: whose embeddings are stored.
      embeddings: which embeddings.
      logit_scale: of the model.
    """

    model: ModelIdentity
    embeddings: EmbeddingsEntry
    logit_scale: float


@dataclass(frozen=True, slots=True)
class LearnStage:
    """One pass over the dataset for several scorers; an element is a shard.

    Attributes:
      out: the output folder, absolute.
      run_id: the run.
      device: for heavy computations.
      control: stop and progress.
      basis: model and embeddings.
      scorers: those that take part.
      passes: completed passes of each of them, by name.
      rows: rows in state `ok` of the members.
      shards: how many members there are.
      source: the output folder that is learnt of, absolute; "" is `out` itself.
    """

    out: str
    run_id: str
    device: str
    control: Control
    basis: Basis
    scorers: tuple[ScorerSpec, ...]
    passes: Mapping[str, int]
    rows: int
    shards: int
    source: str = ""
    name = "learn"

    def open(self) -> Worker:
        """Read what is known so far."""
        return _LearnWorker(self)

    def finish(self, total: Report) -> Report:
        """Let each scorer learn from the sums, and keep what it knows.

        Nothing is kept of a pass over fewer shards than there are, so none is ever learnt of a
        part of the dataset.
        """
        report = replace(total, value=None)
        if not len(set(total.done)) == len(total.done) == self.shards:
            return report
        folder, sums = OutputFolder.open(self.out), total.value or Sums()
        for spec in self.scorers:
            scorer, passes = spec.make(), self.passes[spec.name]
            assert spec.learned is not None
            context = scorer_context(folder, self.basis, scorer, self.rows, self.device)
            known: Arrays = read_known(folder, spec, passes)
            asked = scorer.statistics(known, context)
            with one_core_products():
                known = scorer.learn({n: sums.states[s] for n, s in asked.items()}, known, context)
            further = scorer.statistics(known, context)
            if further == asked:
                raise ClipsieveError(
                    f"scorer {spec.name} asks for the same statistics again after pass "
                    f"{passes + 1} ({', '.join(asked)}); its learn must return what it made"
                )
            if further and passes + 1 >= MOST_PASSES:
                raise ClipsieveError(
                    f"scorer {spec.name} asks for more than {MOST_PASSES} passes; its statistics "
                    "must come to an end"
                )
            name = names.fit(spec.name, spec.learned, passes + 1 if further else None)
            folder.write_arrays(name, known)
        return report


class _LearnWorker:
    def __init__(self, stage: LearnStage) -> None:
        self._stage = stage
        self._folder = OutputFolder.open(stage.out)
        scorers = [(spec, spec.make()) for spec in stage.scorers]
        self._contexts: dict[Statistic, Context] = {}
        for spec, scorer in scorers:
            context = scorer_context(self._folder, stage.basis, scorer, stage.rows, stage.device)
            passes = stage.passes[spec.name]
            known = read_known(self._folder, spec, passes)
            with using_fit(self._folder, spec, passes):
                asked = scorer.statistics(known, context)
            for statistic in asked.values():
                self._contexts.setdefault(statistic, context)
        self._needs = frozenset(need for s in self._contexts for need in s.needs)
        columns = (c for s in self._contexts for c in getattr(s, "source_columns", ()))
        self._columns = tuple(dict.fromkeys(columns))
        if Input.REFERENCE_EMBEDDINGS in self._needs:
            raise UsageError("statistics cannot read reference captions; only scores can")
        self._lists = {key: i for spec, _ in scorers for key, i in spec.neighbours.items()}
        self._specs = tuple(dict.fromkeys(s for _, sc in scorers for s in sc.neighbour_lists()))
        prompts = prompt_sets(scorer for _, scorer in scorers)
        self._prototypes = load_prototypes(self._folder, stage.basis.embeddings, prompts)

    def work(self, elements: Sequence[str]) -> Iterator[Report]:
        stage = self._stage
        source = OutputFolder.open(stage.source or stage.out)
        pairs = StoredPairs(source, stage.basis.embeddings, stage.basis.model.dim)
        held = Report()
        for shard in elements:
            if stage.control.stopped:
                break
            stage.control.begin(shard)
            with stage.control.timing("read"):
                batch = pairs.read(shard, self._needs, self._columns)
                if Input.NEIGHBOURS in self._needs:
                    batch = read_shard_lists(self._folder, batch, self._specs, self._lists)
            with stage.control.timing("encode"):
                sums = self._observe(replace(batch, prototypes=self._prototypes))
            stage.control.add(rows=len(batch), shards=1)
            stage.control.end(shard)
            held = held + Report((shard,), value=sums)
            if len(held.done) >= REPORTED_TOGETHER:
                yield held
                held = Report()
        if held.done:
            yield held

    def _observe(self, batch: PairBatch) -> Sums:
        """Return the states of a shard's rows."""
        sums = Sums()
        for rows, group in statistics_by_rows(self._contexts):

            def observe(part: PairBatch, group: Sequence[Statistic] = group) -> Sums:
                sums = Sums({s: s.observe(part, self._contexts[s]) for s in group})
                self._stage.control.step()
                return sums

            states = (
                map(observe, split_batch(batch))
                if rows is None
                else iterate_parts(observe, split_batch(batch, rows))
            )
            sums = sum(states, sums)
        return sums


def statistics_by_rows(
    statistics: Iterable[Statistic],
) -> list[tuple[int | None, list[Statistic]]]:
    """Return statistics that see batches of the same size together; see `Scorer.batch_rows`."""
    groups: dict[int | None, list[Statistic]] = {}
    for statistic in statistics:
        groups.setdefault(getattr(statistic, "batch_rows", None), []).append(statistic)
    return list(groups.items())


def folder_logit_scale(
    folder: OutputFolder, manifest: Manifest, members: Sequence[ShardRange]
) -> float:
    """Return the model's logit scale, as the first embeddings that can be read say.

    Raises:
      LedgerError: if none can.
    """
    entry = manifest.embeddings
    assert entry is not None
    for member in members:
        name = names.embeddings(entry.model, entry.revision, member.shard)
        footer = folder.read_footer(name)
        if footers.LOGIT_SCALE in footer:
            return float(footer[footers.LOGIT_SCALE])
    raise LedgerError(
        f"no embeddings of {folder.root}/"
        f"{names.embeddings_folder(entry.model, entry.revision)} can be read; run "
        "`clipsieve run` again"
    )


def scorer_context(
    folder: OutputFolder, basis: Basis, scorer: Scorer, rows: int, device: str
) -> Context:
    """Return what a scorer may know beside the rows."""
    return Context(
        dim=basis.model.dim,
        rows=rows,
        logit_scale=basis.logit_scale,
        device=device,
        prototypes=load_prototypes(folder, basis.embeddings, scorer.prompts()),
    )


def read_known(folder: OutputFolder, spec: ScorerSpec, passes: int | None) -> dict[str, np.ndarray]:
    """Return the arrays of a scorer: after some passes, or all if None."""
    if spec.learned is None or passes == 0:
        return {}
    return folder.read_arrays(names.fit(spec.name, spec.learned, passes))


@contextmanager
def using_fit(folder: OutputFolder, spec: ScorerSpec, passes: int | None = None) -> Iterator[None]:
    """Say of what a scorer raises in the block which arrays it was given, and how to mend them.

    Raises:
      LedgerError: for arrays of other names, shapes or types than the scorer made.
    """
    try:
        yield
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        UsageError,
    ) as error:
        if spec.learned is None or passes == 0:
            raise
        place = folder.files.url(names.fit(spec.name, spec.learned, passes))
        reason = " ".join(str(error).split())[:300]
        raise LedgerError(
            f"scorer {spec.name} cannot use {place} ({type(error).__name__}: {reason}); fit it "
            f"again: clipsieve score {folder.root} --scorers {spec.name} --refit"
        ) from error


def is_learned(folder: OutputFolder, spec: ScorerSpec) -> bool:
    """Whether a scorer needs no further pass."""
    return spec.learned is None or folder.files.exists(names.fit(spec.name, spec.learned))


def describe_fit(
    folder: OutputFolder, spec: ScorerSpec, source: str, members: Sequence[ShardRange]
) -> None:
    """Record what a scorer learns of: its parameters and the shards, of `source` if not ""."""
    assert spec.learned is not None
    description = {
        "scorer": spec.name,
        "parameters": dict(spec.make().parameters()),
        "neighbours": dict(spec.neighbours),
        "learned_on": source or None,
        "members": [asdict(member) for member in members],
    }
    folder.write_json(names.fit_description(spec.name, spec.learned), description)


def read_learned_members(folder: OutputFolder, spec: ScorerSpec) -> tuple[ShardRange, ...] | None:
    """Return the shards that a scorer learnt of, or learns of; None if that is not recorded.

    Raises:
      LedgerError: if the description is damaged.
    """
    if spec.learned is None:
        return None
    try:
        return read_fit_description(folder, spec.name, spec.learned).members
    except FileNotFoundError:
        return None


def passes_done(folder: OutputFolder, spec: ScorerSpec) -> int:
    """Return the completed passes of a scorer that has not finished learning."""
    assert spec.learned is not None
    done = 0
    while folder.files.exists(names.fit(spec.name, spec.learned, done + 1)):
        done += 1
    return done


def learn(
    run: Callable[[LearnStage, Sequence[Element]], Report],
    folder: OutputFolder,
    stage: LearnStage,
    members: Sequence[ShardRange],
) -> bool:
    """Let the scorers of `stage` learn of the members, pass after pass.

    Args:
      run: runs one pass.
      folder: where the arrays are kept.
      stage: its `scorers` are those that learn, its `passes` are not read.
      members: the dataset to learn of.

    Returns:
      Whether all of them have learnt; false only if the run was stopped.
    """
    elements = [Element(member.shard, member.shard, max(member.rows, 1)) for member in members]
    for spec in stage.scorers:
        describe_fit(folder, spec, stage.source, members)
    while True:
        todo = tuple(spec for spec in stage.scorers if not is_learned(folder, spec))
        if not todo:
            break
        if stage.control.stopped:
            return False
        passes = {spec.name: passes_done(folder, spec) for spec in todo}
        report = run(replace(stage, scorers=todo, passes=passes), elements)
        if report.failed:
            raise LedgerError(
                f"shards {', '.join(report.failed)} kill the worker that observes them, and "
                f"{', '.join(spec.name for spec in todo)} must learn of all; look at the system log"
            )
    for spec in stage.scorers:
        drop_passes(folder, spec)
    return True


def drop_passes(folder: OutputFolder, spec: ScorerSpec) -> None:
    """Remove the arrays of single passes of a scorer that has learnt."""
    assert spec.learned is not None
    for done in range(1, passes_done(folder, spec) + 1):
        folder.files.delete(names.fit(spec.name, spec.learned, done))
