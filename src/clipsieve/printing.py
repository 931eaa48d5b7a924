"""What commands print on standard output: answers of queries, groups of rows, accounts of shards.

rich is imported by the functions that draw tables: it takes a tenth of a second.
"""

import csv
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clipsieve.terminal import escaped as escaped
from clipsieve.terminal import escaped_line, exact_output, json_text

if TYPE_CHECKING:
    from rich.text import Text

#: Rows that a table shows.
SHOWN_ROWS = 1000
#: Forms of the answer of a query.
FORMS = ("table", "csv", "json")
#: Where SQL finds all groups of an audit.
GROUPS_VIEW = "audit_groups"


def print_lines(lines: Iterable[str], err: bool = False) -> None:
    """Lines of text that may quote data, each on a line of its own."""
    stream = sys.stderr if err else sys.stdout
    for line in lines:
        stream.write(escaped_line(line) + "\n")
        stream.flush()


def print_json(value: Any, indent: int | None = None) -> None:
    """A value as JSON, in ASCII."""
    with exact_output() as stream:
        stream.write(json_text(value, indent) + "\n")


def print_answer(columns: Sequence[str], rows: Sequence[Sequence[Any]], form: str) -> None:
    """The answer of a query as one of `FORMS`; bytes are hexadecimal.

    As a table it has at most `SHOWN_ROWS` rows.  CSV is exact, and UTF-8 in any locale.  As JSON it
    has one object a row, in ASCII, in which NaN and infinity are null and the second of two columns
    of one name ends in `_1`.
    """
    if form == "table":
        _print_table(columns, rows)
    elif form == "csv":
        with exact_output() as stream:
            writer = csv.writer(stream)
            writer.writerow(columns)
            writer.writerows([_hexadecimal(value) for value in row] for row in rows)
    else:
        names = distinct(columns)
        with exact_output() as stream:
            for row in rows:
                values = (json_value(value) for value in row)
                stream.write(json_text(dict(zip(names, values, strict=True))) + "\n")


def distinct(names: Sequence[str]) -> list[str]:
    """Names with a number behind those that were there before.

    >>> distinct(["a", "a", "a_1", "a"])
    ['a', 'a_1', 'a_1_1', 'a_2']
    """
    unique: dict[str, None] = {}
    for name in names:
        candidate, number = name, 0
        while candidate in unique:
            number += 1
            candidate = f"{name}_{number}"
        unique[candidate] = None
    return list(unique)


def json_value(value: Any) -> Any:
    """A value of a DuckDB column as JSON has it; what JSON lacks is text.

    >>> json_value({"a": [1.5, float("nan")], "b": bytes([1, 255])})
    {'a': [1.5, None], 'b': '01ff'}
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(json_value(key)): json_value(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(part) for part in value]
    return str(_hexadecimal(value))


def _hexadecimal(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes | bytearray | memoryview) else value


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table that fits the terminal; a single row that does not is shown column by column."""
    from rich.table import Table
    from rich.text import Text

    from clipsieve.console import SafeConsole

    console = SafeConsole()
    table = Table()
    for name in columns:
        table.add_column(Text(escaped(name)))
    for row in rows[:SHOWN_ROWS]:
        table.add_row(*(cell(value) for value in row))
    if len(rows) == 1 and console.measure(table).maximum >= console.width:
        table = Table("column", "value")
        for name, value in zip(columns, rows[0], strict=True):
            table.add_row(Text(escaped(name)), cell(value))
    console.print(table)
    if len(rows) > SHOWN_ROWS:
        print_lines([f"more than {SHOWN_ROWS:,} rows; add LIMIT, or use --format csv"], err=True)


def cell(value: Any) -> "Text":
    """A value as it is: brackets in it are no markup."""
    from rich.text import Text

    if value is None:
        return Text("NULL")
    value = _hexadecimal(value)
    return Text(f"{value:.6g}" if isinstance(value, float) else escaped(str(value)))


