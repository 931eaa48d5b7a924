"""Subsets of an output folder: which rows a filter kept, and how it was defined.

`subsets/<name>/subset.json` names the active revision; the files of a revision are complete before
it is switched to.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.errors import LedgerError, UsageError
from clipsieve.schemas import footers
from clipsieve.store import names
from clipsieve.store.documents import footer_rows
from clipsieve.store.folder import OutputFolder
from clipsieve.store.validation import (
    Count,
    FamilyName,
    Hash,
    HashOrEmpty,
    ShardName,
    Timestamp,
    decode,
    shown,
)

#: Names become folders, and columns of SQL views.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Subset:
    """A finished subset.

    Attributes:
      name: by which it is asked for.
      revision: hash of everything that decides its rows.
      definition: what the user asked for: `where`, `recipe`, `parameters`, `from`, `and`, `or`,
        `minus`; plain JSON values.
      steps: every step in order: `kind`, `label`, and for clauses `resolved`, their text with the
        thresholds in it.
      rows: rows of the ledger.
      kept: rows kept.
      dropped: rows dropped; `kept + dropped = rows`.
      families: revision of each score family that was read.
      members: hash of the shards and their content.
      shards: their names.
      removals: id of the removal lists that were applied; "" if there were none.
      run_id: that made it.
      created_at: seconds since the epoch.
    """

    name: str
    revision: Hash
    definition: Mapping[str, Any]
    steps: tuple[Mapping[str, Any], ...]
    rows: Count
    kept: Count
    dropped: Count
    families: Mapping[FamilyName, Hash] = field(default_factory=dict)
    members: str = ""
    shards: tuple[ShardName, ...] = ()
    removals: HashOrEmpty = ""
    run_id: str = ""
    created_at: Timestamp = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the subset as plain JSON values."""
        return {
            **asdict(self),
            "steps": [dict(step) for step in self.steps],
            "shards": list(self.shards),
        }


def check_subset_name(name: str) -> str:
    """Return a name that a subset can have.

    Raises:
      UsageError: for any other.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"subset name {name[:80]!r} becomes a folder; begin with a letter, and use letters, "
            "digits, '_' and '-', at most 64"
        )
    return name


def subset_names(folder: OutputFolder) -> list[str]:
    """Return the names of all finished subsets, sorted."""
    present = folder.files.list_folders(names.SUBSETS)
    return [
        name
        for name in present
        if _NAME.fullmatch(name) and folder.files.exists(names.subset_manifest(name))
    ]


def load_subset(folder: OutputFolder, name: str) -> Subset | None:
    """Return a subset; None if there is none of this name.

    Raises:
      UsageError: if its description is damaged.
    """
    check_subset_name(name)
    place = folder.files.url(names.subset_manifest(name))
    try:
        subset: Subset = decode(Subset, folder.read_json(names.subset_manifest(name)))
        if subset.name != name:
            raise ValueError(f"it names {shown(subset.name)}")
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UsageError(
            f"{place} is not a description of a subset ({error}); make it again with "
            f"`clipsieve filter ... --name {name} --replace`"
        ) from error
    return subset


def require_subset(folder: OutputFolder, name: str) -> Subset:
    """Return a subset.

    Raises:
      UsageError: if there is none of this name; it names the nearest.
    """
    subset = load_subset(folder, name)
    if subset is None:
        present = subset_names(folder)
        close = get_close_matches(name, present, n=3) or present[:10]
        listed = f"; it has {', '.join(close)}" if close else "; it has none yet"
        raise UsageError(
            f"{folder.root} has no subset {name!r}{listed}; make one with `clipsieve filter`"
        )
    return subset


def read_kept(folder: OutputFolder, subset: Subset, shard: str) -> pa.Table:
    """Return uid, shard and row of the rows of a shard that a subset keeps, in source order.

    Raises:
      LedgerError: if the file is missing or damaged.
    """
    try:
        return folder.read_table(names.kept(subset.name, subset.revision, shard))
    except LedgerError as error:
        raise LedgerError(
            f"{folder.files.url(names.kept(subset.name, subset.revision, shard))} is missing or "
            f"damaged; make subset {subset.name!r} again with `clipsieve filter ... --replace`"
        ) from error


def kept_mask(folder: OutputFolder, subset: Subset, shard: str, rows: np.ndarray) -> np.ndarray:
    """Return (N,) bool: which rows of a shard a subset keeps.

    Args:
      folder: of the subset.
      subset: to look in.
      shard: its name.
      rows: (N,) int64, the ledger's `row` column of that shard, ascending.

    Raises:
      LedgerError: if the subset was made of other rows.
    """
    kept = np.asarray(read_kept(folder, subset, shard)["row"].to_numpy())
    places = np.searchsorted(rows, kept)
    if len(kept) and (places[-1] >= len(rows) or not np.array_equal(rows[places], kept)):
        raise LedgerError(
            f"subset {subset.name!r} keeps rows of shard {shard} that the ledger does not have; "
            "make it again with `clipsieve filter`"
        )
    mask = np.zeros(len(rows), bool)
    mask[places] = True
    return mask


def kept_counts(folder: OutputFolder, subset: Subset) -> dict[str, int]:
    """Return how many rows a subset keeps of each shard, by name in order.

    Raises:
      LedgerError: if a file is missing or damaged.
    """
    shards = folder.tables(f"{names.subset_folder(subset.name, subset.revision)}/kept")
    files = [names.kept(subset.name, subset.revision, shard) for shard in shards]
    counts = {}
    for shard, name, footer in zip(shards, files, folder.read_footers(files), strict=True):
        if footers.ROWS not in footer:
            raise LedgerError(
                f"{folder.files.url(name)} is missing or damaged; make subset {subset.name!r} "
                "again with `clipsieve filter ... --replace`"
            )
        counts[shard] = footer_rows(footer, footers.ROWS, folder.files.url(name))
    return counts
