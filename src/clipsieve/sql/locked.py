"""A DuckDB connection that runs expressions of a user over one table, and can do nothing else.

It is in memory, has no access to files, extensions, Python variables or settings, and its
configuration is locked.  What may run in it at all is decided before, by `predicate`: DuckDB's own
limits of time and memory do not hold for every function (`repeat` ignores both in 2.0).
"""

import threading
from collections.abc import Sequence
from importlib.resources import files

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from clipsieve.errors import UsageError
from clipsieve.schemas import __name__ as SCHEMAS

#: Name under which expressions see the table.
TABLE = "shard"
#: No extensions, no Python variables, no files of its own.
CLOSED = """
SET autoinstall_known_extensions = false;
SET autoload_known_extensions = false;
SET allow_community_extensions = false;
SET python_enable_replacements = false;
SET temp_directory = '';
"""
#: After everything else: no files that are not allowed by then, and no other settings.
LOCKED = """
SET enable_external_access = false;
SET lock_configuration = true;
"""
_LIMITS = """
SET memory_limit = '4GB';
SET threads = 1;
SET TimeZone = 'UTC';
SET max_execution_time = 600000;
"""


class LockedDuckDB:
    """Evaluates scalar expressions over Arrow tables."""

    def __init__(self) -> None:
        """Open and lock the connection; takes about 20 ms."""
        self._connection = duckdb.connect()
        self._connection.execute(predicate_macros_sql())
        self._connection.execute(CLOSED + _LIMITS + LOCKED)

    def types(self, schema: pa.Schema, expressions: Sequence[str]) -> list[str]:
        """Return DuckDB's type of each expression over a table of `schema`.

        Raises:
          UsageError: if one of them does not bind; the message is DuckDB's.
        """
        if not expressions:
            return []
        try:
            with _registered(self._connection, schema.empty_table()) as connection:
                described = connection.execute(f"DESCRIBE {_select(expressions)}").fetchall()
        except duckdb.Error as error:
            raise UsageError(_first_line(error)) from error
        return [str(row[1]) for row in described]

    def evaluate(self, table: pa.Table, expressions: Sequence[str]) -> list[pa.Array]:
        """Return the value of each expression for each of the N rows, in order.

        NaN in a column counts as NULL.

        Raises:
          UsageError: if a value cannot be computed, e.g. a text that is cast to a number; the
            message is DuckDB's.
        """
        if not expressions:
            return []
        try:
            with _registered(self._connection, without_nan(table)) as connection:
                result = connection.sql(_select(expressions)).to_arrow_table()
        except duckdb.Error as error:
            raise UsageError(_first_line(error)) from error
        return [column.combine_chunks() for column in result.columns]


class ThreadDatabases:
    """A locked connection for each thread that asks: one is for one thread at a time."""

    def __init__(self) -> None:
        """Open none yet."""
        self._local = threading.local()

    def own(self) -> LockedDuckDB:
        """Return the connection of the calling thread."""
        if not hasattr(self._local, "database"):
            self._local.database = LockedDuckDB()
        database: LockedDuckDB = self._local.database
        return database


def predicate_macros_sql() -> str:
    """Return the text of `schemas/sql/predicates.sql`."""
    return (files(SCHEMAS) / "sql" / "predicates.sql").read_text(encoding="utf-8")


def without_nan(table: pa.Table) -> pa.Table:
    """Return the same table with NULL for NaN: DuckDB takes NaN for the greatest value."""
    for at, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            column = table.column(at)
            nan = pc.is_nan(column)
            if pc.any(nan).as_py():
                column = pc.if_else(nan, pa.scalar(None, field.type), column)
                table = table.set_column(at, field, column)
    return table


class _registered:
    """A table under the name `TABLE` for the length of the block."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, table: pa.Table) -> None:
        self._connection, self._table = connection, table

    def __enter__(self) -> duckdb.DuckDBPyConnection:
        self._connection.register(TABLE, self._table)
        return self._connection

    def __exit__(self, *error: object) -> None:
        self._connection.unregister(TABLE)


def _select(expressions: Sequence[str]) -> str:
    listed = ", ".join(f"({text}) AS e{at}" for at, text in enumerate(expressions))
    return f"SELECT {listed} FROM {TABLE}"


def _first_line(error: Exception) -> str:
    """Return DuckDB's message without the picture of the query, whose text is ours."""
    return str(error).split("\n")[0].strip()
