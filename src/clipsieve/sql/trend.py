"""How runs of a folder compare with each other, from the view `run_metrics`."""

from dataclasses import dataclass

from clipsieve.errors import UsageError
from clipsieve.sql.connect import Answer, run_query
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder

#: Runs shown, and score columns of the last one.
MOST_RUNS, MOST_COLUMNS = 20, 10

_RUNS = """
SELECT strftime(to_timestamp(ended_at) AT TIME ZONE 'UTC', '%Y-%m-%d %H:%M') AS "ended UTC",
       {rows}::BIGINT AS "rows", round(100 * {ok}, 1) AS "ok %",
       round(100 * {fetch_failed}, 1) AS "unfetched",
       round({mean}, 4) AS clip_score,
       round({mean} - lag({mean} IGNORE NULLS) OVER (ORDER BY ended_at), 4) AS change
FROM run_metrics GROUP BY run_id, ended_at ORDER BY ended_at DESC LIMIT {limit}
"""
_VALUES = {
    "rows": ("rows", "all"),
    "ok": ("share", "ok"),
    "fetch_failed": ("share", "fetch_failed"),
    "mean": ("mean", "clip_score"),
}
_COLUMNS = """
WITH quartiles AS (
       SELECT name, ended_at, max(value) FILTER (metric = 'q25') AS low,
              max(value) FILTER (metric = 'q50') AS middle,
              max(value) FILTER (metric = 'q75') AS high
       FROM run_metrics GROUP BY name, ended_at HAVING middle IS NOT NULL),
     ranked AS (
       SELECT *, dense_rank() OVER (ORDER BY ended_at DESC) AS run,
              row_number() OVER (PARTITION BY name ORDER BY ended_at DESC) AS age FROM quartiles)
SELECT now.name AS "column", before.middle AS "median before", now.middle AS "median now",
       (now.middle - before.middle) / nullif(before.high - before.low, 0) AS "shift by IQR"
FROM ranked AS now JOIN ranked AS before ON before.name = now.name AND before.age = 2
WHERE now.run = 1 AND now.age = 1
ORDER BY abs("shift by IQR") DESC NULLS LAST, "column" LIMIT {limit}
"""


@dataclass(frozen=True, slots=True)
class Trend:
    """The last runs, and what has changed in the last one.

    Attributes:
      runs: newest first: rows that each wrote, of these the percentage in state ok and in state
        fetch_failed, the mean of their clip_score, and its change since the last run before that
        has one.
      columns: score columns whose median over new rows has moved most since the last run before,
        by the distance of its quartiles; empty after one run.
    """

    runs: Answer
    columns: Answer


def read_trend(out: str) -> Trend:
    """Return how the runs of a folder compare.

    Raises:
      UsageError: if no run has measured anything yet.
    """
    folder = OutputFolder.open(out)
    folder.require_manifest()
    files = folder.files.list_files(names.RUNS)
    if not any(names.is_own(name, names.RUN_METRICS_ENDING) for name in files):
        raise UsageError(
            f"{folder.root} has no metrics of runs; the next `clipsieve run` that ends leaves some"
        )
    values = {
        key: f"max(value) FILTER (metric = '{metric}' AND name = '{name}')"
        for key, (metric, name) in _VALUES.items()
    }
    runs = run_query(out, _RUNS.format(limit=MOST_RUNS, **values), locked=True)
    columns = run_query(out, _COLUMNS.format(limit=MOST_COLUMNS), locked=True)
    assert runs is not None and columns is not None
    return Trend(runs, columns)
