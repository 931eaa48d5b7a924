"""Bring the scores of a folder up to date: prompts, neighbour lists, learning, family files."""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clipsieve.control import Control
from clipsieve.errors import UsageError
from clipsieve.job.learn_on import LearningFolders
from clipsieve.job.plan import require_references
from clipsieve.job.prompts import encode_prompts
from clipsieve.job.reporter import Reporter
from clipsieve.neighbours.stored import NeighbourSet, NeighbourStage
from clipsieve.schemas import footers
from clipsieve.scorers.base import Scorer
from clipsieve.scorers.columns import family_revision, scorer_basis, scorer_revision
from clipsieve.scorers.ood.family import OodScorer
from clipsieve.scorers.registry import EMBEDDED, is_family_only, make_scorers, own_options
from clipsieve.scoring.learn import (
    Basis,
    LearnStage,
    ScorerSpec,
    describe_fit,
    drop_passes,
    folder_logit_scale,
    is_learned,
    learn,
    read_learned_members,
    scorer_context,
)
from clipsieve.scoring.prompts import PromptStage, prompt_sets
from clipsieve.scoring.score import FamilySpec, ScoreStage
from clipsieve.stage import Element, Engine, Report
from clipsieve.store import names
from clipsieve.store.canonical import short_hash
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import FamilyEntry, Manifest, ScorerEntry
from clipsieve.store.members import ShardRange, members_key, ok_rows, read_members
from clipsieve.store.parquet import Footer
from clipsieve.store.records import FAILED, read_records

#: What the progress line of a stage counts, if not rows.
UNITS = {"prompts": "texts"}


@dataclass(frozen=True, slots=True)
class ScoringSettings:
    """How scores are brought up to date.

    Attributes:
      scorers: names; every scorer of the folder's families should be among them.
      options: of scorers, by name.
      device: for texts that must be encoded and neighbours that must be found.
      run_id: for footers and records.
      refit: let all of them learn again, of the rows that are there now.
      learn_on: output folder, absolute, that the scorers of `asked` learn of; None is as before,
        the folder itself at first.
      asked: names of the scorers that the user asked for.
      workers_from: rows of the dataset from which worker processes are started for it, if the
        engine has some: a process takes seconds to start.
    """

    scorers: tuple[str, ...]
    options: Mapping[str, Mapping[str, Any]]
    device: str
    run_id: str
    refit: bool = False
    workers_from: int = 0
    learn_on: str | None = None
    asked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scored:
    """How far the families of a folder were brought up to date.

    Attributes:
      manifest: names the families if no shard is left, else those before.
      done: shards scored.
      left: shards that are not scored: the run was stopped, or they kill their worker.
    """

    manifest: Manifest
    done: int
    left: int


