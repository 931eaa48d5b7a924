"""Removal lists of an output folder: ids of rows that are left out of everything made later.

`removals/<name>/list.json` describes a list, which is active while that file is there; the ids are
in `removals/<name>/ids.parquet`.
"""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.errors import LedgerError, UsageError
from clipsieve.schemas import footers
from clipsieve.store import names
from clipsieve.store.canonical import short_hash
from clipsieve.store.folder import OutputFolder
from clipsieve.store.id_values import IdKind
from clipsieve.store.ids import IdList
from clipsieve.store.validation import Count, Hash, Timestamp, decode

#: Names become folders; those of matches have a "=".
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
#: Changes when the rule does by which ids name rows.
_RULE = 1


@dataclass(frozen=True, slots=True)
class RemovalList:
    """A removal list.

    Attributes:
      name: by which it is asked for.
      kind: of its ids, one of `IdKind`.
      source: name of the file it is from, without its folder.
      source_sha256: of that file.
      read: ids in the file, duplicates counted.
      ids: distinct ids.
      ids_sha256: hash of the distinct ids.
      reason: the user's, or "".
      run_id: that added it.
      created_at: seconds since the epoch.
    """

    name: str
    kind: str
    source: str
    source_sha256: str
    read: Count
    ids: Count
    ids_sha256: Hash
    reason: str = ""
    run_id: str = ""
    created_at: Timestamp = 0.0

    @classmethod
    def from_ids(cls, name: str, ids: IdList, **others: Any) -> "RemovalList":
        """Return the description of a list of ids."""
        numbers = (ids.read, len(ids), ids.content_sha256())
        return cls(name, str(ids.kind), ids.source, ids.sha256, *numbers, **others)


def check_list_name(name: str) -> str:
    """Return a name that a removal list can have.

    Raises:
      UsageError: for any other.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"list name {name[:80]!r} becomes a folder; begin with a letter, and use letters, "
            "digits, '_' and '-', at most 64"
        )
    return name


def default_list_name(source: str) -> str:
    """Return the name of a list that is given none: its file's, as far as a name can be.

    >>> default_list_name("2024 csam-hashes.txt.gz"), default_list_name("0.npy")
    ('csam-hashes', 'list')
    """
    stem = re.sub(r"(?i)(\.(txt|npy|parquet|csv))?(\.gz)?$", "", source)
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", stem)
    return re.sub(r"^[^A-Za-z]+", "", name)[:64].rstrip("-") or "list"


def list_names(folder: OutputFolder) -> list[str]:
    """Return the names of the active lists, sorted."""
    present = folder.files.list_folders(names.REMOVALS)
    return [
        name
        for name in present
        if _NAME.fullmatch(name) and folder.files.exists(names.removal_list(name))
    ]


def load_list(folder: OutputFolder, name: str) -> RemovalList:
    """Return an active list.

    Raises:
      UsageError: if there is none of this name; it says which there are.
      LedgerError: if its description is damaged.
    """
    place = names.removal_list(check_list_name(name))
    try:
        entry: RemovalList = decode(RemovalList, folder.read_json(place))
        if entry.name != name or entry.kind not in list(IdKind):
            raise ValueError(f"it describes {entry.name!r}, of kind {entry.kind!r}")
    except FileNotFoundError:
        present = list_names(folder)
        close = get_close_matches(name, present, n=3) or present[:10]
        listed = f"it has {', '.join(close)}" if close else "it has none"
        raise UsageError(f"{folder.root} has no removal list {name!r}; {listed}") from None
    except ValueError as error:
        raise LedgerError(
            f"{folder.files.url(place)} is no description of a removal list ({error}); delete it "
            f"and add the list again: `clipsieve remove {folder.root} LIST --name {name}`"
        ) from error
    return entry


def removal_lists(folder: OutputFolder) -> tuple[RemovalList, ...]:
    """Return all active lists in the order of their names.

    Raises:
      LedgerError: if a description is damaged.
    """
    return tuple(load_list(folder, name) for name in list_names(folder))


def lists_id(lists: Iterable[RemovalList]) -> str:
    """Return the id of a set of lists: equal for equal names and ids; "" for none."""
    content = sorted([each.name, each.kind, each.ids_sha256] for each in lists)
    return short_hash([_RULE, content]) if content else ""


def save_list(folder: OutputFolder, entry: RemovalList) -> None:
    """Make a list active; its ids are there."""
    folder.write_json(names.removal_list(entry.name), asdict(entry))


def write_ids(folder: OutputFolder, entry: RemovalList, ids: IdList) -> None:
    """Write the ids of a list; nothing reads them before it is active."""
    columns = {"id": pa.array(ids.keys)}
    if ids.texts is not None:
        columns = {"key": pa.array(ids.keys), "id": ids.texts}
    footer = {
        footers.LAYOUT: footers.LAYOUT_VERSION,
        footers.FAMILY: names.REMOVALS,
        footers.REVISION: entry.ids_sha256,
        footers.ROWS: str(len(ids)),
    }
    folder.write_table(names.removal_ids(entry.name), pa.table(columns), footer)


def read_ids(folder: OutputFolder, entry: RemovalList) -> IdList:
    """Return the ids of a list.

    Raises:
      LedgerError: if they are missing, damaged, or those of another list.
    """
    name = names.removal_ids(entry.name)
    if folder.read_footer(name).get(footers.REVISION) != entry.ids_sha256:
        raise LedgerError(
            f"{folder.files.url(name)} is missing, damaged, or of another list than list.json "
            f"beside it; `clipsieve remove {folder.root} --undo {entry.name}`, and add it again"
        )
    table = folder.read_table(name)
    ids = table["id"].combine_chunks()
    is_text = "key" in table.column_names
    keys = np.asarray(table["key"].to_numpy() if is_text else ids.to_numpy())
    texts = ids if is_text else None
    return IdList(IdKind(entry.kind), entry.source, entry.source_sha256, entry.read, keys, texts)


def delete_ids(folder: OutputFolder, name: str) -> None:
    """Remove what is left of a list that is not active."""
    folder.files.delete_folder(f"{names.REMOVALS}/{check_list_name(name)}")
