"""How a run ended, and the closing summary of it."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from clipsieve.errors import NothingScored
from clipsieve.job.reporter import Reporter, clock
from clipsieve.schemas.states import RowState
from clipsieve.sql.checks import CheckResult
from clipsieve.statistics.counts import RowCounts
from clipsieve.store.records import ShardRecord


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
      exit_code: 0, 1 with damaged files, 3 with failed or left shards, 4 with a failed check, 143
        or 130 after a signal.
      damaged: files that are damaged, and that this run could not make again.
      checks: of `fail_if`; empty if the run did not come to its end.
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
    checks: tuple[CheckResult, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {
            **dataclasses.asdict(self),
            "failed": [{"shard": r.shard, "uri": r.uri, "error": r.error} for r in self.failed],
            "checks": [check.to_json() for check in self.checks],
            "counts": dict(self.counts.states),
            "new_counts": dict(self.new_counts.states),
        }


def report_result(
    reporter: Reporter,
    result: RunResult,
    command: str,
    out: str,
    closing: str | None = None,
    event: str = "result",
) -> None:
    """Report the closing summary.

    Args:
      reporter: where to.
      result: of the run.
      command: that ended.
      out: the output folder, as commands in the summary name it.
      closing: the last line of a run that was not stopped; None is what to do next.
      event: of the summary.
    """
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
    elif closing is not None:
        lines.append(closing)
    elif result.checks:
        failed_last = sorted(result.checks, key=lambda check: check.failed)
        lines += [check.line() for check in failed_last]
    else:
        query = "SELECT status, count(*), avg(clip_score) FROM scores GROUP BY status"
        lines.append(f'next: clipsieve sql {out} "{query}"')
    reporter.report_lines(event, lines, command=command, **result.to_json())


def _left_text(result: RunResult) -> str:
    """Return what a stopped run left."""
    if result.left:
        return f"{result.left} shards left"
    if result.unscored:
        return f"{result.unscored} shards left to score"
    return "scores are not shown yet"


def refuse_empty(result: RunResult) -> None:
    """Refuse to call a run without one scored row a success: it is a mistake."""
    if result.exit_code == 0 and not result.counts.states.get(RowState.OK):
        raise NothingScored(
            f"none of {result.counts.rows} rows could be scored: {dict(result.counts.states)}; "
            "look at `SELECT status, error, count(*) FROM samples GROUP BY ALL`, and check "
            "--image-col and --caption-col"
        )
