"""Conditions of `fail_if`: whether a table that was just written is fit to be used.

A check is a condition, such as `share_of('fetch_failed') > 0.1`, or a query: it fails if the
condition is true, or if the query has a row.  NULL does not fail, so that a comparison with a run
before passes in the first one.
"""

import re
from dataclasses import asdict, dataclass
from typing import Any

import duckdb

from clipsieve.errors import UsageError
from clipsieve.sql.connect import open_views
from clipsieve.sql.interrupt import interruptible

#: A failing query is shown by its first row, cut to this length.
_SHOWN_CHARACTERS = 300
#: A figure of the last run in a condition.
_FIGURE = re.compile(r"\b(?:share_of|value_of|change_of)\([^()]*\)")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What became of one check.

    Attributes:
      check: as it was given.
      failed: whether it fails, or could not be evaluated.
      rows: how many rows the query has; 0 for a condition.
      detail: the query's first row, the values in a condition, or why it could not be evaluated.
    """

    check: str
    failed: bool
    rows: int
    detail: str

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return asdict(self)

    def line(self) -> str:
        """Return it in words."""
        if not self.failed:
            return f"check passed: {self.check}"
        rows = f"{self.rows:,} row{'s' if self.rows != 1 else ''}, " if self.rows else ""
        return f"check failed: {self.check}: {rows}{self.detail}"


def check_query(text: str) -> str:
    r"""Return the query whose rows make a check fail.

    Raises:
      UsageError: if it is neither a condition nor one query.

    >>> check_query("share_of('fetch_failed') > 0.1")
    "SELECT 1 WHERE (share_of('fetch_failed') > 0.1\n)"
    >>> check_query("FROM samples WHERE status <> 'ok'")
    "FROM samples WHERE status <> 'ok'"
    """
    with duckdb.connect() as connection:
        condition = f"SELECT 1 WHERE ({text}\n)"
        # A condition alone is no statement; a query in parentheses is both, and a query.
        for query in (text, condition):
            try:
                statements = connection.extract_statements(query)
            except duckdb.Error:
                continue
            if len(statements) > 1:
                raise UsageError(
                    f"fail_if {text!r} holds {len(statements)} statements; give one condition or "
                    "query, and --fail-if again for another"
                )
            if not statements:
                raise UsageError(f"fail_if {text!r} is empty; give a condition or a query")
            if statements[0].type != duckdb.StatementType.SELECT:
                raise UsageError(
                    f"fail_if {text!r} is a statement {statements[0].type.name}; give a condition, "
                    "or a query that only reads"
                )
            if query is not condition or _is_alone(text):
                return query
        try:
            connection.extract_statements(condition)
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise UsageError(
                f"fail_if {text!r} is neither a condition nor a query: {reason}"
            ) from error
    raise UsageError(f"fail_if {text!r} goes on after its condition; give the condition alone")


def run_check(out: str, text: str) -> CheckResult:
    """Evaluate a check on an output folder, whose tables are written.

    A check that cannot be evaluated fails: a schedule must not go on without the check it asked
    for.  It reads only, and nothing outside of the folder.

    Raises:
      UsageError: see `check_query`.
      KeyboardInterrupt: after SIGINT.
    """
    query = check_query(text)
    connection, _ = open_views(out, locked=True, query=f"{query} run_metrics")

    def figures() -> str:
        """Return the figures that a condition names, with their values."""
        calls = dict.fromkeys(match[0] for match in _FIGURE.finditer(text))
        if not calls:
            return "the condition is true"
        values = connection.execute(f"SELECT {', '.join(calls)}").fetchone()
        named = zip(calls, values or (), strict=True)
        return ", ".join(f"{c} = {'NULL' if v is None else f'{v:.6g}'}" for c, v in named)

    def rows() -> tuple[int, tuple[Any, ...] | None, list[str]]:
        answer = connection.execute(query)
        columns = [str(column[0]) for column in answer.description or ()]
        first = answer.fetchone()
        if first is None:
            return 0, None, []
        if query != text:
            return 1, (figures(),), []
        counted = connection.execute(f"SELECT count(*) FROM ({query}\n)").fetchone()
        return int(counted[0]) if counted else 1, first, columns

    try:
        count, first, columns = interruptible(connection, rows)
    except (duckdb.Error, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        return CheckResult(text, True, 0, f"it cannot be evaluated: {reason}")
    if not count:
        return CheckResult(text, False, 0, "")
    assert first is not None
    if query != text:
        return CheckResult(text, True, 0, str(first[0]))
    shown = ", ".join(f"{name} = {value}" for name, value in zip(columns, first, strict=True))
    return CheckResult(text, True, count, f"first: {shown[:_SHOWN_CHARACTERS]}")


def _is_alone(text: str) -> bool:
    """Whether a condition does not close the parentheses that are put around it."""
    with duckdb.connect() as connection:
        try:
            connection.extract_statements(f"SELECT ({text}\n)")
            connection.extract_statements(f"SELECT [{text}\n]")
        except duckdb.Error:
            return False
    return True
