"""Filter a folder: a subset of its rows, a reason for every other row, and the funnel."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from clipsieve.control import Control
from clipsieve.errors import LedgerError, UsageError
from clipsieve.job.filter_inputs import FilterInputs
from clipsieve.job.filter_result import (
    FilterResult,
    described_steps,
    notes_on,
    scanned_thresholds,
    standalone_clauses,
)
from clipsieve.job.filter_settings import FilterSettings
from clipsieve.job.mend import mend_subset
from clipsieve.job.reporter import Reporter
from clipsieve.job.signals import exit_code_of, start_control, stopping_on_signals
from clipsieve.schemas import footers
from clipsieve.schemas.subsets import FUNNEL, OVERLAPS, THRESHOLDS
from clipsieve.select.filter_stage import FilterStage, funnel_of
from clipsieve.select.thresholds import (
    Thresholds,
    ThresholdStage,
    constants,
    search_thresholds,
)
from clipsieve.select.verdict import Funnel
from clipsieve.settings import ScoreConfig
from clipsieve.sql.quantity import Quantity
from clipsieve.sql.thresholds import fits_memory, ranked_values
from clipsieve.sql.views import write_sql
from clipsieve.stage import Element, Engine, Report
from clipsieve.store import names
from clipsieve.store.canonical import canonical_json, short_hash
from clipsieve.store.folder import OutputFolder
from clipsieve.store.members import members_key
from clipsieve.store.records import write_run
from clipsieve.store.removals import match_removals, removals_id
from clipsieve.store.subsets import Subset, load_subset

#: Raised when the same definition would choose other rows.
FILTER_VERSION = 1


def filter_rows(
    config: ScoreConfig,
    open_engine: Callable[[], Engine],
    settings: FilterSettings,
    reporter: Reporter | None = None,
) -> FilterResult:
    """Filter an output folder; what is done already is not done again.

    Args:
      config: its `out` is the folder.
      open_engine: returns what runs the passes over its tables.
      settings: what to keep.
      reporter: where progress goes; None is standard error.

    Raises:
      UsageError: for a predicate that cannot run, a column or subset that is not there, or a name
        that another predicate has.
      LedgerError: if files of the folder are missing, damaged, or contradict each other.
      Locked: if another run is writing to the folder.
    """
    started = time.time()
    reporter = reporter or Reporter(config.log_format)
    folder = OutputFolder.open(config.out)
    folder.require_manifest()  # before the lock, which would make the folder
    control = start_control(config, folder, started)
    reporter.run_id = control.run_id
    with stopping_on_signals(control), folder.lock(config.lock_terms(), control.stop):
        folder.sweep()
        if settings.name is not None and not settings.dry_run:
            mend_subset(folder, settings.name, reporter)
        # Refuses what it can before Beam starts.
        inputs = FilterInputs(folder, settings, removals_id(folder))
        engine = open_engine()
        match_removals(folder, engine, control)
        result = _Filter(folder, inputs, engine, reporter, control).run()
        if not settings.dry_run and result.exit_code == 0:
            content = {"status": "ok", "argv": sys.argv, "subset": result.name}
            write_run(folder, control.run_id, content)
            write_sql(folder, folder.require_manifest())  # names the records of this run
    return result


class _Filter:
    """One filter of one folder; the caller holds its lock."""

    def __init__(
        self,
        folder: OutputFolder,
        inputs: FilterInputs,
        engine: Engine,
        reporter: Reporter,
        control: Control,
    ) -> None:
        self._folder, self._inputs, self._engine = folder, inputs, engine
        self._reporter, self._control = reporter, control

    def run(self) -> FilterResult:
        thresholds = self._thresholds()
        if thresholds is None:
            return self._stopped()
        stage, resolved = self._stage(thresholds)
        try:
            return self._finish(stage, thresholds, resolved)
        except UsageError:
            self._forget(stage)
            raise

    def _finish(
        self, stage: FilterStage, thresholds: Sequence[Thresholds], resolved: Sequence[str]
    ) -> FilterResult:
        inputs = self._inputs
        report = self._run(stage, stage.elements(inputs.members))
        if report.failed:
            raise LedgerError(
                f"shards {', '.join(report.failed)} kill the worker that filters them; look at the "
                "system log"
            )
        if len(report.done) != len(inputs.members):
            return self._stopped()
        funnel = funnel_of(report)
        return self._result(stage, funnel, thresholds, resolved)

    # Thresholds

    def _thresholds(self) -> list[Thresholds] | None:
        """Return the thresholds of the predicate; None if the run was stopped."""
        inputs = self._inputs
        quantities = inputs.quantities
        if not quantities:
            return []
        way = inputs.settings.thresholds
        can_scan = inputs.base is None and inputs.is_wide_current()
        if way == "driver" and not can_scan:
            raise UsageError(
                "thresholds=driver scans the view `scores`, which must show the rows that are "
                "filtered: run `clipsieve compact` first, and filter without --from; or leave it "
                "out"
            )
        if way == "driver" or (
            way == "auto" and can_scan and fits_memory(inputs.count, quantities)
        ):
            return self._scanned()
        stage = ThresholdStage(
            self._folder.root,
            self._control.run_id,
            self._control,
            inputs.threshold_rows(),
            quantities,
            (),
            len(inputs.members),
        )
        elements = [Element(m.shard, m.shard, max(m.rows, 1)) for m in inputs.members]
        return search_thresholds(lambda each: self._run(each, elements), stage)

    def _scanned(self) -> list[Thresholds]:
        """Return the thresholds as DuckDB computes them on this machine."""
        inputs = self._inputs
        schema = inputs.threshold_rows().schema
        floating = [f.name for f in schema if pa.types.is_floating(f.type)]
        answers = ranked_values(self._folder.root, floating, inputs.quantities)
        return [scanned_thresholds(q, a) for q, a in zip(inputs.quantities, answers, strict=True)]

    # The stage

    def _stage(self, thresholds: Sequence[Thresholds]) -> tuple[FilterStage, tuple[str, ...]]:
        """Return the stage, and the clauses as they are for people."""
        inputs, quantities = self._inputs, self._inputs.quantities
        clauses = inputs.resolved(constants(quantities, thresholds))
        grouped = {
            number: (quantity, each)
            for number, (quantity, each) in enumerate(zip(quantities, thresholds, strict=True))
            if quantity.group is not None
        }
        revision = self._revision(clauses, grouped)
        before = self._before(inputs.name) if inputs.settings.replace else None
        return (
            FilterStage(
                out=self._folder.root,
                run_id=self._control.run_id,
                control=self._control,
                rows=inputs.clause_rows(),
                steps=inputs.steps,
                clauses=clauses,
                grouped=grouped,
                memberships=inputs.memberships,
                rescues=inputs.rescues,
                subset=inputs.name,
                revision=revision,
                writes=not inputs.settings.dry_run,
                again=before is not None and before.revision == revision,
            ),
            standalone_clauses(clauses, grouped, inputs.name),
        )

    def _revision(
        self, clauses: Sequence[str], grouped: Mapping[int, tuple[Quantity, Thresholds]]
    ) -> str:
        """Return the hash of everything that decides which rows are kept."""
        inputs = self._inputs
        by_group = {
            str(number): [list(each.groups), list(map(str, each.bits))]
            for number, (_, each) in grouped.items()
        }
        return short_hash(
            {
                "filter": FILTER_VERSION,
                "definition": inputs.definition,
                "clauses": list(clauses),
                "thresholds": by_group,
                "members": members_key(inputs.members),
                "families": dict(inputs.families),
                "sets": inputs.set_keys(),
            }
        )

    def _run(self, stage: Any, elements: Sequence[Element]) -> Report:
        before = self._control.snapshot()
        total = sum(element.weight for element in elements)
        with self._reporter.watching(lambda: self._control.snapshot() - before, total):
            return self._engine.run(stage, elements)

    # What comes of it

    def _result(
        self,
        stage: FilterStage,
        funnel: Funnel,
        thresholds: Sequence[Thresholds],
        resolved: Sequence[str],
    ) -> FilterResult:
        inputs = self._inputs
        kept = funnel.kept(stage.steps)
        tables = {
            "funnel": funnel.table(stage.steps),
            "overlaps": funnel.overlaps(stage.steps),
            "thresholds": [
                row
                for quantity, each in zip(inputs.quantities, thresholds, strict=True)
                for row in each.table(quantity)
            ],
        }
        notes = [*inputs.notes, *notes_on(tables["funnel"])]
        if not kept and not inputs.settings.dry_run:
            lost = ", ".join(f"{row['lost']:,} by {row['label']}" for row in tables["funnel"])
            raise UsageError(
                f"none of {funnel.rows:,} rows would be kept; they are lost, in order, {lost}; "
                "nothing was written: loosen a clause, and look at --dry-run"
            )
        if not inputs.settings.dry_run:
            self._save(stage, tables, funnel, kept, resolved)
        path = "" if inputs.settings.dry_run else names.subset_folder(stage.subset, stage.revision)
        return FilterResult(
            name=inputs.name,
            rows=funnel.rows,
            kept=kept,
            dropped=funnel.rows - kept,
            funnel=tuple(tables["funnel"]),
            overlaps=tuple(tables["overlaps"]),
            thresholds=tuple(tables["thresholds"]),
            resolved=tuple(resolved),
            path=self._folder.files.url(path) if path else "",
            notes=tuple(notes),
        )

    def _save(
        self,
        stage: FilterStage,
        tables: Mapping[str, Sequence[Mapping[str, Any]]],
        funnel: Funnel,
        kept: int,
        resolved: Sequence[str],
    ) -> None:
        """Write the tables of the whole, then switch to the revision."""
        folder, inputs = self._folder, self._inputs
        name, revision = stage.subset, stage.revision
        schemas = {"funnel": FUNNEL, "overlaps": OVERLAPS, "thresholds": THRESHOLDS}
        for table, rows in tables.items():
            footer = {
                footers.LAYOUT: footers.LAYOUT_VERSION,
                footers.FAMILY: table,
                footers.REVISION: revision,
                footers.ROWS: str(len(rows)),
                footers.PARAMETERS: canonical_json(dict(inputs.definition)),
            }
            content = pa.Table.from_pylist([dict(row) for row in rows], schemas[table])
            folder.write_table(names.subset_table(name, revision, table), content, footer)
        before = self._before(name)
        subset = Subset(
            name=name,
            revision=revision,
            definition=inputs.definition,
            steps=described_steps(stage.steps, resolved),
            rows=funnel.rows,
            kept=kept,
            dropped=funnel.rows - kept,
            families=dict(inputs.families),
            members=members_key(inputs.members),
            shards=tuple(member.shard for member in inputs.members),
            removals=inputs.removals,
            run_id=self._control.run_id,
            created_at=time.time(),
        )
        if before is None or before.revision != revision or before.definition != subset.definition:
            folder.write_json(names.subset_manifest(name), subset.to_json())
            write_sql(folder, folder.require_manifest())  # before the revision it named is gone
        for other in folder.files.list_folders(f"{names.SUBSETS}/{name}"):
            if names.marked_hash(other, "rev=") not in {None, revision}:
                folder.files.delete_folder(f"{names.SUBSETS}/{name}/{other}")

    def _before(self, name: str) -> Subset | None:
        """Return the subset of this name as it was; None if it is damaged, to be replaced."""
        try:
            return load_subset(self._folder, name)
        except UsageError:
            return None

    def _forget(self, stage: FilterStage) -> None:
        """Remove what was written of a subset that cannot be made, unless it is the active one."""
        if not stage.writes:
            return
        before = self._before(stage.subset)
        if before is None or before.revision != stage.revision:
            folder = names.subset_folder(stage.subset, stage.revision)
            self._folder.files.delete_folder(folder)
        below = f"{names.SUBSETS}/{stage.subset}"
        if not self._folder.files.list_files(below) and not self._folder.files.list_folders(below):
            self._folder.files.delete_folder(below)

    def _stopped(self) -> FilterResult:
        return FilterResult(self._inputs.name, exit_code=exit_code_of(1, self._control))
