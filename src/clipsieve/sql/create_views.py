"""Views made one by one, so that a damaged file costs only the views that read it."""

import re
import sys
from collections.abc import Iterator, Mapping

import duckdb

from clipsieve.errors import LedgerError
from clipsieve.printing import escaped
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.integrity import check_files, damaged
from clipsieve.store.manifest import Manifest

#: The view that a statement of `views_sql` makes or comments on; comments may stand before it.
_VIEW = re.compile(r'^(?:CREATE OR REPLACE VIEW|COMMENT ON COLUMN) "?(\w+)', re.MULTILINE)
_PATH = re.compile(r"""[(\[ ]'((?:[^']|'')*)[/]([^'/]*)'""")
#: What mends the files of a view, by the folder that they are in.
_CURES = {
    names.RUNS: "delete the file: what is done is decided by the shards' own files",
    "wide": "write the view again: clipsieve compact {root}",
    "audits": "write it again: clipsieve audit {root}",
    "metrics": "write it again: clipsieve evaluate {root}",
    names.SUBSETS: "make the subset again: clipsieve filter {root} ... --replace",
    names.REMOVALS: "find the rows again: clipsieve remove {root} --refresh",
}


def create_views(
    connection: duckdb.DuckDBPyConnection, folder: OutputFolder, text: str, root: str = ""
) -> dict[str, str]:
    """Run the statements of `views_sql`; return why views could not be made, by their names.

    Args:
      connection: in which they are made.
      folder: whose files they read.
      text: of the statements.
      root: that `views_sql` was given.
    """
    left_out: dict[str, str] = {}
    for statement in connection.extract_statements(text):
        match = _VIEW.search(statement.query)
        view = match[1] if match else ""
        if view in left_out:
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
    those of their last verification are not read.
    """
    if manifest.wide is None:
        return {}
    damage = damaged(check_files(folder, below=names.wide_folder(manifest.wide.build)))
    for name, problem in damage.items():
        connection.execute("DROP VIEW IF EXISTS scores")
        cure = _CURES["wide"].format(root=folder.root)
        return {"scores": f"{folder.files.url(name)} is damaged ({problem}); {cure}"}
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
    place = paths[0].partition("/")[0] if paths else ""
    cure = _CURES.get(place, "run `clipsieve run` again").format(root=folder.root)
    return f"{str(error).splitlines()[0].strip()}; {cure}"


def _problems(folder: OutputFolder, path: str) -> Iterator[str]:
    """Yield what is wrong with the files in a folder, first those that cannot be read at all."""
    place = path.partition("/")[0]
    cure = _CURES.get(place, "run `clipsieve run` again").format(root=folder.root)
    for table in folder.tables(path):
        name = f"{path}/{table}.parquet"
        try:
            folder.read_schema(name)
        except LedgerError as error:
            yield f"{folder.files.url(name)} is damaged ({_first_line(error)}); {cure}"
    for name in folder.files.list_files(path) if place == names.RUNS else ():
        if names.is_own(name, ".json"):
            try:
                folder.read_json(f"{path}/{name}")
            except ValueError as error:
                yield f"{folder.files.url(f'{path}/{name}')} is damaged ({error}); {cure}"


def _first_line(error: LedgerError) -> str:
    """Return the cause of an error without our own words around it."""
    return str(error.__cause__ or error).splitlines()[0].strip()
