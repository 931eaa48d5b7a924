"""The whole job: plan, embed and score what is not done yet, compact, and say how it went."""

import dataclasses
import os
import sys
import time
from dataclasses import dataclass
from typing import Any

from clipsieve import versions
from clipsieve.errors import LedgerError, UsageError
from clipsieve.pipelines.audit import FAMILY as AUDITED
from clipsieve.pipelines.audit import audit_dataset
from clipsieve.pipelines.compact import compact
from clipsieve.pipelines.embed import embed_items, group_items
from clipsieve.pipelines.plan import Plan, input_entry, make_plan, plan_line
from clipsieve.pipelines.score import Scored, score_families
from clipsieve.pipelines.signals import EXIT_OF_STOP, stopping_on_signals
from clipsieve.pipelines.workers import embed_with_workers
from clipsieve.progress import METER, STOP
from clipsieve.schemas import footers
from clipsieve.schemas.states import RowState
from clipsieve.settings import RunConfig
from clipsieve.show import Teller, clock
from clipsieve.sql.views import write_sql
from clipsieve.statistics.counts import RowCounts
from clipsieve.store import dataset as datasets
from clipsieve.store.atomic import sweep
from clipsieve.store.dataset import Dataset
from clipsieve.store.layout import Layout
from clipsieve.store.lock import exclusive
from clipsieve.store.parquet import read_footer
from clipsieve.store.runs import FAILED, ShardRecord, read_records, write_manifest