def print_groups(groups: Sequence[Any], out: str) -> None:
    """One line a group: figures whole, words cut to the terminal.

    Args:
      groups: of the audit of `out`, those to show.
      out: its output folder.
    """
    from rich.box import SIMPLE_HEAD
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    from clipsieve.console import SafeConsole

    console = SafeConsole()
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    figures = [
        [
            *(f"{rank}", str(group.finding), f"{group.rows:,}"),
            *(f"{group.evidence:,.0f}", f"{group.evidence_per_row:.1f}", f"{group.p:.0e}"),
            *(escaped_line(group.witness), f"{group.witness_mean:.3g}"),
            f"{group.ordinary_low:.3g} to {group.ordinary_high:.3g}",
        ]
        for rank, group in enumerate(groups, 1)
    ]
    names = (
        *("#", "finding", "rows", "evidence", "a row", "p", "witness", "mean"),
        "ordinary",
    )
    widths = [max(map(cell_len, column)) for column in zip(names, *figures, strict=True)]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("caption", no_wrap=True)
    # Left to itself, rich would cut the figures too.  Every column takes two blanks.
    taken = sum(widths) + 2 * (len(widths) + 1) + 1
    room = max(console.width - taken, 20)
    console.width = taken + room
    for line, group in zip(figures, groups, strict=True):
        # A line break in a caption would make two lines of it.
        caption = " ".join(group.captions[0].split()) if group.captions else "NULL"
        text = Text(escaped(caption))
        text.truncate(room, overflow="ellipsis")
        table.add_row(*map(Text, line), text)
    console.print(table)
    print_lines(
        [
            f'all of them: clipsieve sql {out} "FROM {GROUPS_VIEW}"',
            f'why, and how to take one out: clipsieve sql {out} "SELECT rank, why, keep FROM '
            f'{GROUPS_VIEW}"',
            f'their rows: clipsieve sql {out} "FROM audit_members"',
            f'captions and pictures that occur often: clipsieve sql {out} "FROM copies"',
        ]
    )


def print_metrics(rows: Sequence[Mapping[str, Any]]) -> None:
    """Measures of a dataset, a line a group; at most `SHOWN_ROWS`.

    Args:
      rows: of the table `metrics`, one at least.
    """
    from clipsieve.console import SafeConsole

    group_by, labels = rows[0]["group_by"], rows[0]["labels"]
    table = figures(group_by, ["rows", "MaNo", "branch"])
    if labels is not None:
        for name in ("labelled", "accuracy", "ECE", "AURC"):
            table.add_column(name, justify="right", no_wrap=True)
    for row in rows[:SHOWN_ROWS]:
        cells = [f"{row['rows']:,}", _number(row["mano"]), row["mano_branch"] or "NULL"]
        if labels is not None:
            cells.append(f"{row['labelled_rows']:,}")
            cells += [_number(row[name]) for name in ("accuracy", "ece", "aurc")]
        table.add_row(cell(row["group"]), *cells)
    SafeConsole().print(table)
    if len(rows) > SHOWN_ROWS:
        print_lines([f"{len(rows):,} groups, the first {SHOWN_ROWS:,} shown; all are in metrics"])
    _print_left_out(rows)


def _print_left_out(rows: Sequence[Mapping[str, Any]]) -> None:
    """Say how many rows are in no measure."""
    kinds = {
        "missing_rows": "without an image embedding",
        "unlabelled_rows": "without a label",
        "unknown_labels": "with a label that is no class",
    }
    for name, kind in kinds.items():
        count = sum(row[name] or 0 for row in rows)
        if count:
            print_lines([f"left out: {count:,} rows {kind}"])


def print_detectors(rows: Sequence[Mapping[str, Any]]) -> None:
    """How well each score tells two sets of rows apart, with 95 % intervals, a line a score.

    Args:
      rows: of the table `detectors`, one at least.
    """
    from clipsieve.console import SafeConsole

    first = rows[0]
    table = figures("score", ["AUROC", "AUPR in", "AUPR out", "FPR95"])
    for row in rows:
        cells = (_estimate(row, name) for name in ("auroc", "aupr_in", "aupr_out", "fpr95"))
        table.add_row(cell(row["column"]), *cells)
    console = SafeConsole()
    # Rich would cut figures: in a narrow terminal lines are broken instead.
    width, console.width = console.width, 10_000
    console.width = max(width, console.measure(table).maximum)
    console.print(table)
    print_lines(
        [
            f"out of distribution: {first['out_of_distribution']}; rows of the first score: "
            f"{first['in_rows']:,} in, {first['out_rows']:,} out of distribution",
            f"FPR95: {first['fpr95_convention']}",
        ]
    )


