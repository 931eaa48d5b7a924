"""The whole job: plan, embed and score what is not done yet, compact, and say how it went."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from clipsieve.control import Control
from clipsieve.errors import LedgerError
from clipsieve.job.asked import asked_scorers
from clipsieve.job.audit import unseen_findings
from clipsieve.job.compact import compact_folder
from clipsieve.job.embed_phase import begin, check_ledger, embed, run_result, save_run, seals_of
from clipsieve.job.mend import Mending, find_damage, restore_manifest, save_verification
from clipsieve.job.ood_summary import ood_line
from clipsieve.job.outcome import EXIT_FAILED_CHECK, left_outcome, run_checks
from clipsieve.job.part import finish_parts, run_part
from clipsieve.job.plan import Plan, absolute_folder, dry_run_report, make_plan, plan_line
from clipsieve.job.reporter import Reporter
from clipsieve.job.room import check_room
from clipsieve.job.run_metrics import measure_run
from clipsieve.job.run_result import RunResult, refuse_empty, report_result
from clipsieve.job.scoring import Scored, Scoring, ScoringSettings, drop_revisions
from clipsieve.job.signals import (
    EXIT_FAILED_SHARDS,
    start_control,
    stopping_on_signals,
)
from clipsieve.settings import RunConfig
from clipsieve.sql.checks import check_query
from clipsieve.sql.views import write_sql
from clipsieve.stage import Engine
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import Manifest
from clipsieve.store.part_locks import clear_parts
from clipsieve.store.records import ShardRecord

#: Rows from which `run` computes scores from storage in worker processes too.
WORKERS_FROM = 100_000


def run(
    config: RunConfig,
    engine: Engine,
    reporter: Reporter | None = None,
    wide: bool = True,
    on_stop: Callable[[str], None] | None = None,
) -> RunResult:
    """Do the whole job for `config`; what is done already is not done again.

    Args:
      config: settings.
      engine: runs the stages.
      reporter: where progress goes; None is standard error.
      wide: whether to score from storage and compact after the embed stage, so that the `scores`
        view shows the new rows.
      on_stop: told of a signal, also of one that comes when nothing is left to do.

    Raises:
      NoInput: nothing matched.
      UsageError: nothing could be scored, or the folder holds something else.
      Locked: another run is writing there.
      LedgerError: rows went missing on the way.
    """
    reporter = reporter or Reporter(config.log_format)
    command = _command(wide)
    with left_outcome(config, command, config.out, reporter) as outcome:
        for check in config.fail_if:
            check_query(check)
        run_it = _run if config.part is None else _run_part
        result = run_it(config, engine, reporter, wide, on_stop)
        outcome.result, outcome.exit_code = result.to_json(), result.exit_code
        refuse_empty(result)
    return result


def _run(
    config: RunConfig,
    engine: Engine,
    reporter: Reporter,
    wide: bool,
    on_stop: Callable[[str], None] | None,
) -> RunResult:
    """Do the whole job; see `run`."""
    started = time.time()
    folder = OutputFolder.open(config.out)
    control = start_control(config, folder, started, on_stop)
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
        manifest = begin(folder, manifest, plan)
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
                records = embed(folder, plan, engine)
        encode_seconds = time.time() - encode_started
        check_ledger(folder, plan, records)
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
        result = run_result(plan, records, times, is_finished, control)
        result = dataclasses.replace(result, unscored=left, findings=findings, ood=ood)
        if mending.left and not control.stopped:
            mending.report_left()
            exit_code = result.exit_code or LedgerError.exit_code
            result = dataclasses.replace(result, damaged=mending.left, exit_code=exit_code)
        every = save_run(folder, plan, result, started, control)
        seals = seals_of(every, plan)
        is_complete = is_finished and not result.left
        if is_complete:
            seals |= measure_run(folder, result, has_scores=wide and bool(folder.shards()))
            clear_parts(folder.files, config.lock_terms())
        write_sql(folder, folder.require_manifest())
        save_verification(folder, seals, control.stopped)
        if is_complete and config.fail_if:
            checks = run_checks(config, folder)
            exit_code = result.exit_code
            if any(check.failed for check in checks) and exit_code in (0, EXIT_FAILED_SHARDS):
                exit_code = EXIT_FAILED_CHECK
            result = dataclasses.replace(result, checks=checks, exit_code=exit_code)
            save_run(folder, plan, result, started, control)
    report_result(reporter, result, _command(wide), config.out)
    return result


def _command(wide: bool) -> str:
    return "run" if wide else "embed"


def _run_part(
    config: RunConfig,
    engine: Engine,
    reporter: Reporter,
    wide: bool,
    on_stop: Callable[[str], None] | None,
) -> RunResult:
    """Embed the shards of a part; if it is the last to end, do what needs all shards."""
    part = run_part(config, engine, reporter, on_stop)
    if part.is_last and wide:
        closing = f"part {config.part} is the last"
        report_result(reporter, part.result, _command(wide), config.out, closing, "part")
        whole = dataclasses.replace(config, part=None, reprocess=False)
        result = finish_parts(lambda: _run(whole, engine, reporter, wide, on_stop))
        if result is not None:
            return result
    closing = f"part {config.part} is done; the last part computes what needs all shards"
    report_result(reporter, part.result, _command(wide), config.out, closing)
    return part.result


def dry_run(config: RunConfig, engine: Engine) -> dict[str, Any]:
    """What `run` would do, as plain JSON values; writes nothing."""
    folder = OutputFolder.open(config.out)
    control = start_control(config, folder, time.time())
    reporter = Reporter(config.log_format)
    manifest = folder.load_manifest()
    damage = frozenset(find_damage(folder, keep=False))
    plan = make_plan(config, folder, manifest, engine, reporter, control, True, damage)
    return dry_run_report(plan)


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