EXIT_FAILED_SHARDS = 3


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended.

    Attributes:
      run_id: name of the run, also of its manifest in `_runs/`.
      out: the output folder.
      planned: shards found; skipped: of those, done before; done: written by this run.
      failed: records of shards that could not be read.
      left: shards not begun, because the run was stopped.
      counts: rows by state of all shards of this input that are in the ledger now.
      new_counts: likewise, of the shards this run wrote.
      stopped: the signal or deadline that stopped it before all was done, or None.
      seconds: from start to end; encode_seconds: of that, in the embed stage.
      findings: what the audit of the new density scores says, in a line; empty without any.
      exit_code: 0, 3 with failed or left shards, 143 or 130 after a signal.
    """

    run_id: str
    out: str
    planned: int
    skipped: int
    done: int
    failed: tuple[ShardRecord, ...]
    left: int
    counts: RowCounts
    new_counts: RowCounts
    stopped: str | None
    seconds: float
    encode_seconds: float
    findings: str
    exit_code: int

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return {
            **dataclasses.asdict(self),
            "failed": [{"shard": r.shard, "uri": r.uri, "error": r.error} for r in self.failed],
            "counts": dict(self.counts.states),
            "new_counts": dict(self.new_counts.states),
        }


def run(config: RunConfig, teller: Teller | None = None, wide: bool = True) -> RunResult:
    """Do the whole job for `config`; what is done already is not done again.

    Args:
      config: settings.
      teller: where progress goes; None is standard error, quiet if it is not a terminal.
      wide: whether to compact at the end, so that the `scores` view shows the new rows.

    Raises:
      UsageError: nothing matched, nothing could be scored, or the folder holds something else.
      Locked: another run is writing there.
      LedgerError: rows went missing on the way.
    """
    started = time.time()
    teller = teller or Teller(config.log_format)
    layout = Layout.at(config.out)
    METER.reset()
    STOP.reset()
    if config.deadline is not None:
        STOP.deadline = started + config.deadline
    with stopping_on_signals(), exclusive(layout):
        dataset = datasets.load(layout)
        plan = make_plan(config, layout, dataset, teller)
        sweep(layout.root)
        teller.run_id = plan.config.run_id
        dataset = _begin(layout, dataset, plan)
        teller.tell("plan", plan_line(plan), planned=len(plan.inputs.items), todo=len(plan.todo))
        encode_started = time.time()
        if plan.todo:
            with teller.watching(METER.snapshot, plan.total_rows):
                _embed(plan)
        encode_seconds = time.time() - encode_started
        records = _records_of(layout, plan)
        findings = ""
        if wide and not STOP and _has_ledger(layout):
            scored = _score_stored(layout, dataset, plan, teller)
            dataset = scored.dataset
            if not STOP:
                dataset = compact(layout, dataset)
                findings = _findings(layout, dataset)
        finished = not STOP or not wide
        result = _result(plan, records, started, encode_seconds, finished, findings)
        _write_manifest(layout, plan, result, started)
        write_sql(layout, dataset)
    _tell_result(teller, result)
    _refuse_empty(result)
    return result


def dry_run(config: RunConfig) -> dict[str, Any]:
    """What `run` would do, as plain JSON values; writes nothing."""
    layout = Layout.at(config.out)
    plan = make_plan(config, layout, datasets.load(layout), Teller(config.log_format))
    committer = plan.job.committer(str(plan.model.device))
    return {
        "input": plan.inputs.description,
        "shards": len(plan.inputs.items),
        "todo": [item.shard for item in plan.todo],
        "done": len(plan.done),
        "rows_to_do": plan.total_rows,
        "bytes_to_do": sum(max(item.fingerprint.size, 0) for item in plan.todo),
        "model": dict(plan.model.identity.meaning()),
        "device": str(plan.model.device),
        "embeddings_rev": committer.revisions.embeddings,
        "families": dict(committer.revisions.families),
        "from_storage": list(plan.stored),
    }


def _embed(plan: Plan) -> None:
    """Embed what is to do, here or in worker processes."""
    if plan.config.workers > 1:  # also for one shard: it may be one that kills its process
        embed_with_workers(plan.job, plan.todo)
        return
    counted = embed_items(plan.job, group_items(plan.todo, plan.config.runner))
    layout = Layout.at(plan.config.out)
    written = sum((_counts(r) for r in _records_of(layout, plan).values()), RowCounts())
    if counted.rows != written.rows:
        raise LedgerError(
            f"runner {plan.config.runner} counted {counted.rows} rows and the shard records say "
            f"{written.rows}; it lost or doubled elements: use another runner"
        )


def _score_stored(layout: Layout, dataset: Dataset, plan: Plan, teller: Teller) -> Scored:
    """Bring the families that come from storage up to date."""
    config = plan.config
    return score_families(
        layout,
        dataset,
        plan.stored,
        config.scorer_options,
        config.device,
        config.run_id or "",
        teller,
        config.refit,
        config.runner,
        config.beam_args,
    )


def _findings(layout: Layout, dataset: Dataset) -> str:
    """What an audit of the folder says, if there are density scores that none has seen."""
    revision = dataset.families.get(AUDITED)
    if revision is None:
        return ""
    seen = read_footer(layout.groups(AUDITED, revision)).get(footers.BUILD)
    if seen == dataset.wide["build"]:
        return ""
    return audit_dataset(layout, dataset).summary()


def _begin(layout: Layout, dataset: Dataset | None, plan: Plan) -> Dataset:
    """Record what this folder is about to hold, before the first row is written."""
    committer = plan.job.committer(str(plan.model.device))
    identity = plan.model.identity
    before = dataset or Dataset()
    now = dataclasses.replace(
        before.with_input(input_entry(plan.config)),
        model={name: getattr(identity, name) for name in identity.__slots__},
        embeddings={"model": identity.slug, "rev": committer.revisions.embeddings},
        families={**before.families, **committer.revisions.families},
    )
    if now != before:
        datasets.save(layout, now)
    return now


def _records_of(layout: Layout, plan: Plan) -> dict[str, ShardRecord]:
    """The last record of each shard of this run; not of an earlier one under the same id."""
    assert plan.config.run_id is not None
    todo = {item.shard for item in plan.todo}
    records = read_records(layout, plan.config.run_id)
    new = (record for record in records if record.to_json() not in plan.earlier)
    return {record.shard: record for record in new if record.shard in todo}


def _result(
    plan: Plan,
    records: dict[str, ShardRecord],
    started: float,
    encode_seconds: float,
    finished: bool,
    findings: str,
) -> RunResult:
    """How the run ended; `finished` says that nothing after the embed stage was left out."""
    failed = tuple(r for r in records.values() if r.state == FAILED)
    done = [r for r in records.values() if r.state != FAILED]
    new = sum((_counts(record) for record in done), RowCounts())
    old = sum((RowCounts(states, 1) for states in plan.done.values()), RowCounts())
    left = len(plan.todo) - len(records)
    exit_code = EXIT_FAILED_SHARDS if len(failed) > plan.config.max_failed_shards else 0
    if left:
        if not STOP:
            raise LedgerError(f"{left} shards have no record though nothing stopped the run")
        finished = False
    if not finished:
        exit_code = EXIT_OF_STOP[STOP.reason or ""]
    return RunResult(
        run_id=plan.config.run_id or "",
        out=plan.config.out,
        planned=len(plan.inputs.items),
        skipped=len(plan.done),
        done=len(done),
        failed=failed,
        left=left,
        counts=old + new,
        new_counts=new,
        stopped=None if finished else STOP.reason,
        seconds=round(time.time() - started, 3),
        encode_seconds=round(encode_seconds, 3),
        findings=findings,
        exit_code=exit_code,
    )


def _counts(record: ShardRecord) -> RowCounts:
    return RowCounts(dict(record.states), shards=1)


def _write_manifest(layout: Layout, plan: Plan, result: RunResult, started: float) -> None:
    status = "stopped" if result.stopped else "failed" if result.exit_code else "ok"
    now = METER.snapshot()
    write_manifest(
        layout,
        result.run_id,
        {
            "status": status,
            "started_at": started,
            "ended_at": time.time(),
            "argv": sys.argv,
            "process": os.getpid(),
            "config": plan.config.to_json(),
            "versions": versions.installed(),
            "model": dict(plan.model.identity.meaning()),
            "stage_seconds": {stage: round(s, 3) for stage, s in now.seconds.items()},
            "result": result.to_json(),
        },
    )


def _tell_result(teller: Teller, result: RunResult) -> None:
    """The closing summary."""
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
        lines += [result.findings, f"groups: clipsieve audit {result.out}"]
    if result.stopped:
        lines.append(f"stopped by {result.stopped}; {result.left} shards left: run it again")
    else:
        query = "SELECT status, count(*), avg(clip_score) FROM scores GROUP BY status"
        lines.append(f'next: clipsieve sql {result.out} "{query}"')
    teller.tell("result", "\n".join(lines), **result.to_json())


def _refuse_empty(result: RunResult) -> None:
    """A run that ends well without one scored row is a mistake, not a success."""
    if result.exit_code == 0 and not result.counts.states.get(RowState.OK):
        raise UsageError(
            f"none of {result.counts.rows} rows could be scored: {dict(result.counts.states)}; "
            "look at `SELECT status, error, count(*) FROM samples GROUP BY ALL`, and check "
            "--image-col and --caption-col"
        )


def _has_ledger(layout: Layout) -> bool:
    return next((layout.root / "samples").glob("*.parquet"), None) is not None
