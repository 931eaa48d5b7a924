"""Add scores to an output folder, from what is stored, and compact."""

import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from clipsieve.errors import LedgerError
from clipsieve.job.asked import asked_scorers, with_enough_classes
from clipsieve.job.compact import compact_folder
from clipsieve.job.mend import Mending, find_damage, restore_manifest, save_verification
from clipsieve.job.outcome import EXIT_FAILED_CHECK, left_outcome, run_checks
from clipsieve.job.plan import absolute_folder, scorer_options
from clipsieve.job.reporter import Reporter
from clipsieve.job.scoring import Scored, Scoring, ScoringSettings, drop_revisions, folder_scorers
from clipsieve.job.signals import exit_code_of, start_control, stopping_on_signals
from clipsieve.scorers.registry import EMBEDDED
from clipsieve.settings import ScoreConfig
from clipsieve.sql.checks import CheckResult, check_query
from clipsieve.sql.views import write_sql
from clipsieve.stage import Engine
from clipsieve.store.folder import OutputFolder
from clipsieve.store.records import write_run


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """How a score job ended.

    Attributes:
      done: shards scored.
      left: shards not scored: the run was stopped, or they kill their worker.
      exit_code: 0; 1 with damaged files that only `run` makes again; 3 with shards left, 4 with a
        failed check, 143 or 130 after a signal.
      checks: of `fail_if`; empty if shards are left.
    """

    done: int
    left: int
    exit_code: int
    checks: tuple[CheckResult, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {**asdict(self), "checks": [check.to_json() for check in self.checks]}


def score(config: ScoreConfig, engine: Engine, reporter: Reporter | None = None) -> ScoreResult:
    """Add scores to an output folder, from its stored embeddings, and compact.

    Scores of the family that is written with the embeddings are left as they are.

    Args:
      config: settings.
      engine: runs the stages.
      reporter: where progress goes; None is standard error.

    Raises:
      UsageError: for an unknown scorer or option, or a folder without a dataset.
      Locked: if another run is writing to it.
      LedgerError: if files of the folder are missing, damaged, or contradict each other.
    """
    reporter = reporter or Reporter(config.log_format)
    with left_outcome(config, "score", config.out, reporter) as outcome:
        for check in config.fail_if:
            check_query(check)
        result = _score(config, engine, reporter)
        outcome.result, outcome.exit_code = result.to_json(), result.exit_code
    return result


def _score(config: ScoreConfig, engine: Engine, reporter: Reporter) -> ScoreResult:
    """Score, compact and check; see `score`."""
    started = time.time()
    folder = OutputFolder.open(config.out)
    folder.require_folder()  # before the lock, which would make it
    control = start_control(config, folder, started)
    reporter.run_id = control.run_id
    with stopping_on_signals(control), folder.lock(config.lock_terms(), control.stop):
        restore_manifest(folder, reporter)
        previous = folder.require_manifest()
        model = previous.model.model if previous.model is not None else ""
        asked = asked_scorers(config.scorers, model)
        if EMBEDDED in asked:
            reporter.report("kept", f"{EMBEDDED}: written with the embeddings; left as it is")
        scorers = folder_scorers(previous, asked)
        known = tuple(dict.fromkeys([*scorers, *asked]))
        options = scorer_options(previous, known, config.all_options(), model)
        scorers = with_enough_classes(scorers, config.scorers, options, reporter)
        settings = ScoringSettings(
            scorers,
            options,
            config.device,
            control.run_id,
            config.refit,
            learn_on=absolute_folder(config.learn_on),
            asked=asked,
        )
        scored = Scored(previous, 0, 0)
        damage = find_damage(folder, control)
        mending = Mending(folder, previous, damage, reporter)
        if scorers:
            scoring = Scoring(folder, previous, settings, engine, reporter, control)
            folder.sweep()
            mending.begin_scores(previous)
            scored = scoring.run()
        if not scored.left:
            mending.begin_wide(audits=False)
            manifest = compact_folder(folder, scored.manifest, engine, control)
            drop_revisions(folder, manifest, previous)
        status = "ok" if not scored.left else "stopped" if control.stopped else "failed"
        content = {"status": status, "argv": sys.argv, "scorers": list(scorers)}
        write_run(folder, control.run_id, content)
        # Again: the view of records names files that are gathered now.
        write_sql(folder, folder.require_manifest())
        if not control.stopped:
            mending.report_left()
            save_verification(folder, {})
        exit_code = exit_code_of(scored.left, control)
        exit_code = exit_code or (LedgerError.exit_code if mending.left else 0)
        checks = () if scored.left else run_checks(config, folder)
        if any(check.failed for check in checks):
            exit_code = exit_code or EXIT_FAILED_CHECK
        result = ScoreResult(scored.done, scored.left, exit_code, checks)
        lines = [f"{scored.done} shards scored, {scored.left} left"]
        lines += [check.line() for check in checks]
        reporter.report_lines("result", lines, command="score", **result.to_json())
    return result
