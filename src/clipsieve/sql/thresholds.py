"""Thresholds by DuckDB on this machine: one scan of the view `scores`, where it fits its memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from clipsieve.errors import UsageError
from clipsieve.sql.connect import open_views
from clipsieve.sql.create_views import report_left_out
from clipsieve.sql.literals import identifier
from clipsieve.sql.quantity import Quantity

#: Bytes that a value takes while it is ranked, its group included.
_VALUE_BYTES, _GROUP_BYTES = 16, 64


def fits_memory(rows: int, quantities: Sequence[Quantity], limit: int | None = None) -> bool:
    """Whether the values of all quantities can be ranked at once in DuckDB's memory.

    Args:
      rows: of the dataset.
      quantities: to be ranked.
      limit: bytes; None is half of what DuckDB takes by default.
    """
    if limit is None:
        query = "SELECT current_setting('memory_limit')"
        answer = duckdb.connect().execute(query).fetchone()
        assert answer is not None
        limit = _bytes(str(answer[0])) // 2
    per_row = sum(_VALUE_BYTES if q.group is None else _GROUP_BYTES for q in quantities)
    return rows * per_row <= limit


def ranked_values(
    out: str | Path, columns: Sequence[str], quantities: Sequence[Quantity]
) -> list[list[tuple[str | None, Any, int]]]:
    """Return group, threshold and number of values, of every group of every quantity.

    Args:
      out: output folder; its view `scores` must show all rows that are ranked.
      columns: floating-point columns that the quantities read; NaN in them counts as NULL.
      quantities: whose thresholds are computed.

    Raises:
      UsageError: if a value cannot be computed; the message is DuckDB's.
    """
    connection, left_out = open_views(out, query="scores")
    report_left_out(left_out)
    try:
        connection.execute("SET TimeZone = 'UTC'")  # as where clauses run
        connection.execute(_clean_view(connection, columns))
        return [_ranked(connection, quantity) for quantity in quantities]
    except duckdb.Error as error:
        first = str(error).split("\n")[0]
        raise UsageError(f"thresholds cannot be computed: {first}") from error
    finally:
        connection.close()


def _clean_view(connection: duckdb.DuckDBPyConnection, columns: Sequence[str]) -> str:
    """Return the statement of a view without NaN."""
    cleaned = ", ".join(
        f"CASE WHEN isnan({name}) THEN NULL ELSE {name} END AS {name}"
        for name in map(identifier, columns)
    )
    replacing = f" REPLACE ({cleaned})" if cleaned else ""
    return f"CREATE TEMP VIEW ranked AS SELECT *{replacing} FROM scores"


def _ranked(
    connection: duckdb.DuckDBPyConnection, quantity: Quantity
) -> list[tuple[str | None, Any, int]]:
    value = f"({quantity.value})"
    if quantity.type in ("FLOAT", "DOUBLE"):
        value = f"(CASE WHEN isnan({value}) THEN NULL ELSE {value} END)"
    if quantity.group is None:
        counted = connection.execute(f"SELECT count({value}) FROM ranked").fetchone()
        assert counted is not None
        rows = int(counted[0])
        if not rows:
            return []
        # The middle between two places: no rounding of a product decides which value it is.
        share = (rows - quantity.rank(rows) + 0.5) / rows
        answer = connection.execute(f"SELECT quantile_disc({value}, {share!r}) FROM ranked")
        row = answer.fetchone()
        assert row is not None
        return [(None, row[0], rows)]
    name = f"CAST({quantity.group} AS VARCHAR)"
    grouped = connection.execute(
        f"SELECT {name} AS g, count({value}) AS n FROM ranked WHERE {value} IS NOT NULL GROUP BY 1"
    ).fetchall()
    places = {
        "g": pa.array([group for group, _ in grouped], pa.string()),
        "n": pa.array([rows for _, rows in grouped], pa.int64()),
        "place": pa.array([quantity.rank(rows) for _, rows in grouped], pa.int64()),
    }
    connection.register("places", pa.table(places))
    return connection.execute(
        f"SELECT p.g, v, n FROM (SELECT {name} AS g, {value} AS v, row_number() OVER "
        f"(PARTITION BY {name} ORDER BY {value} DESC) AS r FROM ranked "
        f"WHERE {value} IS NOT NULL) t "
        "JOIN places p ON t.g IS NOT DISTINCT FROM p.g AND t.r = p.place"
    ).fetchall()


def _bytes(text: str) -> int:
    """Return a number of bytes as DuckDB writes it, e.g. `18.7 GiB`."""
    number, unit = text.split()
    return int(float(number) * 1024 ** ("bytes", "KiB", "MiB", "GiB", "TiB").index(unit))
