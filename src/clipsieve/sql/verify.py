"""Comparison of our scores with published ones of the same rows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

from clipsieve.errors import UsageError
from clipsieve.sql.columns import wide_columns
from clipsieve.sql.connect import connect
from clipsieve.sql.literals import identifier, literal
from clipsieve.sql.published import PublishedTable, finite, key_text, open_published
from clipsieve.sql.recipe_values import is_number, missing_column
from clipsieve.store.folder import OutputFolder

#: Columns that rows are joined by, the best first.
KEYS = ("uid", "url")

#: Rows of each side by key; a key that is there more than once is in no pair.
_SIDES = """
WITH ours AS (SELECT key, count(*) AS n, max(value) AS value
              FROM (SELECT {our_key} AS key, {our_value} AS value FROM scores) GROUP BY key),
     theirs AS (SELECT key, count(*) AS n, max(value) AS value
                FROM (SELECT {their_key} AS key, {their_value} AS value FROM {relation})
                GROUP BY key),
     matched AS (SELECT coalesce(o.key, t.key) AS key, o.n AS our_n, t.n AS their_n,
                     o.value AS our_value, t.value AS their_value,
                     our_n = 1 AND their_n = 1 AS joined, our_value - their_value AS difference
              FROM ours o FULL JOIN theirs t ON o.key = t.key)
SELECT {sides},
       count(*) FILTER (joined) AS joined,
       count(difference) FILTER (joined) AS compared,
       corr(our_value, their_value) FILTER (joined AND difference IS NOT NULL) AS pearson,
       avg(difference) FILTER (joined) AS mean_difference,
       avg(abs(difference)) FILTER (joined) AS mean_absolute,
       max(abs(difference)) FILTER (joined) AS max_absolute,
       max_by({{key: key, ours: our_value, theirs: their_value}},
              {{d: abs(difference), key: key}}, {top})
         FILTER (joined AND difference IS NOT NULL) AS largest
