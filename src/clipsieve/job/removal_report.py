"""What removal lists take out of an output folder, in numbers and in lines to print."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from clipsieve.errors import LedgerError
from clipsieve.store.folder import OutputFolder
from clipsieve.store.ids import IdList
from clipsieve.store.members import read_members
from clipsieve.store.removal_lists import RemovalList, lists_id, removal_lists
from clipsieve.store.removals import count_removed


@dataclass(frozen=True, slots=True)
class RemoveResult:
    """What a removal list takes out; after an undo or a refresh only `name` and `removed`.

    Attributes:
      name: of the list; "" after a refresh.
      kind: of its ids.
      source: name of its file.
      column: of the file that the ids are from; "" if it has no named columns.
      ids: distinct ids.
      duplicates: ids that were in the file more than once, less one of each.
      matched_ids: ids that name a row.
      rows: rows that the list names.
      new_rows: of those, rows that no other list names.
      removed: rows that lists take out, this one included unless it was undone.
      ledger_rows: rows of the folder.
      is_dry: nothing was written.
      reason: that was given; "" if none was.
      old_reason: that it takes the place of; None if the list was not active, or has this reason.
    """

    name: str = ""
    kind: str = ""
    source: str = ""
    column: str = ""
    ids: int = 0
    duplicates: int = 0
    matched_ids: int = 0
    rows: int = 0
    new_rows: int = 0
    removed: int = 0
    ledger_rows: int = 0
    is_dry: bool = False
    reason: str = ""
    old_reason: str | None = None

    def lines(self, out: str) -> list[str]:
        """Return what a command prints; commands in it name the output folder as `out`."""
        if not self.source:
            undone = [f"list {self.name} is taken back"] if self.name else []
            return [*undone, f"all lists: {self.removed:,} rows are removed from scores"]
        duplicates = f", {self.duplicates:,} duplicates left out" if self.duplicates else ""
        column = f", column {self.column}" if self.column else ""
        lines = [f"{self.source}{column}: {self.ids:,} ids of kind {self.kind}{duplicates}"]
        if self.old_reason is not None:
            verb = "would be" if self.is_dry else "is now"
            old = f", no longer {self.old_reason!r}" if self.old_reason else ""
            lines.append(f"list {self.name} is active: its reason {verb} {self.reason!r}{old}")
        if not self.rows:
            lines.append(
                f"this list: 0 rows; none of its {self.ids:,} ids names one of {self.ledger_rows:,}"
                " rows: if they are of another kind, say it with --by"
            )
            if not self.is_dry:
                lines.append(f"list {self.name} is active all the same, for shards that come later")
        else:
            lines.append(
                f"this list: {self.matched_ids:,} of its {self.ids:,} ids name {self.rows:,} of "
                f"{self.ledger_rows:,} rows ({self.new_rows:,} of them on no other list)"
            )
        if self.is_dry:
            lines.append(
                f"all lists: {self.removed:,} rows would be removed from scores; nothing was "
                "written"
            )
            return lines
        return [
            *lines,
            f"all lists: {self.removed:,} rows are removed from scores; samples has them still, "
            "and removals says why",
            f"undo: clipsieve remove {out} --undo {self.name}",
        ]


def counted(
    entry: RemovalList,
    ids: IdList,
    matches: Iterable[pa.Table],
    folder: OutputFolder,
    old_reason: str | None = None,
    is_dry: bool = False,
) -> RemoveResult:
    """Return what a list takes out of all shards, by their rows that lists name."""
    result = RemoveResult(
        name=entry.name,
        kind=entry.kind,
        source=entry.source,
        column=ids.column,
        ids=entry.ids,
        duplicates=ids.duplicates,
        is_dry=is_dry,
        reason=entry.reason,
        old_reason=old_reason,
    )
    matched: set[str] = set()
    for table in matches:
        own = table.filter(pc.equal(table["list"], entry.name))
        others = table.filter(pc.not_equal(table["list"], entry.name))
        rows, other_rows = set(own["row"].to_pylist()), set(others["row"].to_pylist())
        matched |= set(own["id"].to_pylist())
        result = replace(
            result,
            rows=result.rows + len(rows),
            new_rows=result.new_rows + len(rows - other_rows),
            removed=result.removed + len(rows | other_rows),
        )
    total = sum(each.rows for each in read_members(folder))
    return replace(result, matched_ids=len(matched), ledger_rows=total)


def list_lines(out: str) -> list[str]:
    """Return a line for each active removal list: its name, ids, rows, source and reason.

    Raises:
      UsageError: if the folder holds no dataset.
    """
    folder = OutputFolder.open(out)
    folder.require_manifest()
    lists = removal_lists(folder)
    if not lists:
        return [f"{folder.root} has no removal lists"]
    try:
        counts = count_removed(folder, lists_id(lists))
        rows = {each.name: f"{counts.lists.get(each.name, 0):,}" for each in lists}
        total = f"{counts.rows:,} rows are removed"
    except LedgerError:
        rows = {each.name: "?" for each in lists}
        total = f"rows of new shards are not looked at: clipsieve remove {out} --refresh"
    lines = []
    for each in lists:
        day = time.strftime("%Y-%m-%d", time.gmtime(each.created_at))
        reason = f"; {each.reason}" if each.reason else ""
        lines.append(
            f"{each.name}: {each.ids:,} ids of kind {each.kind} name {rows[each.name]} rows; "
            f"{each.source}, {day}{reason}"
        )
    return [*lines, total]
