"""Which rows of an output folder its removal lists take out; kept up to date, shard by shard."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from clipsieve.control import Control
from clipsieve.errors import LedgerError
from clipsieve.schemas import footers
from clipsieve.schemas.removals import removed_schema
from clipsieve.stage import Engine
from clipsieve.store import names
from clipsieve.store.documents import footer_value
from clipsieve.store.folder import OutputFolder
from clipsieve.store.members import ledger_key, read_members
from clipsieve.store.parquet import Footer
from clipsieve.store.removal_lists import RemovalList, lists_id, removal_lists
from clipsieve.store.removal_matches import MatchStage, first_lists
from clipsieve.store.validation import Count

#: Rows from which shards are matched in worker processes too: starting them takes seconds.
WORKERS_FROM = 1_000_000


@dataclass(frozen=True, slots=True)
class RemovalCounts:
    """Rows that removal lists take out.

    Attributes:
      rows: that one list at least names.
      lists: rows that each names, by its name; a row may be named by several.
    """

    rows: int = 0
    lists: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Matches:
    """What the footer of a shard's removed rows counts."""

    rows: Count
    lists: Mapping[str, Count]


def removals_id(folder: OutputFolder) -> str:
    """Return the id of the active removal lists: equal for equal names and ids; "" without any.

    Raises:
      LedgerError: if the description of a list is damaged.
    """
    return lists_id(removal_lists(folder))


def read_removed(folder: OutputFolder, shard: str, identifier: str | None = None) -> pa.Table:
    """Return the rows of a shard that removal lists name, in source order, then by list.

    Args:
      folder: the output folder.
      shard: its name.
      identifier: of the lists, from `removals_id`; None is that of the active ones.

    Returns:
      uid, shard, row, list, kind and id, a row for each row of the ledger and list; none without
      lists.

    Raises:
      LedgerError: if the rows were not looked for yet, or the shard has changed since.
    """
    identifier = removals_id(folder) if identifier is None else identifier
    if not identifier:
        return removed_schema(pa.string()).empty_table()
    removed_footers(folder, [shard], identifier)
    return folder.read_table(names.removed(identifier, shard))


def match_removals(
    folder: OutputFolder,
    engine: Engine,
    control: Control,
    lists: Sequence[RemovalList] | None = None,
    workers_from: int = WORKERS_FROM,
) -> str:
    """Look for the rows that removal lists name in all shards that are new or have changed.

    The caller holds the folder's lock.  Each process that does so holds the ids of all lists.

    Args:
      folder: the output folder.
      engine: runs the stage.
      control: of the run.
      lists: whose ids are in the folder; None is the active ones.
      workers_from: rows to look at from which worker processes are started, if there are some.

    Returns:
      The id of the lists; "" without lists, when nothing is done.

    Raises:
      UsageError: if a shard lacks columns that a list needs.
      LedgerError: if files of the folder are missing or damaged.
    """
    lists = removal_lists(folder) if lists is None else lists
    identifier = lists_id(lists)
    if not identifier:
        return ""
    members = read_members(folder)
    tables = [names.removed(identifier, each.shard) for each in members]
    written = folder.read_footers(tables)
    todo = [
        each
        for each, footer in zip(members, written, strict=True)
        if not _is_current(footer, identifier, each.key)
    ]
    present = {each.shard for each in members}
    for shard in set(folder.tables(names.removals_folder(identifier))) - present:
        folder.files.delete(names.removed(identifier, shard))
    if not todo:
        return identifier
    stage = MatchStage(folder.root, control.run_id, control, tuple(lists))
    elements = stage.elements(todo)
    here = sum(each.rows for each in todo) < workers_from
    report = engine.run(stage, elements, here=here)
    if report.failed:
        raise LedgerError(
            f"shards {', '.join(report.failed)} kill the worker that looks for removed rows; look "
            "at the system log"
        )
    left = [each for each in elements if each.name not in report.done]
    if left:  # workers of a run that is stopped begin no shard
        engine.run(stage, left, here=True)
    return identifier


def removed_footers(folder: OutputFolder, shards: Sequence[str], identifier: str) -> list[Footer]:
    """Return the footers of the rows of shards that removal lists name.

    Raises:
      LedgerError: if the rows of a shard were not looked for yet, or it has changed since.
    """
    ledgers = folder.read_footers(map(names.samples, shards))
    written = folder.read_footers(names.removed(identifier, shard) for shard in shards)
    for shard, ledger, footer in zip(shards, ledgers, written, strict=True):
        if not _is_current(footer, identifier, ledger_key(ledger)):
            raise LedgerError(
                f"{folder.files.url(names.removed(identifier, shard))} is missing, or of other "
                f"rows than the ledger; run `clipsieve remove {folder.root} --refresh`, or "
                "`clipsieve run` again"
            )
    return written


def count_removed(folder: OutputFolder, identifier: str) -> RemovalCounts:
    """Return how many rows removal lists take out of all shards.

    Raises:
      LedgerError: see `removed_footers`.
    """
    if not identifier:
        return RemovalCounts()
    rows, by_list = 0, Counter[str]()
    shards = folder.shards()
    for shard, footer in zip(shards, removed_footers(folder, shards, identifier), strict=True):
        place = folder.files.url(names.removed(identifier, shard))
        content: _Matches = footer_value(footer, footers.MATCHES, _Matches, place)
        rows += content.rows
        by_list.update(content.lists)
    return RemovalCounts(rows, dict(sorted(by_list.items())))


def removed_column(folder: OutputFolder, shard: str, identifier: str) -> pa.Array:
    """Return (N,) string: the first list, by name, that names each row of a shard, or NULL.

    Raises:
      LedgerError: see `read_removed`.
    """
    rows = folder.read_table(names.samples(shard), ["row"])["row"].to_numpy()
    first = first_lists(read_removed(folder, shard, identifier))
    texts = np.full(len(rows), None, object)
    texts[np.searchsorted(rows, list(first))] = list(first.values())
    return pa.array(texts, pa.string())


def drop_removed(folder: OutputFolder, keep: str) -> None:
    """Remove what was found for all sets of lists but one."""
    for name in folder.files.list_folders(names.REMOVALS):
        if names.marked_hash(name, "rev=") not in {None, keep}:
            folder.files.delete_folder(f"{names.REMOVALS}/{name}")


def _is_current(footer: Footer, identifier: str, key: str) -> bool:
    """Return whether a file of removed rows is of these lists, and of the ledger of this key."""
    same = (footer.get(footers.REVISION), footer.get(footers.LEDGER_KEY))
    return same == (identifier, key)
