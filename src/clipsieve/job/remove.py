"""Remove rows by lists of ids: from the scores now, and from every run, subset and export later.

The ledger, embeddings and score families stay as they are; nothing is scored again.
"""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from clipsieve.control import Control
from clipsieve.errors import ClipsieveError, LedgerError, UsageError
from clipsieve.job.compact import compact_folder
from clipsieve.job.signals import start_control, stopping_on_signals
from clipsieve.select.id_lists import read_id_list
from clipsieve.settings import ScoreConfig
from clipsieve.sql.views import write_sql
from clipsieve.stage import Engine
from clipsieve.store import names
from clipsieve.store.compact import plan_build
from clipsieve.store.folder import OutputFolder
from clipsieve.store.ids import IdList
from clipsieve.store.manifest import Manifest
from clipsieve.store.members import read_members
from clipsieve.store.records import write_run
from clipsieve.store.removal_lists import (
    RemovalList,
    check_list_name,
    default_list_name,
    delete_ids,
    list_names,
    lists_id,
    load_list,
    read_ids,
    removal_lists,
    save_list,
    write_ids,
)
from clipsieve.store.removal_matches import find_matches
from clipsieve.store.removals import (
    count_removed,
    drop_removed,
    match_removals,
    read_removed,
    removals_id,
)


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

    def lines(self, out: str) -> list[str]:
        """Return what a command prints; commands in it name the output folder as `out`."""
        if not self.source:
            undone = [f"list {self.name} is taken back"] if self.name else []
            return [*undone, f"{self.removed:,} rows are removed from scores"]
        duplicates = f", {self.duplicates:,} duplicates left out" if self.duplicates else ""
        column = f", column {self.column}" if self.column else ""
        lines = [f"{self.source}{column}: {self.ids:,} ids of kind {self.kind}{duplicates}"]
        if not self.rows:
            lines.append("none of them names a row; if they are of another kind, say it with --by")
        else:
            lines.append(
                f"{self.matched_ids:,} of them name {self.rows:,} of {self.ledger_rows:,} rows; "
                f"{self.new_rows:,} rows are on no other list"
            )
        if self.is_dry:
            return [*lines, f"{self.removed:,} rows would be removed; nothing was written"]
        return [
            *lines,
            f"{self.removed:,} rows are removed from scores; samples has them still, and "
            "removals says why",
            f"undo: clipsieve remove {out} --undo {self.name}",
        ]


def remove(
    config: ScoreConfig,
    open_engine: Callable[[], Engine],
    path: str,
    by: str | None = None,
    name: str | None = None,
    reason: str = "",
    dry_run: bool = False,
) -> RemoveResult:
    """Add a removal list to an output folder and rebuild what `scores` shows.

    A list that is active already, under the same name with the same ids, stays as it is.

    Args:
      config: its `out` is the folder.
      open_engine: returns what runs the stages.
      path: file of ids, see `read_id_list`.
      by: kind of the ids; None is by the look of them.
      name: of the list; None is the file's.
      reason: kept with the list.
      dry_run: count, and write nothing.

    Raises:
      UsageError: for a file that is no list of ids, a name that is taken by another list, or shards
        without the columns that its kind needs.  Nothing is removed then.
      LedgerError: if files of the folder are missing, damaged, or contradict each other.
      Locked: if another run is writing to the folder.
    """
    started = time.time()
    folder = OutputFolder.open(config.out)
    folder.require_manifest()  # before the lock, which would make the folder
    ids = read_id_list(path, by)
    name = check_list_name(default_list_name(ids.source) if name is None else name)
    control = start_control(config, folder, started)
    entry = RemovalList.from_ids(
        name, ids, reason=reason, run_id=control.run_id, created_at=started
    )
    if dry_run:
        _check_name(folder, entry)
        return _counted(entry, ids, _dry_matches(folder, name, ids), folder, is_dry=True)
    with stopping_on_signals(control), folder.lock():
        manifest = folder.require_manifest()
        folder.sweep()
        engine = open_engine()
        if not _check_name(folder, entry):
            write_ids(folder, entry, ids)
            try:
                lists = tuple(sorted((*removal_lists(folder), entry), key=lambda each: each.name))
                _check_build(folder, manifest, lists, engine, control)
            except ClipsieveError:
                delete_ids(folder, name)
                drop_removed(folder, removals_id(folder))
                raise
            save_list(folder, entry)
        _finish(folder, engine, control, f"remove {name}")
        identifier = removals_id(folder)
        matches = (read_removed(folder, shard, identifier) for shard in folder.shards())
        return _counted(entry, ids, matches, folder)


