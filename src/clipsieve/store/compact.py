"""Glue the score families of all shards into `wide/`: one row a sample, every column.

Reading the families side by side in SQL needs a join, which costs ten times a scan; a positional
join is fast and silently wrong when a shard is missing.  Here rows are glued by position once,
after their uids were compared.

Parts are made of whole shards in name order, so a part depends on its shards only: a part whose
shards have not changed is copied from the build before, not written again.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from clipsieve.control import Control
from clipsieve.schemas import footers
from clipsieve.schemas.removals import REMOVED
from clipsieve.stage import Element, Report, Worker
from clipsieve.statistics.counts import RowCounts
from clipsieve.store import names
from clipsieve.store.canonical import canonical_json, short_hash
from clipsieve.store.documents import footer_rows
from clipsieve.store.folder import OutputFolder
from clipsieve.store.glue import GluedShards, check_aligned, conformed
from clipsieve.store.members import ledger_key
from clipsieve.store.parquet import ROW_GROUP_ROWS
from clipsieve.store.removals import removed_column, removed_footers
from clipsieve.threads import read_ahead

PART_ROWS = 1_000_000
#: Shards that are read at once from an object store.
_AHEAD = 8


@dataclass(frozen=True, slots=True)
class Part:
    """Shards that become one wide file.

    Attributes:
      shards: their names, in order.
      rows: rows in all.
      key: short hash of what goes in; equal keys are equal files.
    """

    shards: tuple[str, ...]
    rows: int
    key: str

    @property
    def file_name(self) -> str:
        """Name of the file, the same in every build that has this part."""
        return f"part-{self.shards[0]}-{self.key}.parquet"


@dataclass(frozen=True, slots=True)
class Build:
    """One state of `wide/`.

    Attributes:
      parts: its files.
      families: revisions of the families that they glue to the ledger.
      reserved: names that views give to scores, which no column of a source may have.
      removals: id of the removal lists whose rows are marked; "" without lists.
    """

    parts: tuple[Part, ...]
    families: Mapping[str, str]
    reserved: frozenset[str] = frozenset()
    removals: str = ""

    @property
    def id(self) -> str:
        """Short hash of all parts."""
        return short_hash([part.key for part in self.parts])

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(part.rows for part in self.parts)


@dataclass(frozen=True, slots=True)
class CompactStage:
    """Writes the parts of a build; an element is the position of a part.

    Attributes:
      out: the output folder, absolute.
      run_id: the run.
      control: stop and progress.
      build: what to write.
      device: not used.
    """

    out: str
    run_id: str
    control: Control
    build: Build
    device: str = "cpu"
    name = "compact"

    def elements(self) -> list[Element]:
        """Return an element for each part."""
        return [
            Element(str(at), str(at), max(part.rows, 1)) for at, part in enumerate(self.build.parts)
        ]

    def open(self) -> Worker:
        """Open the folder."""
        return _CompactWorker(self)

    def finish(self, total: Report) -> Report:
        """Nothing is left to do."""
        return total


class _CompactWorker:
    def __init__(self, stage: CompactStage) -> None:
        self._stage = stage
        self._folder = OutputFolder.open(stage.out)

    def work(self, elements: Sequence[str]) -> Iterator[Report]:
        for position in elements:  # to the end: a stopped job shows what it has done
            part = self._stage.build.parts[int(position)]
            write_part(self._folder, self._stage.build, part)
            yield Report((position,), rows=RowCounts(shards=len(part.shards)))


def plan_build(
    folder: OutputFolder,
    families: Mapping[str, str],
    part_rows: int = PART_ROWS,
    reserved: Collection[str] = (),
    removals: str = "",
) -> Build:
    """Return the build of every shard in the ledger, with the active revision of each family.

    Args:
      folder: the output folder.
      families: active revision of each.
      part_rows: rows after which a part is closed.
      reserved: names that views give to scores, which no column of a source may have.
      removals: id of the active removal lists: the column `removed` says which of them names a
        row.  Without lists there is no such column.

    Raises:
      LedgerError: if a shard lacks one of the families, its uids differ between them, or its
        removed rows were not looked for.
    """
    parts: list[Part] = []
    waiting: list[tuple[str, str]] = []
    reserved = {*reserved, REMOVED} if removals else set(reserved)
    marks = _removal_marks(folder, removals)

    waiting_rows = 0

    def close() -> None:
        nonlocal waiting_rows
        shards = tuple(shard for shard, _ in waiting)
        content: dict[str, Any] = {
            "families": dict(families),
            "members": [key for _, key in waiting],
            "reserved": sorted(reserved),
        }
        if removals:
            content["removals"] = [marks[shard] for shard in shards]
        parts.append(Part(shards, waiting_rows, short_hash(content)))
        waiting.clear()
        waiting_rows = 0

    for shard, rows, key in _aligned_shards(folder, families):
        waiting.append((shard, key))
        waiting_rows += rows
        if waiting_rows >= part_rows:
            close()
    if waiting:
        close()
    return Build(tuple(parts), dict(families), frozenset(reserved), removals)


def write_part(folder: OutputFolder, build: Build, part: Part) -> None:
    """Write one part of `build`, or copy it from an earlier build that has the same.

    Raises:
      LedgerError: if rows of a shard do not line up after all.
    """
    target = f"{names.wide_folder(build.id)}/{part.file_name}"
    builds = [f"wide/{name}" for name in folder.files.list_folders("wide")]
    for known in (target, *(f"{name}/{part.file_name}" for name in builds)):
        if folder.read_footer(known).get(footers.REVISION) == part.key:
            if known != target:
                folder.files.copy(known, target)
            return
    glued = GluedShards(folder, build.families, build.reserved)
    schema = glued.common_schema(part.shards)
    if build.removals:
        schema = schema.append(pa.field(REMOVED, pa.string()))
    footer = {
        footers.LAYOUT: footers.LAYOUT_VERSION,
        footers.FAMILY: "wide",
        footers.REVISION: part.key,
        footers.ROWS: str(part.rows),
        footers.MEMBERS: canonical_json(list(part.shards)),
    }
    with folder.writing_table(target, schema, footer) as writer:
        for group in _row_groups(glued, part, schema, build.removals):
            writer.write_table(group, row_group_size=ROW_GROUP_ROWS)


def drop_builds(folder: OutputFolder, keep: Collection[str]) -> None:
    """Remove all builds but those named; readers of the build before may still be at work."""
    for name in folder.files.list_folders("wide"):
        if names.marked_hash(name, "build=") not in {None, *keep}:
            folder.files.delete_folder(f"wide/{name}")


def _aligned_shards(
    folder: OutputFolder, families: Mapping[str, str]
) -> Iterator[tuple[str, int, str]]:
    """Yield name, rows and content key of every shard; its families line up."""
    shards = folder.shards()
    ledgers = folder.read_footers(map(names.samples, shards))
    written = {
        family: folder.read_footers(names.scores(family, revision, shard) for shard in shards)
        for family, revision in families.items()
    }
    for at, (shard, ledger) in enumerate(zip(shards, ledgers, strict=True)):
        files = {names.scores(f, r, shard): written[f][at] for f, r in families.items()}
        check_aligned(folder, shard, ledger, files)
        rows = footer_rows(ledger, footers.ROWS, folder.files.url(names.samples(shard)))
        yield shard, rows, ledger_key(ledger)


def _removal_marks(folder: OutputFolder, removals: str) -> dict[str, str]:
    """Return the hash of each shard's removed rows, and of the lists that name them."""
    if not removals:
        return {}
    shards = folder.shards()
    written = removed_footers(folder, shards, removals)
    return {shard: footer[footers.REMOVALS] for shard, footer in zip(shards, written, strict=True)}


def _row_groups(
    glued: GluedShards, part: Part, schema: pa.Schema, removals: str
) -> Iterator[pa.Table]:
    """Yield the part's rows in tables of about a row group: little more than that is in memory."""

    def read(shard: str) -> pa.Table:
        table = glued.read(shard)
        if removals:
            table = table.append_column(REMOVED, removed_column(glued.folder, shard, removals))
        return conformed(table, schema)

    waiting: list[pa.Table] = []
    rows = 0
    for table in read_ahead(read, part.shards, _AHEAD if glued.folder.files.is_remote else 0):
        waiting.append(table)
        rows += table.num_rows
        if rows >= ROW_GROUP_ROWS:
            yield pa.concat_tables(waiting)
            waiting.clear()
            rows = 0
    if waiting:
        yield pa.concat_tables(waiting)