FROM matched
"""
_SIDE = """
       coalesce(sum({n}), 0)::BIGINT AS {side}_rows,
       coalesce(sum({n}) FILTER (key IS NULL), 0)::BIGINT AS {side}_without_key,
       coalesce(sum({n}) FILTER (key IS NOT NULL AND {n} > 1), 0)::BIGINT AS {side}_duplicates,
       count(*) FILTER (key IS NOT NULL AND {n} = 1 AND NOT coalesce(joined, false))
         AS {side}_unmatched,
       count(*) FILTER (joined AND {value} IS NULL) AS {side}_missing"""


@dataclass(frozen=True, slots=True)
class Side:
    """Rows of one side of a comparison: `rows` is the sum of the next three and the pairs.

    Attributes:
      rows: all.
      without_key: with NULL for a key.
      duplicates: whose key is there more than once; they are in no pair.
      unmatched: whose key the other side lacks, or has more than once.
      missing: in a pair, with a value that is NULL, NaN or infinite.
    """

    rows: int
    without_key: int
    duplicates: int
    unmatched: int
    missing: int


@dataclass(frozen=True, slots=True)
class Difference:
    """One pair: its key and both values."""

    key: str
    ours: float
    theirs: float


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """How our column compares with a published one.

    Attributes:
      ours: our rows.
      theirs: published rows.
      our_column: name of our column.
      their_column: name of theirs, as it is spelled there.
      key: `uid` or `url`.
      joined: pairs of rows with the same key, which each side has once.
      compared: those in which both have a value.
      pearson: correlation of the values; None if one side is constant or there is one pair.
      mean_difference: of ours less theirs.
      mean_absolute: of the differences without their sign.
      max_absolute: the largest of them.
      largest: pairs of the largest ones, largest first; of equal ones the last key first.
      tolerance: what `max_absolute` may be; None if it is not judged.
    """

    ours: Side
    theirs: Side
    our_column: str
    their_column: str
    key: str
    joined: int
    compared: int
    pearson: float | None
    mean_difference: float
    mean_absolute: float
    max_absolute: float
    largest: tuple[Difference, ...]
    tolerance: float | None

    @property
    def exit_code(self) -> int:
        """1 if the largest difference is over the tolerance, else 0."""
        return int(self.tolerance is not None and self.max_absolute > self.tolerance)


def verify(
    out: str | Path,
    against: str,
    column: str,
    ours: str = "clip_similarity",
    on: str | None = None,
    tolerance: float | None = None,
    top: int = 10,
) -> VerifyResult:
    """Compare a column of `scores` with a published one of the same rows.

    Memory is DuckDB's: sides that do not fit go to temporary files.

    Args:
      out: output folder of an earlier run.
      against: Parquet, CSV or JSON lines with the published column: a file, glob or folder.
      column: its name there, in any case.
      ours: the column of `scores` to compare.
      on: `uid` or `url`; None: `uid` if the table has it, else `url`.
      tolerance: what the largest difference may be.
      top: number of the largest differences to return, 0 or more.

    Raises:
      UsageError: for a column that is missing or holds no numbers, a key that a side lacks, no
        row with the same key on both sides, no pair with both values, or wrong arguments.
    """
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise UsageError(f"tolerance must be a finite number of at least 0, got {tolerance}")
    if isinstance(top, bool) or not 0 <= top <= 10_000:
        raise UsageError(f"top must be an int from 0 to 10000, got {top}")
    folder = OutputFolder.open(out)
    columns = wide_columns(folder, folder.require_manifest())
    our_column = _our_column(folder, columns, ours)
    # DuckDB would put what does not fit its memory into the working directory.
    with TemporaryDirectory(prefix="clipsieve-") as scratch, connect(out) as connection:
        connection.execute(f"SET temp_directory = {literal(scratch)}")
        table = open_published(connection, against)
        value = table.number(column)
        key, their_key = _keys(columns, table, on)
        try:
            row = _compare(connection, table, key, their_key, our_column, value, top)
        except UsageError as error:
            _check_numbers(connection, table, str(table.find(column)), error)
            raise
    return _result(row, our_column, table, str(table.find(column)), key, tolerance)


def _our_column(folder: OutputFolder, columns: Mapping[str, Any], name: str) -> str:
    """Return our column as it is spelled in `scores`."""
    if not columns:
        raise UsageError(
            f"{folder.root} has no view `scores`; make it: clipsieve compact {folder.root}"
        )
    column = next((each for each in columns if each.lower() == name.lower()), None)
    if column is None:
        raise UsageError(missing_column(name, columns))
    if not is_number(columns[column]):
        raise UsageError(f"column {column!r} of scores is {columns[column]}; name one of numbers")
    return column


def _keys(columns: Mapping[str, Any], table: PublishedTable, on: str | None) -> tuple[str, str]:
    """Return the column that rows are joined by, as each side spells it."""
    if on not in (None, *KEYS):
        raise UsageError(f"on must be one of {', '.join(KEYS)}, got {on!r}")
    ours = {name.lower(): name for name in columns}
    for key in KEYS if on is None else (on,):
        theirs = table.find(key)
        if key in ours and theirs is not None:
            return ours[key], theirs
    has = ", ".join(table.columns)
    lacks = [key for key in KEYS if key not in ours and on in (None, key)]
    own = f"; scores has no {' or '.join(lacks)}" if lacks else ""
    raise UsageError(
        f"rows cannot be joined by {on or ' or '.join(KEYS)}: {table.name} has {has}{own}; "
        "name a file with the key, or rename its column"
    )


def _compare(
    connection: duckdb.DuckDBPyConnection,
    table: PublishedTable,
    key: str,
    their_key: str,
    our_column: str,
    their_value: str,
    top: int,
) -> dict[str, Any]:
    """Return the figures of the comparison by name."""
    types = {str(row[0]): str(row[1]) for row in connection.execute("DESCRIBE scores").fetchall()}
    sides = (("our", "our_n", "our_value"), ("their", "their_n", "their_value"))
    query = _SIDES.format(
        our_key=key_text(identifier(key), types[key]),
        our_value=finite(identifier(our_column)),
        their_key=table.key(their_key),
        their_value=their_value,
        relation=table.relation,
        sides=",".join(_SIDE.format(side=side, n=n, value=value) for side, n, value in sides),
        top=max(top, 1),
    )
    try:
        relation = connection.sql(query)
        row = dict(zip(relation.columns, relation.fetchall()[0], strict=True))
    except duckdb.Error as error:
        # The first of DuckDB's paragraphs: the others are advice on its options.
        reason = " ".join(str(error).partition("\n\n")[0].split())
        raise UsageError(f"comparison with {table.name} failed: {reason}") from error
    return {**row, "largest": (row["largest"] or [])[:top]}


def _check_numbers(
    connection: duckdb.DuckDBPyConnection, table: PublishedTable, column: str, error: UsageError
) -> None:
    """Say of a comparison that failed that the published column holds text, if it does."""
    text = table.not_number(connection, column) if table.is_text else None
    if text is not None:
        shown = repr(text if len(text) <= 80 else text[:80] + "...")
        raise UsageError(
            f"column {column!r} of {table.name} is text, such as {shown}, and must be a number; "
            "name one of numbers with --column"
        ) from error


def _result(
    row: Mapping[str, Any],
    our_column: str,
    table: PublishedTable,
    their_column: str,
    key: str,
    tolerance: float | None,
) -> VerifyResult:
    """Return the figures as a result; refuse those of nothing."""
    names = ("rows", "without_key", "duplicates", "unmatched", "missing")
    ours, theirs = (
        Side(**{name: row[f"{side}_{name}"] for name in names}) for side in ("our", "their")
    )
    if not row["joined"]:
        other = next(each for each in KEYS if each != key.lower())
        raise UsageError(
            f"no {key} of {table.name} is that of one row of ours ({ours.rows:,} rows here and "
            f"{theirs.rows:,} there, of which {ours.duplicates:,} and {theirs.duplicates:,} have a "
            f"key that comes more than once); compare files of the same dataset, or join them "
            f"with --on {other}"
        )
    if not row["compared"]:
        raise UsageError(
            f"of {row['joined']:,} pairs with {table.name} none has both values: ours is missing "
            f"in {ours.missing:,}, theirs in {theirs.missing:,}; compare other columns"
        )
    pearson = row["pearson"]
    figures = {name: row[name] for name in ("mean_difference", "mean_absolute", "max_absolute")}
    return VerifyResult(
        ours=ours,
        theirs=theirs,
        our_column=our_column,
        their_column=their_column,
        key=key.lower(),
        joined=row["joined"],
        compared=row["compared"],
        # Rounding takes it past 1 by some 1e-14.
        pearson=max(-1.0, min(1.0, pearson)) if math.isfinite(pearson or math.nan) else None,
        **figures,
        largest=tuple(Difference(**pair) for pair in row["largest"]),
        tolerance=tolerance,
    )
