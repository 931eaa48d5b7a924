"""Remove rows by lists of ids: from the scores now, and from every run, subset and export later.

The ledger, embeddings and score families stay as they are; nothing is scored again.
"""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import pyarrow as pa

from clipsieve.control import Control
from clipsieve.errors import ClipsieveError, UsageError
from clipsieve.job.compact import compact_folder
from clipsieve.job.removal_report import RemoveResult, counted
from clipsieve.job.signals import start_control, stopping_on_signals
from clipsieve.select.id_lists import IdList, read_folder_list
from clipsieve.settings import ScoreConfig
from clipsieve.sql.views import write_sql
from clipsieve.stage import Engine
from clipsieve.store import names
from clipsieve.store.compact import plan_build
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import Manifest
from clipsieve.store.records import write_run
from clipsieve.store.removal_lists import (
    RemovalList,
    check_list_name,
    default_list_name,
    delete_ids,
    list_names,
    load_list,
    read_ids,
    removal_lists,
    save_list,
    write_ids,
)
from clipsieve.store.removal_matches import find_matches
from clipsieve.store.removals import drop_removed, match_removals, read_removed, removals_id


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

    A list that is active already, under the same name with the same ids, stays as it is but for its
    reason, which becomes the one that is given.

    Args:
      config: its `out` is the folder.
      open_engine: returns what runs the stages.
      path: file of ids, see `read_folder_list`.
      by: kind of the ids; None is by the look of them.
      name: of the list; None is the file's.
      reason: kept with the list; "" is none, and leaves that of an active list.
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
    ids = read_folder_list(folder, path, by)
    name = check_list_name(default_list_name(ids.source) if name is None else name)
    control = start_control(config, folder, started)
    entry = RemovalList.from_ids(
        name, ids, reason=reason, run_id=control.run_id, created_at=started
    )
    if dry_run:
        active = _active_list(folder, entry)
        matches = _dry_matches(folder, name, ids)
        return counted(entry, ids, matches, folder, _old_reason(active, entry), is_dry=True)
    with stopping_on_signals(control), folder.lock(config.lock_terms(), control.stop):
        manifest = folder.require_manifest()
        folder.sweep()
        engine = open_engine()
        active = _active_list(folder, entry)
        old_reason = _old_reason(active, entry)
        if active is None:
            write_ids(folder, entry, ids)
            try:
                lists = tuple(sorted((*removal_lists(folder), entry), key=lambda each: each.name))
                _check_build(folder, manifest, lists, engine, control)
            except ClipsieveError:
                delete_ids(folder, name)
                drop_removed(folder, removals_id(folder))
                raise
            save_list(folder, entry)
        elif old_reason is not None:
            save_list(folder, replace(active, reason=reason))
        _finish(folder, engine, control, f"remove {name}")
        identifier = removals_id(folder)
        matches = (read_removed(folder, shard, identifier) for shard in folder.shards())
        return counted(entry, ids, matches, folder, old_reason)


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
    with stopping_on_signals(control), folder.lock(config.lock_terms(), control.stop):
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
    with stopping_on_signals(control), folder.lock(config.lock_terms(), control.stop):
        folder.sweep()
        return RemoveResult(removed=_removed(_finish(folder, open_engine(), control, "refresh")))


def _removed(manifest: Manifest) -> int:
    return manifest.wide.removed if manifest.wide is not None else 0


def _active_list(folder: OutputFolder, entry: RemovalList) -> RemovalList | None:
    """Return the list if it is active already; refuse another one of its name."""
    if entry.name not in list_names(folder):
        return None
    active = load_list(folder, entry.name)
    if (active.kind, active.ids_sha256) != (entry.kind, entry.ids_sha256):
        raise UsageError(
            f"list {entry.name!r} of {folder.root} has other ids, {active.ids:,} of {active.source}"
            f"; give this one another --name, or first `clipsieve remove {folder.root} "
            f"--undo {entry.name}`"
        )
    return active


def _old_reason(active: RemovalList | None, entry: RemovalList) -> str | None:
    """Return the reason of an active list if another one is given; None if it stays."""
    if active is None or entry.reason in ("", active.reason):
        return None
    return active.reason


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
