"""The funnel of a filter as a picture for terminals."""

from typing import Any

from clipsieve.printing import cell, figures, print_lines

#: Of a funnel: thresholds and sets of steps that are shown, and blocks of the longest bar.
SHOWN_THRESHOLDS, SHOWN_OVERLAPS, BAR_WIDTH = 10, 5, 24
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
    from rich.console import Console

    table = figures("", ["rows", "lost", "NULL", "alone", "only", "left"])
    table.add_column("", no_wrap=True)
    table.add_row("input", f"{result.rows:,}", "", "", "", "", "", _bar(1.0))
    for row in result.funnel:
        label = cell(f"{row['step']} {STEP_WORDS[row['kind']]}{row['label']}")
        names = ("rows_in", "lost", "lost_null", "lost_alone", "lost_only", "rows_out")
        share = row["rows_out"] / result.rows if result.rows else 0.0
        table.add_row(label, *(f"{row[name]:,}" for name in names), _bar(share))
    console = Console(highlight=False)
    width, console.width = console.width, 10_000
    console.width = max(width, console.measure(table).maximum)
    console.print(table)
    print_lines(_overlap_lines(result))
    for row in result.thresholds[:SHOWN_THRESHOLDS]:
        group = "" if row["group"] is None else f", {row['group']}"
        place = f"rank {row['rank']:,} of {row['rows']:,}"
        print_lines([f"{row['quantity']}{group}: {row['threshold']}, {place}"])
    if len(result.thresholds) > SHOWN_THRESHOLDS:
        print_lines([f"and {len(result.thresholds) - SHOWN_THRESHOLDS:,} more thresholds"])
    print_lines([f"resolved where: {' AND '.join(result.resolved)}"] if result.resolved else [])
    print_lines(result.notes)
    share = result.kept / result.rows if result.rows else 0.0
    place = f", in {result.path}" if result.path else ", nothing written"
    print_lines([f"kept {result.kept:,} of {result.rows:,} rows ({share:.2%}){place}"])


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
