"""What a run has measured, kept so that the next one can be compared with it."""

import time
from collections.abc import Collection, Iterator, Mapping

import pyarrow as pa

from clipsieve.embed.commit import states_from_footer
from clipsieve.job.run_result import RunResult
from clipsieve.schemas import footers
from clipsieve.schemas.run_metrics import RUN_METRICS
from clipsieve.schemas.states import RowState
from clipsieve.sql.score_figures import score_figures
from clipsieve.statistics.counts import RowCounts
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.records import DONE, read_records, recorded_runs
from clipsieve.store.seal import Seal

ALL = "all"


def measure_run(folder: OutputFolder, result: RunResult, has_scores: bool) -> dict[str, Seal]:
    """Write the metrics of a run that has come to its end, for the view `run_metrics`.

    Its new rows are those that no run before has measured; see `unmeasured_shards`.

    Args:
      folder: the output folder; the caller holds its lock.
      result: of the run, whose records are written.
      has_scores: whether the view `scores` shows the new rows.

    Returns:
      The seal of the table by its name.
    """
    scores: Mapping[str, Mapping[str, float | None]] = {}
    new = result.new_counts
    ended_at = time.time()
    if has_scores:
        shards = unmeasured_shards(folder)
        new = _counts(folder, shards)
        scores = score_figures(folder, shards)
    rows = [
        {
            "run_id": result.run_id,
            "ended_at": ended_at,
            "metric": metric,
            "name": name,
            "value": None if value is None else float(value),
        }
        for metric, name, value in _values(result, new, scores)
    ]
    name = names.run_metrics(result.run_id)
    footer = {
        footers.LAYOUT: footers.LAYOUT_VERSION,
        footers.RUN_ID: result.run_id,
        footers.ROWS: str(len(rows)),
    }
    if has_scores:
        footer[footers.MEASURED_AT] = repr(ended_at)
    table = pa.Table.from_pylist(rows, schema=RUN_METRICS)
    return {name: folder.write_table(name, table, footer)}


def unmeasured_shards(folder: OutputFolder) -> set[str]:
    """Return the shards that were written since the last run that measured scores.

    Those of runs that were stopped or killed, of `clipsieve embed`, and of parts are among them.
    """
    files = folder.files.list_files(names.RUNS)
    ending = names.RUN_METRICS_ENDING
    runs = [name.removesuffix(ending) for name in files if names.is_own(name, ending)]
    tables = folder.read_footers(map(names.run_metrics, runs))
    times = {
        run: float(table[footers.MEASURED_AT])
        for run, table in zip(runs, tables, strict=True)
        if footers.MEASURED_AT in table
    }
    last = max(times.values(), default=0.0)
    unmeasured = [run for run in recorded_runs(folder) if run not in times]
    records = (record for run in unmeasured for record in read_records(folder, run))
    return {r.shard for r in records if r.state == DONE and r.ended_at > last}


def _counts(folder: OutputFolder, shards: Collection[str]) -> RowCounts:
    """Return the rows by state of shards that are in the ledger."""
    ledgers = folder.read_footers(names.samples(shard) for shard in sorted(shards))
    counts = (RowCounts(states_from_footer(ledger), 1) for ledger in ledgers if ledger)
    return sum(counts, RowCounts())


def _values(
    result: RunResult, new: RowCounts, scores: Mapping[str, Mapping[str, float | None]]
) -> Iterator[tuple[str, str, float | None]]:
    """Yield metric, name and value of every row."""
    for prefix, counts in (("", new), ("total_", result.counts)):
        yield f"{prefix}rows", ALL, counts.rows
        for state in RowState:
            rows = counts.states.get(state, 0)
            yield f"{prefix}rows", state, rows
            yield f"{prefix}share", state, rows / counts.rows if counts.rows else None
    yield "shards", "done", result.done
    yield "shards", "skipped", result.skipped
    yield "shards", "failed", len(result.failed)
    yield "shards", "left", result.left
    yield "seconds", "run", result.seconds
    yield "seconds", "embed", result.encode_seconds
    for column, values in scores.items():
        for metric, value in values.items():
            yield metric, column, value
