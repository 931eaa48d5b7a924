"""The whole job: plan, embed and score what is not done yet, compact, and say how it went."""

import dataclasses
import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from clipsieve import versions
from clipsieve.control import Control
from clipsieve.embed.commit import embedded_family, embeddings_entry
from clipsieve.errors import LedgerError, UsageError
from clipsieve.job.asked import asked_scorers
from clipsieve.job.audit import unseen_findings
from clipsieve.job.compact import compact_folder
from clipsieve.job.mend import Mending, find_damage, restore_manifest, save_verification
from clipsieve.job.ood_summary import ood_line
from clipsieve.job.plan import (
    Plan,
    absolute_folder,
    dry_run_report,
    input_entry,
    make_plan,
    plan_line,
)
from clipsieve.job.reporter import Reporter, clock
from clipsieve.job.room import check_room
from clipsieve.job.scoring import Scored, Scoring, ScoringSettings, drop_revisions
from clipsieve.job.signals import (
    EXIT_FAILED_SHARDS,
    exit_code_of,
    start_control,
    stopping_on_signals,
)
from clipsieve.schemas import footers
from clipsieve.schemas.states import RowState
from clipsieve.scorers.registry import EMBEDDED
from clipsieve.settings import RunConfig
from clipsieve.sql.views import write_sql
from clipsieve.stage import Engine
from clipsieve.statistics.counts import RowCounts
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import Manifest
from clipsieve.store.records import FAILED, ShardRecord, read_records, write_run
from clipsieve.store.seal import Seal