def print_verification(result: Any) -> None:
    """How our column compares with a published one: rows of both sides, figures, largest pairs.

    Args:
      result: of `clipsieve.verify`.
    """
    from clipsieve.console import SafeConsole

    console = SafeConsole()
    kinds = {
        "rows": "rows",
        "without_key": f"without {result.key}",
        "duplicates": f"{result.key} more than once",
        "unmatched": f"{result.key} not on the other side",
        "missing": "joined, without a value",
    }
    table = figures(f"joined by {result.key}", [result.our_column, result.their_column])
    for name, kind in kinds.items():
        table.add_row(kind, *(f"{getattr(side, name):,}" for side in (result.ours, result.theirs)))
    console.print(table)
    print_lines(
        [
            f"{result.joined:,} rows joined, {result.compared:,} compared",
            "Pearson correlation  "
            + ("NULL" if result.pearson is None else f"{result.pearson:.6f}"),
            f"mean difference      {result.mean_difference:.6f}",
            f"mean |difference|    {result.mean_absolute:.6f}",
            f"max |difference|     {result.max_absolute:.6f}",
        ]
    )
    if result.largest:
        table = figures(f"largest, by {result.key}", ["ours", "theirs", "difference"])
        for pair in result.largest:
            values = (pair.ours, pair.theirs, pair.ours - pair.theirs)
            table.add_row(cell(pair.key), *(f"{value:.6f}" for value in values))
        console.print(table)
    if result.tolerance is not None:
        verdict = "over" if result.exit_code else "within"
        print_lines([f"max |difference| is {verdict} the tolerance of {result.tolerance:g}"])


def figures(first: str, names: Sequence[str]) -> Any:
    """A table with a column of words and columns of figures."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(Text(escaped(first)))
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _estimate(row: Mapping[str, Any], name: str) -> str:
    """An estimate with its interval, if there is one."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    interval = "" if low is None else f" ({low:.3f}-{high:.3f})"
    return f"{_number(row[name])}{interval}"


def _number(value: float | None) -> str:
    return "NULL" if value is None else f"{value:.4f}"


def print_accounts(accounts: Sequence[Any]) -> None:
    """Totals by state and of all rows, what does not add up, and the verdict."""
    from rich.table import Table

    from clipsieve.console import SafeConsole

    totals: dict[str, int] = {}
    for account in accounts:
        for state, rows in account.states.items():
            totals[state] = totals.get(state, 0) + rows
    rows_in = sum(account.source_rows or 0 for account in accounts)
    table = Table("state", "rows")
    for state, rows in sorted(totals.items(), key=lambda pair: -pair[1]):
        table.add_row(escaped(str(state)), f"{rows:,}")
    table.add_row("ledger", f"{sum(totals.values()):,}", style="bold")
    table.add_row("input", f"{rows_in:,}", style="bold")
    SafeConsole().print(table)
    wrong = [account for account in accounts if account.problems]
    for account in wrong:
        place = f"{account.shard} ({account.uri})"
        print_lines([f"{place}: {problem}" for problem in account.problems], err=True)
    if wrong:
        shards = [account for account in accounts if account.is_shard]
        bad = [account for account in shards if account.problems]
        lines = [f"{len(bad)} of {len(shards)} shards do not add up"] if bad else []
        if len(wrong) > len(bad):
            lines.append(f"{len(wrong) - len(bad)} files or subsets beside shards are damaged")
        print_lines(lines, err=True)
    else:
        rows = sum(account.ledger_rows or 0 for account in accounts)
        print_lines(
            [f"all {rows:,} input rows of {len(accounts)} shards are in the ledger exactly once"]
        )
