"""A published table of scores as DuckDB reads it: Parquet, CSV or JSON lines."""

import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

import duckdb

from clipsieve.errors import UsageError
from clipsieve.sql.literals import close_names, identifier, literal, without_wildcards

_FORMATS = {
    "parquet": (".parquet", ".pq"),
    "csv": (".csv", ".csv.gz", ".csv.zst", ".tsv", ".tsv.gz", ".tsv.zst"),
    "json": (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz", ".ndjson.gz"),
}
#: Types of numbers, as DuckDB names them.
_NUMBERS = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL.*")


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """A table, and what it is called.

    Attributes:
      name: path or glob, as it was given.
      relation: what to select from.
      columns: type by name; of CSV and JSON all are VARCHAR.
      is_text: whether numbers in it are text, as in CSV and JSON.
    """

    name: str
    relation: str
    columns: Mapping[str, str]
    is_text: bool

    def find(self, name: str) -> str | None:
        """Return the column of this name in any case; None if there is none."""
        return next((each for each in self.columns if each.lower() == name.lower()), None)

    def number(self, name: str) -> str:
        """Return the SQL of a column of numbers as DOUBLE; NULL for what is not finite.

        Raises:
          UsageError: if there is no such column, or it holds something else.
        """
        column = self.find(name)
        if column is None:
            raise UsageError(
                f"{self.name} has no column {name!r} ({close_names(name, self.columns)})"
            )
        if not self.is_text and not _NUMBERS.fullmatch(self.columns[column]):
            raise UsageError(
                f"column {column!r} of {self.name} is {self.columns[column]}; name one of numbers"
            )
        return finite(identifier(column))

    def not_number(self, connection: duckdb.DuckDBPyConnection, name: str) -> str | None:
        """Return the first value of a column of text that is no number.

        None if all are numbers, or the table cannot be read to its end.
        """
        column = identifier(name)
        try:
            row = connection.execute(
                f"SELECT {column} FROM {self.relation} "
                f"WHERE {column} IS NOT NULL AND TRY_CAST({column} AS DOUBLE) IS NULL LIMIT 1"
            ).fetchone()
        except duckdb.Error:
            return None
        return None if row is None else str(row[0])

    def key(self, name: str) -> str:
        """Return the SQL of a key column as text."""
        return key_text(identifier(name), self.columns[name])


def finite(value: str) -> str:
    """Return the SQL of a number as DOUBLE, NULL where it is NaN or infinite."""
    return f"CASE WHEN isfinite({value}::DOUBLE) THEN {value}::DOUBLE END"


def key_text(column: str, type: str) -> str:
    """Return the SQL of a key as text: a UUID without dashes, as uids of 128 bits are published."""
    if type == "UUID":
        return f"replace({column}::VARCHAR, '-', '')"
    return f"lower(hex({column}))" if type == "BLOB" else f"{column}::VARCHAR"


def open_published(connection: duckdb.DuckDBPyConnection, path: str) -> PublishedTable:
    """Describe the table in a file, or in the files of a glob or folder.

    Raises:
      UsageError: if there is none, its ending is unknown, or DuckDB cannot read it.
    """
    pattern = os.path.abspath(os.path.expanduser(path))
    if os.path.isdir(pattern):
        pattern = without_wildcards(pattern) + "/*.parquet"
    elif os.path.exists(pattern):
        pattern = without_wildcards(pattern)
    if not glob.glob(pattern, recursive=True):
        raise UsageError(f"--against {path} matches no file")
    form = next((f for f, ends in _FORMATS.items() if pattern.lower().endswith(ends)), None)
    if form is None:
        known = ", ".join(ends[0] for ends in _FORMATS.values())
        raise UsageError(f"--against {path} ends in none of {known}; convert it to Parquet")
    scan = f"read_{form}({literal(pattern)}, hive_partitioning = false, union_by_name = true"
    relation = scan + (", all_varchar = true)" if form == "csv" else ")")
    try:
        described = connection.execute(f"DESCRIBE FROM {relation}").fetchall()
    except duckdb.Error as error:
        raise UsageError(f"--against {path} cannot be read as {form}: {error}") from error
    columns = {str(row[0]): str(row[1]) for row in described}
    if form == "json":  # left alone, it makes dates and UUIDs of keys that look like them
        columns = dict.fromkeys(columns, "VARCHAR")
        types = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in columns)
        relation = f"{scan}, columns = {{{types}}})"
    return PublishedTable(path, relation, columns, form != "parquet")