#: Rows from which `run` computes scores from storage in worker processes too.
WORKERS_FROM = 100_000


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended.

    Attributes:
      run_id: name of the run, also of its manifest in `_runs/`.
      out: the output folder.
      planned: shards among the inputs.
      skipped: of those, done before.
      done: written by this run.
      failed: records of shards that could not be read.
      left: shards not begun, because the run was stopped.
      unscored: shards that lack scores from storage: the run was stopped, or they kill workers.
      counts: rows by state of all shards of this input that are in the ledger now.
      new_counts: likewise, of the shards this run wrote.
      stopped: the signal or deadline that stopped it before all was done, or None.
      seconds: from start to end.
      encode_seconds: of that, in the embed stage.
      findings: what the audit of the new density scores says, in a line; empty without any.
      ood: what new ood scores say, in a line; empty without any.
      exit_code: 0, 1 with damaged files, 3 with failed or left shards, 143 or 130 after a signal.
      damaged: files that are damaged, and that this run could not make again.
    """

    run_id: str
    out: str
    planned: int
    skipped: int
    done: int
    failed: tuple[ShardRecord, ...]
    left: int
    unscored: int
    counts: RowCounts
    new_counts: RowCounts
    stopped: str | None
    seconds: float
    encode_seconds: float
    findings: str
    ood: str
    exit_code: int
    damaged: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {
            **dataclasses.asdict(self),
            "failed": [{"shard": r.shard, "uri": r.uri, "error": r.error} for r in self.failed],
            "counts": dict(self.counts.states),
            "new_counts": dict(self.new_counts.states),
        }


def run(
    config: RunConfig, engine: Engine, reporter: Reporter | None = None, wide: bool = True
) -> RunResult:
    """Do the whole job for `config`; what is done already is not done again.

    Args:
      config: settings.
      engine: runs the stages.
      reporter: where progress goes; None is standard error.
      wide: whether to score from storage and compact after the embed stage, so that the `scores`
        view shows the new rows.

    Raises:
      UsageError: nothing matched, nothing could be scored, or the folder holds something else.
      Locked: another run is writing there.
      LedgerError: rows went missing on the way.
    """
    started = time.time()
    reporter = reporter or Reporter(config.log_format)
    folder = OutputFolder.open(config.out)
    control = start_control(config, folder, started)
    with stopping_on_signals(control), folder.lock(config.lock_terms(), control.stop):
        restore_manifest(folder, reporter)
        manifest = folder.load_manifest()
        damage = find_damage(folder, control)
        plan = make_plan(
            config, folder, manifest, engine, reporter, control, damaged=frozenset(damage)
        )
        reporter.run_id = control.run_id
        room = check_room(folder, plan)
        folder.sweep()
        mending = Mending(folder, manifest, damage, reporter)
        manifest = _begin(folder, manifest, plan)
        reporter.report(
            "plan", plan_line(plan), planned=len(plan.inputs.items), todo=len(plan.todo)
        )
        if room:
            reporter.report("room", room)
        encode_started = time.time()
        records: Mapping[str, ShardRecord] = {}
        if plan.todo:
            mending.begin_shards(manifest, {item.shard for item in plan.todo})
            with reporter.watching(control.snapshot, plan.total_rows):
                records = _embed(folder, plan, engine)
        encode_seconds = time.time() - encode_started
        _check_ledger(folder, plan, records)
        findings, ood, left = "", "", 0
        is_finished = not wide or (not control.stopped and not folder.shards())
        if not is_finished and not control.stopped:
            mending.begin_scores(manifest)
            scored = _score(folder, manifest, plan, engine, reporter, control)
            previous, manifest, left = manifest, scored.manifest, scored.left
            if not left and not control.stopped:
                mending.begin_wide()
                manifest = compact_folder(folder, manifest, engine, control)
                drop_revisions(folder, manifest, previous)
                is_finished = True
                if not control.stopped:
                    findings = unseen_findings(folder, manifest)
                    ood = ood_line(folder, manifest) if manifest.wide != previous.wide else ""
        times = (started, encode_seconds)
        result = _result(plan, records, times, is_finished, control)
        result = dataclasses.replace(result, unscored=left, findings=findings, ood=ood)
        if mending.left and not control.stopped:
            mending.report_left()
            exit_code = result.exit_code or LedgerError.exit_code
            result = dataclasses.replace(result, damaged=mending.left, exit_code=exit_code)
        every = _write_run(folder, plan, result, started, control)
        write_sql(folder, folder.require_manifest())
        save_verification(folder, _seals(every, plan), control.stopped)
    _report_result(reporter, result, config.out)
    _refuse_empty(result)
    return result


def dry_run(config: RunConfig, engine: Engine) -> dict[str, Any]:
    """What `run` would do, as plain JSON values; writes nothing."""
    folder = OutputFolder.open(config.out)
    control = start_control(config, folder, time.time())
    reporter = Reporter(config.log_format)
    manifest = folder.load_manifest()
    damage = frozenset(find_damage(folder, keep=False))
    plan = make_plan(config, folder, manifest, engine, reporter, control, True, damage)
    return dry_run_report(plan)


def _embed(folder: OutputFolder, plan: Plan, engine: Engine) -> Mapping[str, ShardRecord]:
    """Embed what is to do; return the records, whose rows are those that the engine counted."""
    assert plan.stage is not None
    counted = engine.run(plan.stage, plan.stage.elements(plan.todo)).rows
    records = _records(read_records(folder, plan.config.run_id), plan)
    written = sum(map(_counts, records.values()), RowCounts())
    if counted.rows != written.rows:
        raise LedgerError(
            f"the engine counted {counted.rows} rows and the shard records say "
            f"{written.rows}; it lost or doubled elements: use another runner"
        )
    return records


def _check_ledger(folder: OutputFolder, plan: Plan, records: Mapping[str, ShardRecord]) -> None:
    """Refuse a ledger that lacks rows of a shard that this run wrote, or found done."""
    expected = {shard: sum(states.values()) for shard, states in plan.done.items()}
    expected |= {r.shard: r.rows for r in records.values() if r.state != FAILED}
    ledgers = folder.read_footers(map(names.samples, expected))
    missing = [
        shard
        for (shard, rows), footer in zip(expected.items(), ledgers, strict=True)
        if footer.get(footers.ROWS) != str(rows)
    ]
    if missing:
        raise LedgerError(
            f"{len(missing)} shards that were written are not in the ledger any more, first "
            f"{folder.files.url(names.samples(missing[0]))}; keep other programs out of the output "
            "folder, and run the same command again"
        )


def _score(
    folder: OutputFolder,
    manifest: Manifest,
    plan: Plan,
    engine: Engine,
    reporter: Reporter,
    control: Control,
) -> Scored:
    """Bring the families that come from storage up to date."""
    if not plan.scorers:
        return Scored(manifest, 0, 0)
    config = plan.config
    settings = ScoringSettings(
        plan.scorers,
        plan.options,
        config.device,
        control.run_id,
        config.refit,
        WORKERS_FROM,
        absolute_folder(config.learn_on),
        asked_scorers(config.scorers, config.model),
    )
    return Scoring(folder, manifest, settings, engine, reporter, control).run()


def _begin(folder: OutputFolder, before: Manifest | None, plan: Plan) -> Manifest:
    """Record what this folder is about to hold, before the first row is written."""
    assert plan.stage is not None
    model = plan.stage.model
    entry = embeddings_entry(model)
    previous = before or Manifest()
    now = dataclasses.replace(
        previous.with_input(input_entry(plan.config)),
        model=model,
        embeddings=entry,
        families={EMBEDDED: embedded_family(entry.revision), **_other_families(previous)},
    )
    if now != before:
        folder.save_manifest(now)
    return now


def _other_families(manifest: Manifest) -> Mapping[str, Any]:
    return {name: family for name, family in manifest.families.items() if name != EMBEDDED}


def _records(records: Iterable[ShardRecord], plan: Plan) -> dict[str, ShardRecord]:
    """Return the last record of each shard of this run; not of an earlier one of the same id."""
    todo = {item.shard for item in plan.todo}
    new = (record for record in records if record.to_json() not in plan.earlier)
    return {record.shard: record for record in new if record.shard in todo}


def _seals(records: Iterable[ShardRecord], plan: Plan) -> dict[str, Seal]:
    """Return the seals of all files that this run wrote, by its shard records."""
    new = (record for record in records if record.to_json() not in plan.earlier)
    return {name: seal for record in new for name, seal in record.files.items()}


def _result(
    plan: Plan,
    records: Mapping[str, ShardRecord],
    times: tuple[float, float],
    is_finished: bool,
    control: Control,
) -> RunResult:
    """Return how the run ended; `is_finished`: nothing after the embed stage was left out."""
    failed = tuple(r for r in records.values() if r.state == FAILED)
    done = [r for r in records.values() if r.state != FAILED]
    new = sum((_counts(record) for record in done), RowCounts())
    old = sum((RowCounts(states, 1) for states in plan.done.values()), RowCounts())
    left = len(plan.todo) - len(records)
    if left and not control.stopped:
        raise LedgerError(f"{left} shards have no record though nothing stopped the run")
    is_finished = is_finished and not left
    too_many = len(failed) > plan.config.max_failed_shards
    exit_code = EXIT_FAILED_SHARDS if too_many else 0
    return RunResult(
        run_id=control.run_id,
        out=plan.config.out,
        planned=len(plan.inputs.items),
        skipped=len(plan.done),
        done=len(done),
        failed=failed,
        left=left,
        unscored=0,
        counts=old + new,
        new_counts=new,
        stopped=None if is_finished else control.reason,
        seconds=round(time.time() - times[0], 3),
        encode_seconds=round(times[1], 3),
        findings="",
        ood="",
        exit_code=exit_code if is_finished else exit_code_of(1, control),
    )


def _counts(record: ShardRecord) -> RowCounts:
    return RowCounts(dict(record.states), shards=1)


def _write_run(
    folder: OutputFolder, plan: Plan, result: RunResult, started: float, control: Control
) -> list[ShardRecord]:
    """Write the manifest of the run; return all records of its id."""
    assert plan.stage is not None
    seconds = control.snapshot().seconds
    content = {
        "status": "stopped" if result.stopped else "failed" if result.exit_code else "ok",
        "started_at": started,
        "ended_at": time.time(),
        "argv": sys.argv,
        "process": os.getpid(),
        "config": plan.config.to_json(),
        "versions": versions.installed(),
        "model": plan.stage.model.identity_key(),
        "stage_seconds": {stage: round(spent, 3) for stage, spent in seconds.items()},
        "result": result.to_json(),
    }
    return write_run(folder, result.run_id, content)


def _report_result(reporter: Reporter, result: RunResult, out: str) -> None:
    """Report the closing summary; commands in it name the output folder as `out`."""
    lines = []
    if result.new_counts.rows:
        rate = result.new_counts.rows / max(result.encode_seconds, 1e-9)
        lines.append(
            f"{result.new_counts.rows:,} rows in {clock(result.encode_seconds)} "
            f"({rate:,.0f} rows/s)"
        )
    if result.skipped:
        lines.append(f"{result.skipped} of {result.planned} shards were done before")
    width = max((len(state) for state in result.counts.states), default=0)
    for state, rows in sorted(result.counts.states.items(), key=lambda pair: -pair[1]):
        lines.append(f"  {state:<{width}}  {rows:>10,}  {rows / result.counts.rows:6.1%}")
    lines += [f"failed: {record.error}" for record in result.failed]
    if result.findings:
        lines += [result.findings, f"groups: clipsieve audit {out}"]
    if result.ood:
        lines.append(result.ood)
    if result.stopped:
        lines.append(f"stopped by {result.stopped}; {_left_text(result)}: run it again")
    elif result.unscored:
        lines.append(f"{result.unscored} shards have no scores from storage, so none are shown")
    else:
        query = "SELECT status, count(*), avg(clip_score) FROM scores GROUP BY status"
        lines.append(f'next: clipsieve sql {out} "{query}"')
    reporter.report_lines("result", lines, **result.to_json())


def _left_text(result: RunResult) -> str:
    """Return what a stopped run left."""
    if result.left:
        return f"{result.left} shards left"
    if result.unscored:
        return f"{result.unscored} shards left to score"
    return "scores are not shown yet"


def _refuse_empty(result: RunResult) -> None:
    """Refuse to call a run without one scored row a success: it is a mistake."""
    if result.exit_code == 0 and not result.counts.states.get(RowState.OK):
        raise UsageError(
            f"none of {result.counts.rows} rows could be scored: {dict(result.counts.states)}; "
            "look at `SELECT status, error, count(*) FROM samples GROUP BY ALL`, and check "
            "--image-col and --caption-col"
        )
