"""The funnel of a filter as a picture for terminals."""

from typing import Any

from clipsieve.printing import cell, figures, print_lines

#: Of a funnel: groups and sets of steps that are shown, and blocks of the longest bar.
SHOWN_GROUPS, SHOWN_OVERLAPS, BAR_WIDTH = 5, 5, 24
#: Before the label of a step, by its kind.
STEP_WORDS = {
    "removed": "not on ",
    "from": "from ",
    "clause": "",
    "and": "and ",
    "minus": "minus ",
}


def print_funnel(result: Any) -> None:
    """The funnel of a filter as a picture, thresholds, and which steps rows fail together.

    Args:
      result: a `FilterResult`.
    """
    from clipsieve.console import SafeConsole

    console = SafeConsole()
    bar = _ascii_bar if console.is_ascii else _bar
    table = figures("", ["rows", "lost", "NULL", "alone", "only", "left"])
    table.add_column("", no_wrap=True)
    table.add_row("input", f"{result.rows:,}", "", "", "", "", "", bar(1.0))
    for row in result.funnel:
        label = cell(f"{row['step']} {STEP_WORDS[row['kind']]}{row['label']}")
        names = ("rows_in", "lost", "lost_null", "lost_alone", "lost_only", "rows_out")
        share = row["rows_out"] / result.rows if result.rows else 0.0
        table.add_row(label, *(f"{row[name]:,}" for name in names), bar(share))
    width, console.width = console.width, 10_000
    console.width = max(width, console.measure(table).maximum)
    console.print(table)
    print_lines(_overlap_lines(result))
    print_lines(_threshold_lines(result))
    print_lines([f"resolved where: {' AND '.join(result.resolved)}"] if result.resolved else [])
    print_lines(result.notes)
    share = result.kept / result.rows if result.rows else 0.0
    place = f", in {result.path}" if result.path else ", nothing written"
    print_lines([f"kept {result.kept:,} of {result.rows:,} rows ({share:.2%}){place}"])


def _threshold_lines(result: Any) -> list[str]:
    """A line on each threshold; one on all of a quantity with many groups."""
    by_quantity: dict[str, list[Any]] = {}
    for row in result.thresholds:
        by_quantity.setdefault(row["quantity"], []).append(row)
    lines = []
    for quantity, rows in by_quantity.items():
        if len(rows) > SHOWN_GROUPS:
            values = sorted((row["threshold"] for row in rows), key=float)
            lines.append(f"{quantity}: {len(rows):,} groups, {values[0]} to {values[-1]}")
            continue
        for row in rows:
            group = "" if row["group"] is None else f", {row['group']}"
            place = f"value {row['rank']:,} of {row['rows']:,} from the highest"
            lines.append(f"{quantity}{group}: {row['threshold']}, {place}")
    return lines


def _overlap_lines(result: Any) -> list[str]:
    """Which steps rows fail together, the most frequent sets of several steps."""
    together = [row for row in result.overlaps if len(row["failed"]) > 1]
    listed = [
        f"{row['rows']:,} fail {' and '.join(map(str, row['failed']))}"
        for row in together[:SHOWN_OVERLAPS]
    ]
    if not listed:
        return []
    more = (
        f"; {len(together) - SHOWN_OVERLAPS} other sets" if len(together) > SHOWN_OVERLAPS else ""
    )
    return [f"together: {'; '.join(listed)}{more}"]


def _bar(share: float) -> str:
    """A bar of up to 24 blocks, in eighths.

    >>> _bar(0.5)
    '████████████'
    """
    eighths = round(share * BAR_WIDTH * 8)
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (" ▏▎▍▌▋▊▉"[rest] if rest else "")


def _ascii_bar(share: float) -> str:
    """A bar of up to 24 characters.

    >>> _ascii_bar(0.5)
    '############'
    """
    return "#" * round(share * BAR_WIDTH)
