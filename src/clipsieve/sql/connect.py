"""A DuckDB connection in which an output folder's views are ready."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from clipsieve.errors import QueryError, UsageError
from clipsieve.object_stores.files import ObjectStoreFiles
from clipsieve.sql.create_views import (
    create_views,
    drop_damaged_scores,
    mentioned,
    named_views,
    report_left_out,
)
from clipsieve.sql.interrupt import interruptible
from clipsieve.sql.literals import literal, without_wildcards
from clipsieve.sql.locked import CLOSED, LOCKED
from clipsieve.sql.views import macros_sql, views_sql
from clipsieve.store.folder import OutputFolder
from clipsieve.store.frozen import frozen

#: On a disk up to so many the views that a query does not name are made too, to report damage.
_FEW_SHARDS = 1_000
#: How DuckDB says that the view `scores` is missing.
_NO_SCORES = re.compile(r"Table with name scores does not exist")


def connect(out: str | Path, locked: bool = False) -> duckdb.DuckDBPyConnection:
    """Open an in-memory DuckDB over the output folder `out`, from any working directory.

    It has the views `scores` (every column of every sample), `samples`, `embeddings`, one view
    for each score family, `score_columns` (what each score means), `audit_groups`,
    `audit_members` and `copies` after an audit, `metrics` and `detectors` after an evaluation,
    `runs` and `shards`, and the macros of `sql/macros.sql`.  With removal lists `scores` leaves out
    the rows that they name, which `removals` shows.  The views read the files as they are now;
    nothing is copied.  A view of a damaged file is left out, which a line on standard error says.
    Relative paths in queries are
    looked for in the folder, unless its path has a comma.

    Args:
      out: folder of an earlier `clipsieve run`.
      locked: whether it is kept from files outside of the folder, extensions and settings.

    Raises:
      UsageError: if the folder holds no dataset.
    """
    connection, left_out = open_views(out, locked)
    report_left_out(left_out)
    return connection


def open_views(
    out: str | Path, locked: bool = False, query: str | None = None
) -> tuple[duckdb.DuckDBPyConnection, dict[str, str]]:
    """Return what `connect` does, and why views are left out, by their names.

    Args:
      out: folder of an earlier `clipsieve run`.
      locked: see `connect`.
      query: that the connection is for; of a folder of many shards, or in an object store, where
        each view reads or asks for every file, only the views that it names are made.

    Raises:
      UsageError: see `connect`.
    """
    folder = OutputFolder.open(out)
    manifest = folder.require_manifest()
    root = without_wildcards(folder.root) + "/"
    connection = duckdb.connect()
    register_store(connection, folder)
    if folder.files.is_remote:
        folder = frozen(folder)
    else:
        if len(folder.shards()) <= _FEW_SHARDS:
            query = None
        if "," not in folder.root:  # which would end a folder's name in this setting
            connection.execute(f"SET file_search_path = {literal(folder.root)}")
    only = named_views(query)
    text = views_sql(folder, manifest, root, only)
    left_out = create_views(connection, folder, text, root, only)
    if left_out:  # a run may have ended since, and have put its records together
        folder = OutputFolder.open(out)
        manifest = folder.require_manifest()
        text = views_sql(folder, manifest, root, only)
        left_out = create_views(connection, folder, text, root, only)
    if only is None or "scores" in only:
        left_out |= drop_damaged_scores(connection, folder, manifest)
    connection.execute(macros_sql())
    if locked:
        allowed = f"SET allowed_directories = [{literal(folder.root + '/')}];"
        connection.execute(CLOSED + allowed + LOCKED)
    return connection, left_out


def register_store(connection: duckdb.DuckDBPyConnection, folder: OutputFolder) -> None:
    """Let a connection read the object store of a folder; nothing for one on disk."""
    if isinstance(folder.files, ObjectStoreFiles):
        connection.register_filesystem(folder.files.query_system())


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
      QueryError: if DuckDB refuses the query, it fails on the way, or a value has none in Python;
        the message is DuckDB's, and says which of the query's views are left out.
      UsageError: if there is no view `scores` yet, or a locked query would write.
      KeyboardInterrupt: after SIGINT; the query has ended by then.
    """
    connection, left_out = open_views(out, locked, query)
    report_left_out(left_out)
    if not locked:
        # A view that is left out must not be looked for among variables.
        connection.execute("SET python_enable_replacements = false")

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
    except (duckdb.Error, ValueError, OverflowError) as error:
        if isinstance(error, duckdb.CatalogException) and _NO_SCORES.search(str(error)):
            reason = _without_scores(out)
            if reason is not None:
                raise UsageError(reason) from error
        raise QueryError(f"query failed: {mentioned(query, left_out)}{error}") from error


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