class Scoring:
    """Brings the scores of one folder up to date; the caller holds its lock."""

    def __init__(
        self,
        folder: OutputFolder,
        manifest: Manifest,
        settings: ScoringSettings,
        engine: Engine,
        reporter: Reporter,
        control: Control,
    ) -> None:
        """Look at what the folder holds.

        Raises:
          UsageError: if it has no shard, for a scorer whose reference captions it lacks, and for a
            folder to learn on that cannot be used.
        """
        assert manifest.model is not None and manifest.embeddings is not None
        self._folder, self._manifest, self._settings = folder, manifest, settings
        self._engine, self._reporter, self._control = engine, reporter, control
        self._members = read_members(folder)
        if not self._members:
            raise UsageError(f"{folder.root} holds no shard yet; run `clipsieve run` first")
        require_references(settings.scorers, settings.options, manifest.references_col())
        self._rows = ok_rows(self._members)
        self._scorers = make_scorers(settings.scorers, settings.options)
        self._basis = Basis(
            manifest.model, manifest.embeddings, folder_logit_scale(folder, manifest, self._members)
        )
        self._folders = LearningFolders(
            folder, self._basis, self._members, settings.learn_on, settings.asked
        )
        for scorer in self._scorers:  # refuses before anything is written or removed
            self._folders.source(scorer, manifest.scorers().get(scorer.name))

    def run(self) -> Scored:
        """Do what is missing; stopped, only part of it, and no family is switched then."""
        prompts = PromptStage(
            **self._common(),
            model=self._basis.model,
            embeddings=self._basis.embeddings,
            prompts=prompt_sets(self._scorers),
        )
        if not encode_prompts(self._run, prompts, self._reporter):
            return self._unfinished()
        entries = self._learn()
        if entries is None or self._control.stopped:
            return self._unfinished()
        families = self._families(entries)
        stage = ScoreStage(
            **self._common(),
            basis=self._basis,
            families=families,
            references_col=self._manifest.references_col(),
            rows=self._rows,
        )
        elements = stage.elements()
        if elements:
            self._report_earlier_fits(entries, families)
        self._run(stage, elements)
        left = len(stage.elements()) if elements else 0
        done = len(elements) - left
        if left:
            return Scored(self._manifest, done, left)
        return Scored(self._switched(families, entries), done, 0)

    def _common(self) -> dict[str, Any]:
        """Return the fields that all stages have."""
        return {
            "out": self._folder.root,
            "run_id": self._settings.run_id,
            "device": self._settings.device,
            "control": self._control,
        }

    def _run(self, stage: Any, elements: Sequence[Element]) -> Report:
        here = self._rows < self._settings.workers_from
        if not elements:
            return Report()
        before = self._control.snapshot()
        with self._reporter.watching(
            lambda: self._control.snapshot() - before,
            sum(element.weight for element in elements),
            UNITS.get(stage.name, "rows"),
        ):
            report = self._engine.run(stage, elements, here)
        self._report_failed(report)
        return report

    def _unfinished(self) -> Scored:
        return Scored(self._manifest, 0, len(self._members))

    # Learning

    def _learn(self) -> dict[str, ScorerEntry] | None:
        """Let scorers learn that must; what the manifest shall say of each, None if stopped."""
        entries = {scorer.name: self._planned(scorer) for scorer in self._scorers}
        sets = sorted({i for _, entry in entries.values() for i in entry.neighbours.values()})
        if not self._find_neighbours(sets):
            return None
        specs = [
            self._spec(scorer, entries[scorer.name][1])
            for scorer in self._scorers
            if entries[scorer.name][1].learned is not None
        ]
        for spec in specs:
            self._describe_again(spec, entries[spec.name][1])
            if is_learned(self._folder, spec):  # a kill may have come before they were removed
                drop_passes(self._folder, spec)
        missing = tuple(spec for spec in specs if not is_learned(self._folder, spec))
        new = [scorer for scorer in self._scorers if entries[scorer.name][0]]
        self._report_classes(new)
        for scorer in self._scorers:
            is_new, entry = entries[scorer.name]
            if is_new and entry.learned is not None:
                self._report_learning(scorer, entry)
        by_members: dict[tuple[str, tuple[ShardRange, ...]], list[ScorerSpec]] = {}
        for spec in missing:
            source = entries[spec.name][1].learned_on or ""
            by_members.setdefault((source, self._members_of(spec, source)), []).append(spec)
        for (source, members), learning in by_members.items():
            stage = LearnStage(
                **self._common(),
                basis=self._basis,
                scorers=tuple(learning),
                passes={},
                rows=ok_rows(members),
                shards=len(members),
                source=source,
            )
            if not learn(self._run, self._folder, stage, members):
                return None
        return {name: entry for name, (_, entry) in entries.items()}

    def _members_of(self, spec: ScorerSpec, source: str) -> tuple[ShardRange, ...]:
        """Return the shards that a scorer learns of: those recorded, or all that there are."""
        recorded = read_learned_members(self._folder, spec)
        return self._folders.members(source) if recorded is None else recorded

    def _planned(self, scorer: Scorer) -> tuple[bool, ScorerEntry]:
        """Return what the manifest shall say of a scorer, and whether it learns anew.

        What was learnt is used for rows that came later, until it is asked for anew, a parameter or
        the embeddings change, or a shard is gone whose rows are read again for neighbours.
        """
        basis = scorer_basis(scorer, self._basis.embeddings.revision)
        recorded = self._manifest.scorers().get(scorer.name)
        options = dict(self._settings.options.get(scorer.name, {}))
        source = self._folders.source(scorer, recorded)
        if (
            recorded is not None
            and recorded.basis == basis
            and (recorded.learned is None or recorded.learned_on == source)
            and self._holds(scorer, recorded)
        ):
            return False, dataclasses.replace(recorded, options=options)
        sets = [
            NeighbourSet.new(spec, self._members, self._basis.embeddings.revision)
            for spec in scorer.neighbour_lists()
        ]
        neighbours = {lists.spec.key: lists.id for lists in sets}
        if source is not None and not self._settings.refit:
            taken = self._folders.taken(scorer, basis, options, source)
            if taken is not None:
                return True, taken
        members = self._folders.members(source)
        context = scorer_context(
            self._folder, self._basis, scorer, ok_rows(members), self._settings.device
        )
        learned = None
        if scorer.statistics({}, context):
            learned = _fit_id(basis, neighbours, members)
            if self._settings.refit:
                self._forget(scorer.name, learned)
        for lists in sets:
            if self._settings.refit:
                self._folder.files.delete_folder(names.neighbours_folder(lists.id))
            lists.save(self._folder)
        revision = scorer_revision(basis, learned, neighbours)
        learned_on = source if learned is not None else None
        return True, ScorerEntry(revision, options, learned, basis, neighbours, learned_on)

    def _holds(self, scorer: Scorer, recorded: ScorerEntry) -> bool:
        """Whether what a scorer has learnt can score the rows that are there now."""
        learns = recorded.learned is not None or recorded.neighbours
        if learns and self._settings.refit:
            return False
        spec = self._spec(scorer, recorded)
        if not is_learned(self._folder, spec) and not self._can_relearn(spec, recorded):
            return False
        present = {(member.shard, member.key) for member in self._members}
        for identifier in recorded.neighbours.values():
            lists = NeighbourSet.load(self._folder, identifier)
            if lists is None:
                return False
            if not all((member.shard, member.key) in present for member in lists.members):
                return False
        return True

    def _can_relearn(self, spec: ScorerSpec, recorded: ScorerEntry) -> bool:
        """Whether arrays that are gone can be learnt again of the very rows they were learnt of."""
        members = read_learned_members(self._folder, spec)
        if members is None:
            return False
        source = recorded.learned_on or self._folder.root
        present = {(member.shard, member.key) for member in self._folders.members(source)}
        return all((member.shard, member.key) in present for member in members)

    def _describe_again(self, spec: ScorerSpec, entry: ScorerEntry) -> None:
        """Write a description that is gone, if the shards are still those that were learnt of."""
        assert spec.learned is not None
        if self._folder.files.exists(names.fit_description(spec.name, spec.learned)):
            return
        source = entry.learned_on or ""
        members = self._folders.members(source)
        if _fit_id(entry.basis, entry.neighbours, members) == spec.learned:
            describe_fit(self._folder, spec, source, members)

    def _forget(self, scorer: str, learned: str) -> None:
        """Remove arrays that were learnt of the same rows before, those of single passes too."""
        for name in self._folder.files.list_files(f"fits/{scorer}"):
            if name.startswith(f"{learned}."):
                self._folder.files.delete(f"fits/{scorer}/{name}")

    def _spec(self, scorer: Scorer, entry: ScorerEntry) -> ScorerSpec:
        return ScorerSpec(
            scorer.name,
            own_options(scorer.name, self._settings.options),
            entry.revision,
            entry.learned,
            entry.neighbours,
        )

    def _find_neighbours(self, sets: Sequence[str]) -> bool:
        """Find the neighbour lists that are missing; whether all of them are there."""
        stage = NeighbourStage(
            **self._common(),
            sets=tuple(sets),
            embeddings=self._basis.embeddings,
            dim=self._basis.model.dim,
        )
        elements = stage.elements(self._members)
        return len(self._run(stage, elements).done) == len(elements)

    def _report_classes(self, scorers: Sequence[Scorer]) -> None:
        """Report what images are compared with, for each list of classes once."""
        sets: dict[str, tuple[str, str]] = {}
        for scorer in scorers:
            if isinstance(scorer, OodScorer):
                prompts = scorer.prompt_set
                options = own_options(scorer.name, self._settings.options)
                name = options.get("classes", "imagenet")
                source = f" of {name}" if isinstance(name, str) else ""
                texts = sum(map(len, prompts.texts))
                text = f"{len(prompts.names):,} classes{source}, {texts:,} prompts"
                sets.setdefault(prompts.key, (scorer.family, text))
        for key, (family, text) in sets.items():
            self._reporter.report("classes", f"{family}: {text}", prompts=key)

    def _report_learning(self, scorer: Scorer, entry: ScorerEntry) -> None:
        members = self._members_of(self._spec(scorer, entry), entry.learned_on or "")
        rows = sum(member.rows for member in members)
        again = " again" if scorer.name in self._manifest.scorers() else ""
        place = f" of {entry.learned_on}" if entry.learned_on is not None else ""
        text = f"{scorer.name}: fitted{again} to {rows:,} rows of {len(members)} shards{place}"
        self._reporter.report("fit", text, fit=entry.learned, basis=entry.basis)

    def _report_earlier_fits(
        self, entries: Mapping[str, ScorerEntry], families: Sequence[FamilySpec]
    ) -> None:
        """Report scorers that score new shards by what they learnt of other rows before."""
        revisions = {family.name: family.revision for family in families}
        for scorer in self._scorers:
            entry = entries[scorer.name]
            recorded = self._manifest.scorers().get(scorer.name)
            if recorded is None or recorded.learned != entry.learned or entry.learned_on:
                continue
            members = read_learned_members(self._folder, self._spec(scorer, entry))
            if members is None:
                continue
            learned = {(member.shard, member.key) for member in members}
            present = {(member.shard, member.key) for member in self._members}
            revision = revisions[scorer.family]
            others = self._footers(scorer.family, revision, present - learned)
            new = sum(not footer for footer in others)
            if not new:
                continue
            runs = [
                footer[footers.RUN_ID]
                for footer in self._footers(scorer.family, revision, present & learned)
                if footers.RUN_ID in footer
            ]
            since = _date_of_runs(runs)
            rows = sum(member.rows for member in members)
            shards = "1 new shard is" if new == 1 else f"{new:,} new shards are"
            when = f", in use since {since}," if since is not None else ""
            self._reporter.report(
                "reference",
                f"{scorer.name}: {shards} scored by what was learnt{when} of "
                f"{rows:,} rows of {len(members):,} shards; to learn of all of them: "
                f"clipsieve score {self._folder.root} --scorers {scorer.name} --refit",
                scorer=scorer.name,
                since=since,
                learned_rows=rows,
                shards=new,
            )

    def _footers(
        self, family: str, revision: str, members: Collection[tuple[str, str]]
    ) -> list[Footer]:
        """Read the footers of a family's tables of some shards, by name and key."""
        return self._folder.read_footers(
            names.scores(family, revision, shard) for shard, _ in sorted(members)
        )

    # Families

    def _families(self, entries: Mapping[str, ScorerEntry]) -> tuple[FamilySpec, ...]:
        """Return the families as they shall be."""
        by_family: dict[str, list[ScorerSpec]] = {}
        for scorer in self._scorers:
            spec = self._spec(scorer, entries[scorer.name])
            by_family.setdefault(scorer.family, []).append(spec)
        active = self._manifest.revisions()
        return tuple(
            FamilySpec(
                family,
                family_revision({spec.name: spec.revision for spec in specs}),
                tuple(specs),
                active.get(family),
            )
            for family, specs in by_family.items()
        )

    def _switched(
        self, families: Sequence[FamilySpec], entries: Mapping[str, ScorerEntry]
    ) -> Manifest:
        """Return the manifest that names the families as they are now."""
        options = self._settings.options
        written = {
            family.name: FamilyEntry(
                family.revision,
                {spec.name: entries[spec.name] for spec in family.scorers},
                dict(options.get(family.name, {})) if is_family_only(family.name) else {},
            )
            for family in families
        }
        return dataclasses.replace(self._manifest, families={**self._manifest.families, **written})

    # The folder

    def _report_failed(self, report: Report) -> None:
        """Report why shards were not scored."""
        for record in read_records(self._folder, self._settings.run_id) if report.failed else ():
            if record.state == FAILED and record.shard in report.failed:
                self._reporter.report("failed", f"failed: {record.error}", shard=record.shard)


