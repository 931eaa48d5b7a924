"""Views made one by one, so that a damaged file costs only the views that read it."""

import re
import sys
from collections.abc import Collection, Iterator, Mapping

import duckdb

from clipsieve.errors import LedgerError
from clipsieve.store import names
from clipsieve.store.cures import cure
from clipsieve.store.folder import OutputFolder
from clipsieve.store.integrity import check_files, damaged, read_checks, unverified_bytes
from clipsieve.store.manifest import Manifest
from clipsieve.terminal import escaped

#: The view or macro that a statement of `views_sql` makes, or the view on which it comments;
#: comments may stand before it.
_VIEW = re.compile(r'^(?:CREATE OR REPLACE (?:VIEW|MACRO)|COMMENT ON COLUMN) "?(\w+)', re.MULTILINE)
_PATH = re.compile(r"""[(\[ ]'((?:[^']|'')*)[/]([^'/]*)'""")
#: Words of queries that are about all views.
_OF_ALL_VIEWS = frozenset(
    ("show", "pragma", "information_schema", "duckdb_views", "duckdb_columns", "sqlite_master")
)
#: Bytes of changed files that are verified before a query; more take seconds.
_MOST_VERIFIED = 1 << 30


def named_views(query: str | None) -> frozenset[str] | None:
    """Return the words of a query in lower case, among them the views it names; None if it is all.

    It is where there is no query, or one about the views themselves.
    """
    if query is None:
        return None
    words = frozenset(word.lower() for word in re.findall(r"\w+", query))
    return words if words.isdisjoint(_OF_ALL_VIEWS) else None


def create_views(
    connection: duckdb.DuckDBPyConnection,
    folder: OutputFolder,
    text: str,
    root: str = "",
    only: Collection[str] | None = None,
) -> dict[str, str]:
    """Run the statements of `views_sql`; return why views could not be made, by their names.

    Args:
      connection: in which they are made.
      folder: whose files they read.
      text: of the statements.
      root: that `views_sql` was given.
      only: names in lower case of those that are made; None is all.
    """
    left_out: dict[str, str] = {}
    for statement in connection.extract_statements(text):
        match = _VIEW.search(statement.query)
        view = match[1] if match else ""
        if view in left_out or (only is not None and view and view.lower() not in only):
            continue
        try:
            connection.execute(statement)
        except (duckdb.Error, UnicodeError) as error:
            left_out[view] = _reason(folder, statement.query, root, error)
    return left_out


def drop_damaged_scores(
    connection: duckdb.DuckDBPyConnection, folder: OutputFolder, manifest: Manifest
) -> dict[str, str]:
    """Drop the view `scores` if a file of it has changed since it was written; return why.

    DuckDB reads Parquet pages without looking at their checksums.  Files whose size and time are
    those of their last verification are not read, and none in an object store.
    """
    if manifest.wide is None:
        return {}
    below = names.wide_folder(manifest.wide.build)
    known = read_checks(folder, below)
    changed = 0 if folder.files.is_remote else unverified_bytes(folder, below, known)
    if changed > _MOST_VERIFIED:
        text = f"{changed:,} bytes of scores have changed since they were verified"
        print(f"clipsieve: {text}; verify them: clipsieve reconcile", file=sys.stderr)
        return {}
    damage = damaged(
        check_files(folder, known=known, below=below, reads=not folder.files.is_remote)
    )
    for name, problem in damage.items():
        connection.execute("DROP VIEW IF EXISTS scores")
        mended = cure(folder.root, name)
        return {"scores": f"{folder.files.url(name)} is damaged ({problem}); {mended}"}
    return {}


def report_left_out(left_out: Mapping[str, str]) -> None:
    """Say on standard error which views are left out and what mends them, a line each."""
    for view, reason in left_out.items():
        print(escaped(f"clipsieve: view {view} is left out: {reason}"), file=sys.stderr)


def mentioned(query: str, left_out: Mapping[str, str]) -> str:
    """Return what an error says of the views in a query that are left out; "" for none."""
    words = {word.lower() for word in re.findall(r"\w+", query)}
    return "".join(
        f"view {view} is left out: {reason}; "
        for view, reason in left_out.items()
        if view.lower() in words
    )


def _reason(folder: OutputFolder, statement: str, root: str, error: Exception) -> str:
    """Return which file is damaged, and what mends it, on one line."""
    paths = [path.replace("''", "'").removeprefix(root) for path, _ in _PATH.findall(statement)]
    for path in paths:
        for problem in _problems(folder, path):
            return problem
    mended = cure(folder.root, paths[0] if paths else "")
    return f"{str(error).splitlines()[0].strip()}; {mended}"


def _problems(folder: OutputFolder, path: str) -> Iterator[str]:
    """Yield what is wrong with the files in a folder, first those that cannot be read at all."""
    mended = cure(folder.root, f"{path}/")
    for table in folder.tables(path):
        name = f"{path}/{table}.parquet"
        try:
            folder.read_schema(name)
        except LedgerError as error:
            yield f"{folder.files.url(name)} is damaged ({_first_line(error)}); {mended}"
    for name in folder.files.list_files(path) if path.partition("/")[0] == names.RUNS else ():
        if names.is_own(name, ".json"):
            try:
                folder.read_json(f"{path}/{name}")
            except ValueError as error:
                yield f"{folder.files.url(f'{path}/{name}')} is damaged ({error}); {mended}"


def _first_line(error: LedgerError) -> str:
    """Return the cause of an error without our own words around it."""
    return str(error.__cause__ or error).splitlines()[0].strip()
