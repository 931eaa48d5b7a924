"""A DuckDB connection in which an output folder's views are ready."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from clipsieve.errors import QueryError
from clipsieve.sql.create_views import (
    create_views,
    drop_damaged_scores,
    mentioned,
    report_left_out,
)
from clipsieve.sql.literals import literal, without_wildcards
from clipsieve.sql.views import macros_sql, views_sql
from clipsieve.store.folder import OutputFolder


def connect(out: str | Path) -> duckdb.DuckDBPyConnection:
    """Open an in-memory DuckDB over the output folder `out`, from any working directory.

    It has the views `scores` (every column of every sample), `samples`, `embeddings`, one view
    for each score family, `score_columns` (what each score means), `density_groups` after an
    audit, `metrics` and `detectors` after an evaluation, `runs` and `shards`, and the macros of
    `sql/macros.sql`.  With removal lists `scores` leaves out the rows that they name, which
    `removals` shows.  The views read the files as they are now; nothing is copied.  A view of a
    damaged file is left out, which a line on standard error says.  Relative paths in queries are
    looked for in the folder, unless its path has a comma.

    Args:
      out: folder of an earlier `clipsieve run`.

    Raises:
      UsageError: if the folder holds no dataset.
    """
    connection, left_out = open_views(out)
    report_left_out(left_out)
    return connection


def open_views(out: str | Path) -> tuple[duckdb.DuckDBPyConnection, dict[str, str]]:
    """Return what `connect` does, and why views are left out, by their names.

    Raises:
      UsageError: see `connect`.
    """
    folder = OutputFolder.open(out)
    manifest = folder.require_manifest()
    root = without_wildcards(folder.root) + "/"
    connection = duckdb.connect()
    if "," not in folder.root:  # which would end a folder's name in this setting
        connection.execute(f"SET file_search_path = {literal(folder.root)}")
    left_out = create_views(connection, folder, views_sql(folder, manifest, root), root)
    if left_out:  # a run may have ended since, and have put its records together
        text = views_sql(folder, folder.require_manifest(), root)
        left_out = create_views(connection, folder, text, root)
    left_out |= drop_damaged_scores(connection, folder, manifest)
    connection.execute(macros_sql())
    return connection, left_out


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a query: names of columns, and rows."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


def run_query(out: str | Path, query: str, at_most: int | None = None) -> Answer | None:
    """The result of one query over `out`, at most `at_most` rows of it; None if it has none.

    Raises:
      QueryError: if DuckDB refuses the query, it fails on the way, or a value has none in Python;
        the message is DuckDB's, and says which of the query's views are left out.
    """
    connection, left_out = open_views(out)
    report_left_out(left_out)
    # A view that is left out must not be looked for among variables.
    connection.execute("SET python_enable_replacements = false")
    try:
        relation = connection.sql(query)
        if relation is None:
            return None
        columns = relation.columns
        # The query runs here, and most errors in its values come only now.
        rows = (relation if at_most is None else relation.limit(at_most)).fetchall()
    except (duckdb.Error, ValueError, OverflowError) as error:
        raise QueryError(f"query failed: {mentioned(query, left_out)}{error}") from error
    return Answer(columns, rows)