def _fit_id(basis: str | None, neighbours: Mapping[str, str], members: Sequence[ShardRange]) -> str:
    """Return the id of what is learnt of some shards."""
    return short_hash([basis, dict(neighbours), members_key(members)])


def folder_scorers(manifest: Manifest, scorers: Sequence[str]) -> tuple[str, ...]:
    """Return `scorers` and those that share a family with one of them, in the folder's order.

    A family's file holds the columns of all its scorers.
    """
    families = {name.partition(".")[0] for name in scorers}
    recorded = [n for n in manifest.scorers() if n.partition(".")[0] in families]
    return tuple(name for name in dict.fromkeys([*recorded, *scorers]) if name != EMBEDDED)


def drop_revisions(folder: OutputFolder, manifest: Manifest, previous: Manifest) -> None:
    """Remove revisions of families in neither manifest; readers may still use `previous`."""
    for family in manifest.families:
        keep = {m.revisions().get(family) for m in (manifest, previous)}
        for name in folder.files.list_folders(f"scores/{family}"):
            if names.marked_hash(name, "rev=") not in {None, *keep}:
                folder.files.delete_folder(f"scores/{family}/{name}")


def _date_of_runs(run_ids: Iterable[str]) -> str | None:
    """Return the earliest date that run ids begin with, as ISO 8601; None if none has one.

    >>> _date_of_runs(["20261129T020949Z-10039a", "nightly"])
    '2026-11-29'
    """
    dates = [run_id[:8] for run_id in run_ids if re.match(r"\d{8}T\d{6}Z", run_id)]
    return f"{min(dates)[:4]}-{min(dates)[4:6]}-{min(dates)[6:]}" if dates else None
