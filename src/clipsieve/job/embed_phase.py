"""The embed stage of a run, with what stands in the ledger and in history before and after it."""

import dataclasses
import os
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

from clipsieve import versions
from clipsieve.control import Control
from clipsieve.embed.commit import embedded_family, embeddings_entry
from clipsieve.errors import LedgerError
from clipsieve.job.plan import Plan, input_entry
from clipsieve.job.run_result import RunResult
from clipsieve.job.signals import EXIT_FAILED_SHARDS, exit_code_of
from clipsieve.schemas import footers
from clipsieve.scorers.registry import EMBEDDED
from clipsieve.stage import Engine
from clipsieve.statistics.counts import RowCounts
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import Manifest
from clipsieve.store.records import FAILED, ShardRecord, read_records, write_run
from clipsieve.store.seal import Seal


def begin(folder: OutputFolder, before: Manifest | None, plan: Plan) -> Manifest:
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


def embed(folder: OutputFolder, plan: Plan, engine: Engine) -> Mapping[str, ShardRecord]:
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


def check_ledger(folder: OutputFolder, plan: Plan, records: Mapping[str, ShardRecord]) -> None:
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


def _records(records: Iterable[ShardRecord], plan: Plan) -> dict[str, ShardRecord]:
    """Return the last record of each shard of this run; not of an earlier one of the same id."""
    todo = {item.shard for item in plan.todo}
    new = (record for record in records if record.to_json() not in plan.earlier)
    return {record.shard: record for record in new if record.shard in todo}


def seals_of(records: Iterable[ShardRecord], plan: Plan) -> dict[str, Seal]:
    """Return the seals of all files that this run wrote, by its shard records."""
    new = (record for record in records if record.to_json() not in plan.earlier)
    return {name: seal for record in new for name, seal in record.files.items()}


def run_result(
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


def save_run(
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


def _other_families(manifest: Manifest) -> Mapping[str, Any]:
    return {name: family for name, family in manifest.families.items() if name != EMBEDDED}


def _counts(record: ShardRecord) -> RowCounts:
    return RowCounts(dict(record.states), shards=1)
