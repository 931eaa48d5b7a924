"""`clipsieve ingest`: a list of URLs to shards, resumably."""

import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from clipsieve.control import Control
from clipsieve.cores import usable_cores
from clipsieve.errors import ClipsieveError
from clipsieve.formats.names import plural
from clipsieve.ingest import layout
from clipsieve.ingest.crew import Crew
from clipsieve.ingest.plan import Plan, make_plan
from clipsieve.ingest.scan import PlanStopped
from clipsieve.ingest.settings import IngestConfig
from clipsieve.ingest.shard import stored_stats
from clipsieve.job.reporter import Reporter, clock
from clipsieve.job.signals import exit_code_of, stopping_on_signals
from clipsieve.store.files import LocalFiles
from clipsieve.store.records import new_run_id

#: Reasons of failures that the summary shows.
_SHOWN_REASONS = 5


@dataclass(frozen=True, slots=True)
class IngestResult:
    """How an ingest ended.

    Attributes:
      shards: folder of the shards, as it was given.
      list_hash: of the list; it names what `--extend` leaves behind.
      planned: shards of all lists that were taken.
      done: shards that this run finished.
      left: shards that are not finished.
      rows: rows of finished shards.
      new_rows: rows of shards that this run finished.
      successes: rows with an image, of finished shards.
      failed_to_download: likewise without one.
      failed_to_resize: likewise with bytes that are no image.
      reasons: the most frequent reasons of failures, with their rows.
      stopped: why it was stopped, if it was.
      seconds: it took.
      exit_code: 0; 3, 130 or 143 if shards are left.
    """

    shards: str
    list_hash: str
    planned: int
    done: int
    left: int
    rows: int
    new_rows: int
    successes: int
    failed_to_download: int
    failed_to_resize: int
    reasons: dict[str, int] = field(default_factory=dict)
    stopped: str | None = None
    seconds: float = 0.0
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return asdict(self)


def ingest(
    config: IngestConfig, reporter: Reporter | None = None, control: Control | None = None
) -> IngestResult:
    """Fetch the images of a list of URLs into shards.

    Args:
      config: settings.
      reporter: where progress goes; None is standard error.
      control: stops it, beside signals and the deadline of the settings.

    Raises:
      UsageError: the list cannot be read, or the folder holds something else.
      Locked: another process writes to the folder.
      ClipsieveError: see `clipsieve.errors`.
    """
    reporter = reporter or Reporter(config.log_format)
    started = time.time()
    if control is None:
        deadline = None if config.deadline is None else started + config.deadline
        control = Control(new_run_id(), config.shards, deadline)
    reporter.run_id = control.run_id
    try:
        return _ingest(config, reporter, control, started)
    except ClipsieveError as error:
        if reporter.json:
            fields = {"command": "ingest", "exit_code": error.exit_code, "error": str(error)}
            reporter.report("error", str(error), **fields)
            error.is_reported = True
        raise


def _ingest(
    config: IngestConfig, reporter: Reporter, control: Control, started: float
) -> IngestResult:
    """Plan, fetch and report; see `ingest`."""
    files = LocalFiles(config.shards)
    with files.lock(), stopping_on_signals(control):
        files.sweep(("",), ())
        try:
            plan = make_plan(config, files, control)
        except PlanStopped:
            return _stopped_early(config, control, reporter)
        for note in plan.notes:
            reporter.report("input", note)
        crew = _fetch(config, plan, control, reporter)
        if all(task in crew.finished for task in plan.tasks if task.is_retry):
            files.delete(layout.RETRY_RECORD)
        result = _result(config, files, plan, crew, control, started)
    _report(reporter, result)
    return result


def _stopped_early(config: IngestConfig, control: Control, reporter: Reporter) -> IngestResult:
    """Report that nothing was fetched."""
    code = exit_code_of(1, control)
    result = IngestResult(config.shards, "", 0, 0, 0, 0, 0, 0, 0, 0, {}, control.reason, 0.0, code)
    text = f"stopped by {control.reason} while the list was read; run it again"
    reporter.report("result", text, command="ingest", **result.to_json())
    return result


def _fetch(config: IngestConfig, plan: Plan, control: Control, reporter: Reporter) -> Crew:
    """Work on the tasks of a plan."""
    processes = config.processes or usable_cores()
    crew = Crew(config, processes, plan.record.rows_per_shard, plan.tasks, control)
    if not plan.tasks:
        return crew
    retries = sum(task.is_retry for task in plan.tasks)
    again = f", {retries} of them again for rows that failed" if retries else ""
    todo = len(plan.tasks)
    text = f"{plural(todo, 'shard')} of {plan.record.shards:,} to do{again}"
    reporter.report("plan", text, planned=plan.record.shards, todo=todo)
    total = None if retries else sum(plan.record.rows_of(task.shard) for task in plan.tasks)
    with reporter.watching(crew.snapshot, total):
        crew.run()
    return crew


def _result(
    config: IngestConfig,
    files: LocalFiles,
    plan: Plan,
    crew: Crew,
    control: Control,
    started: float,
) -> IngestResult:
    """Add up the counts of all finished shards."""
    left = len(plan.tasks) - len(crew.finished)
    totals, reasons = Counter[str](), Counter[str]()
    names = set(files.list_files(""))
    for shard in range(plan.record.shards):
        if layout.shard_name(shard) not in names:
            continue
        stats = stored_stats(files, shard)
        for name in ("count", "successes", "failed_to_download", "failed_to_resize"):
            totals[name] += stats[name]
        reasons.update(stats["status_dict"])
    del reasons["success"]
    return IngestResult(
        shards=config.shards,
        list_hash=plan.taken.hash,
        planned=plan.record.shards,
        done=len(crew.finished),
        left=left,
        rows=totals["count"],
        new_rows=sum(stats["count"] for stats in crew.finished.values()),
        successes=totals["successes"],
        failed_to_download=totals["failed_to_download"],
        failed_to_resize=totals["failed_to_resize"],
        reasons=dict(reasons.most_common(_SHOWN_REASONS)),
        stopped=control.reason if left else None,
        seconds=round(time.time() - started, 3),
        exit_code=exit_code_of(left, control),
    )


def _report(reporter: Reporter, result: IngestResult) -> None:
    """Report the closing summary."""
    lines = []
    if result.done:
        rate = result.new_rows / max(result.seconds, 1e-9)
        lines.append(f"{result.new_rows:,} rows in {clock(result.seconds)} ({rate:,.0f} rows/s)")
    else:
        lines.append(f"nothing to do: {plural(result.planned, 'shard')} done before")
    for name in ("successes", "failed_to_download", "failed_to_resize"):
        count = getattr(result, name)
        if count:
            shown = name.replace("successes", "success")
            lines.append(f"  {shown:<18}  {count:>10,}  {count / result.rows:6.1%}")
    lines += [f"    {rows:>6,}  {reason}" for reason, rows in result.reasons.items()]
    if result.left:
        lines.append(
            f"stopped by {result.stopped}; {plural(result.left, 'shard')} left: run it again"
        )
    else:
        lines.append(f"next: clipsieve run {result.shards} OUT")
    reporter.report_lines("result", lines, command="ingest", **result.to_json())