def undo(config: ScoreConfig, open_engine: Callable[[], Engine], name: str) -> RemoveResult:
    """Take back a removal list and rebuild what `scores` shows.

    Args:
      config: its `out` is the folder.
      open_engine: returns what runs the stages.
      name: of the list.

    Raises:
      UsageError: if there is no such list; it says which there are.
      LedgerError: if files of the folder are missing, damaged, or contradict each other.
      Locked: if another run is writing to the folder.
    """
    folder = OutputFolder.open(config.out)
    folder.require_manifest()  # before the lock, which would make the folder
    control = start_control(config, folder, time.time())
    with stopping_on_signals(control), folder.lock():
        folder.sweep()
        engine = open_engine()
        # The ids of a list whose undoing was interrupted are still there.
        if check_list_name(name) not in folder.files.list_folders(names.REMOVALS):
            load_list(folder, name)
        others = tuple(each for each in removal_lists(folder) if each.name != name)
        _check_build(folder, folder.require_manifest(), others, engine, control)
        folder.files.delete(names.removal_list(name))
        manifest = _finish(folder, engine, control, f"undo {name}")
        delete_ids(folder, name)
    return RemoveResult(name, removed=_removed(manifest))


def refresh(config: ScoreConfig, open_engine: Callable[[], Engine]) -> RemoveResult:
    """Apply the active lists to shards that are new or have changed, and rebuild `scores`.

    Raises:
      UsageError: if a shard lacks columns that a list needs.
      LedgerError: if files of the folder are missing, damaged, or contradict each other.
      Locked: if another run is writing to the folder.
    """
    folder = OutputFolder.open(config.out)
    folder.require_manifest()  # before the lock, which would make the folder
    control = start_control(config, folder, time.time())
    with stopping_on_signals(control), folder.lock():
        folder.sweep()
        return RemoveResult(removed=_removed(_finish(folder, open_engine(), control, "refresh")))


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


def _removed(manifest: Manifest) -> int:
    return manifest.wide.removed if manifest.wide is not None else 0


def _check_name(folder: OutputFolder, entry: RemovalList) -> bool:
    """Return whether the list is active already; refuse another one of its name."""
    if entry.name not in list_names(folder):
        return False
    active = load_list(folder, entry.name)
    if (active.kind, active.ids_sha256) != (entry.kind, entry.ids_sha256):
        raise UsageError(
            f"list {entry.name!r} of {folder.root} has other ids, {active.ids:,} of {active.source}"
            f"; give this one another --name, or first `clipsieve remove {folder.root} "
            f"--undo {entry.name}`"
        )
    return True


def _check_build(
    folder: OutputFolder,
    manifest: Manifest,
    lists: Sequence[RemovalList],
    engine: Engine,
    control: Control,
) -> None:
    """Look for the rows of lists before they become the active ones; see that `scores` can follow.

    Raises:
      UsageError: if a shard lacks columns that a list needs.
      LedgerError: if families do not line up.
    """
    removals = match_removals(folder, engine, control, lists)
    plan_build(folder, manifest.revisions(), removals=removals)


def _finish(folder: OutputFolder, engine: Engine, control: Control, what: str) -> Manifest:
    """Make `scores` follow the active lists, and record the run."""
    manifest = folder.require_manifest()
    if folder.shards():
        manifest = compact_folder(folder, manifest, engine, control)
    write_run(folder, control.run_id, {"status": "ok", "argv": sys.argv, "removals": what})
    write_sql(folder, manifest)  # again: the view of runs may be new
    return manifest


def _dry_matches(folder: OutputFolder, name: str, ids: IdList) -> Iterable[pa.Table]:
    """Yield the rows of each shard that the list or an active one names."""
    active = {each.name: read_ids(folder, each) for each in removal_lists(folder)}
    for shard in folder.shards():
        yield find_matches(folder, {**active, name: ids}, shard)


def _counted(
    entry: RemovalList,
    ids: IdList,
    matches: Iterable[pa.Table],
    folder: OutputFolder,
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
