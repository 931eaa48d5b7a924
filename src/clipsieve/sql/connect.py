"""A DuckDB connection in which an output folder's views are ready."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from clipsieve.errors import UsageError
from clipsieve.sql.interrupt import interruptible
from clipsieve.sql.literals import literal, without_wildcards
from clipsieve.sql.views import macros_sql, views_sql
from clipsieve.store.folder import OutputFolder

#: How DuckDB says that the view `scores` is missing.
_NO_SCORES = re.compile(r"Table with name scores does not exist")
#: What a locked connection may not do.
_LOCKED = """
SET autoinstall_known_extensions = false;
SET autoload_known_extensions = false;
SET allow_community_extensions = false;
SET python_enable_replacements = false;
SET temp_directory = '';
SET allowed_directories = [{folder}];
SET enable_external_access = false;
SET lock_configuration = true;
"""


def connect(out: str | Path, locked: bool = False) -> duckdb.DuckDBPyConnection:
    """Open an in-memory DuckDB over the output folder `out`, from any working directory.

    It has the views `scores` (every column of every sample), `samples`, `embeddings`, one view
    for each score family, `score_columns` (what each score means), `density_groups` after an
    audit, `metrics` and `detectors` after an evaluation, `runs` and `shards`, and the macros of
    `sql/macros.sql`.  With removal lists `scores` leaves out the rows that they name, which
    `removals` shows.  The views read the files as they are now; nothing is copied.

    Args:
      out: folder of an earlier `clipsieve run`.
      locked: whether it is kept from files outside of the folder, extensions and settings.

    Raises:
      UsageError: if the folder holds no dataset, or its path has a comma.
    """
    folder = OutputFolder.open(out)
    if "," in folder.root:
        raise UsageError(
            f"output folder {folder.root} has a comma in its path, which ends a folder name in "
            "DuckDB's file_search_path; rename it, or start DuckDB inside it: "
            "duckdb -init sql/views.sql"
        )
    manifest = folder.require_manifest()
    connection = duckdb.connect()
    # As a parameter-free statement: SET takes no parameters.
    root = folder.root.replace("'", "''")
    connection.execute(f"SET file_search_path = '{root}'")
    # A locked DuckDB compares paths as they are written.
    place = without_wildcards(folder.root) + "/" if locked else ""
    try:
        connection.execute(views_sql(folder, manifest, place))
    except duckdb.IOException:  # a run has ended since, and has put its records together
        connection.execute(views_sql(folder, folder.require_manifest(), place))
    connection.execute(macros_sql())
    if locked:
        connection.execute(_LOCKED.format(folder=literal(folder.root + "/")))
    return connection


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a query: names of columns, and rows."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


def run_query(
    out: str | Path, query: str, at_most: int | None = None, locked: bool = False
) -> Answer | None:
    """The result of one query over `out`, at most `at_most` rows of it; None if it has none.

    Args:
      out: folder of an earlier `clipsieve run`.
      query: statements; the last one's result is the answer.
      at_most: rows; None is all.
      locked: whether it may only read, and nothing outside of the folder.

    Raises:
      UsageError: if DuckDB refuses the query, or it fails on the way; the message is DuckDB's.
      KeyboardInterrupt: after SIGINT; the query has ended by then.
    """
    connection = connect(out, locked)

    def answer() -> Answer | None:
        if locked:
            _require_select(connection, query)
        relation = connection.sql(query)
        if relation is None:
            return None
        columns = relation.columns
        # The query runs here, and most errors in its values come only now.
        rows = (relation if at_most is None else relation.limit(at_most)).fetchall()
        return Answer(columns, rows)

    try:
        return interruptible(connection, answer)
    except duckdb.CatalogException as error:
        reason = _without_scores(out) if _NO_SCORES.search(str(error)) else None
        raise UsageError(reason or f"query failed: {error}") from error
    except duckdb.Error as error:
        raise UsageError(f"query failed: {error}") from error


def _require_select(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    """Refuse what may write."""
    for statement in connection.extract_statements(query):
        if statement.type != duckdb.StatementType.SELECT:
            raise UsageError(
                f"a locked query reads only, and this has a statement {statement.type.name}; "
                "leave it out, or leave out --locked"
            )


def _without_scores(out: str | Path) -> str | None:
    """Return why a folder has no view `scores`, and the cure; None if it has one."""
    folder = OutputFolder.open(out)
    if folder.require_manifest().wide is not None:
        return None
    if folder.shards():
        return (
            f"{folder.root} has no view scores yet: no run has come to its end; run the same "
            f"`clipsieve run` again, or `clipsieve compact {folder.root}`"
        )
    return (
        f"{folder.root} has no view scores: no shard is done; `clipsieve status {folder.root}` "
        "says why, then run the same `clipsieve run` again"
    )
