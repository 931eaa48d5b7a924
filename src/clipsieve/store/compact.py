"""Glue the score families of all shards into `wide/`: one row a sample, every column.

Reading the families side by side in SQL needs a join, which costs ten times a scan; a positional
join is fast and silently wrong when a shard is missing.  Here rows are glued by position once,
after their uids were compared.

Parts are made of whole shards in name order, so a part depends on its shards only: a part whose
shards have not changed is copied from the build before, not written again.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from clipsieve.control import Control
from clipsieve.errors import LedgerError
from clipsieve.schemas import footers
from clipsieve.stage import Element, Report, Worker
from clipsieve.statistics.counts import RowCounts
from clipsieve.store import names
from clipsieve.store.canonical import canonical_json, short_hash
from clipsieve.store.folder import OutputFolder
from clipsieve.store.members import ledger_key, require_footer
from clipsieve.store.parquet import ROW_GROUP_ROWS, Footer, open_writer

PART_ROWS = 1_000_000


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
    """

    parts: tuple[Part, ...]
    families: Mapping[str, str]
    reserved: frozenset[str] = frozenset()

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
) -> Build:
    """Return the build of every shard in the ledger, with the active revision of each family.

    Args:
      folder: the output folder.
      families: active revision of each.
      part_rows: rows after which a part is closed.
      reserved: names that views give to scores, which no column of a source may have.

    Raises:
      LedgerError: if a shard lacks one of the families, or its uids differ between them.
    """
    parts: list[Part] = []
    waiting: list[tuple[str, int, str]] = []

    def close() -> None:
        shards = tuple(shard for shard, _, _ in waiting)
        content = {
            "families": dict(families),
            "members": [key for _, _, key in waiting],
            "reserved": sorted(reserved),
        }
        parts.append(Part(shards, sum(rows for _, rows, _ in waiting), short_hash(content)))
        waiting.clear()

    for shard, rows, key in _aligned_shards(folder, families):
        waiting.append((shard, rows, key))
        if sum(count for _, count, _ in waiting) >= part_rows:
            close()
    if waiting:
        close()
    return Build(tuple(parts), dict(families), frozenset(reserved))


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
    schema = _unified([_glued_schema(folder, shard, build) for shard in part.shards])
    footer = {
        footers.LAYOUT: footers.LAYOUT_VERSION,
        footers.FAMILY: "wide",
        footers.REVISION: part.key,
        footers.ROWS: str(part.rows),
        footers.MEMBERS: canonical_json(list(part.shards)),
    }
    with folder.files.writing(target) as temporary, open_writer(temporary, schema) as writer:
        for group in _row_groups(folder, build, part, schema):
            writer.write_table(group, row_group_size=ROW_GROUP_ROWS)
        writer.add_key_value_metadata(footer)


def drop_builds(folder: OutputFolder, keep: Collection[str]) -> None:
    """Remove all builds but those named; readers of the build before may still be at work."""
    for name in folder.files.list_folders("wide"):
        if name.removeprefix("build=") not in keep:
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
        require_footer(folder, names.samples(shard), ledger)
        for family, revision in families.items():
            _check_aligned(folder, shard, ledger, family, revision, written[family][at])
        yield shard, int(ledger[footers.ROWS]), ledger_key(ledger)


def _check_aligned(
    folder: OutputFolder, shard: str, ledger: Footer, family: str, revision: str, footer: Footer
) -> None:
    name = names.scores(family, revision, shard)
    if not footer:
        raise LedgerError(
            f"{folder.files.url(name)} is missing or damaged; run `clipsieve run` or "
            "`clipsieve score` again"
        )
    for key in (footers.UID_HASH, footers.ROWS):
        if footer.get(key) != ledger.get(key):
            raise LedgerError(
                f"{folder.files.url(name)} and {folder.files.url(names.samples(shard))} differ in "
                f"{key}: {footer.get(key)} and {ledger.get(key)}; delete both files and run "
                "`clipsieve run` again"
            )


def _row_groups(
    folder: OutputFolder, build: Build, part: Part, schema: pa.Schema
) -> Iterator[pa.Table]:
    """Yield the part's rows in tables of about a row group: no more than that is in memory."""
    waiting: list[pa.Table] = []
    for shard in part.shards:
        waiting.append(_conformed(_glued(folder, shard, build), schema))
        if sum(table.num_rows for table in waiting) >= ROW_GROUP_ROWS:
            yield pa.concat_tables(waiting)
            waiting.clear()
    if waiting:
        yield pa.concat_tables(waiting)


def _glued(folder: OutputFolder, shard: str, build: Build) -> pa.Table:
    """Return the ledger of a shard with the columns of every family, named by `_glued_schema`."""
    ledger = folder.read_table(names.samples(shard))
    columns = ledger.columns
    for family, revision in build.families.items():
        name = names.scores(family, revision, shard)
        scores = folder.read_table(name)
        if not scores["uid"].equals(ledger["uid"]):
            raise LedgerError(
                f"{folder.files.url(name)} has other uids than "
                f"{folder.files.url(names.samples(shard))}; delete both files and run "
                "`clipsieve run` again"
            )
        columns += [scores[column] for column in scores.column_names if column != "uid"]
    return pa.Table.from_arrays(columns, schema=_glued_schema(folder, shard, build))


def _glued_schema(folder: OutputFolder, shard: str, build: Build) -> pa.Schema:
    """Return the columns of the ledger of a shard, then those of every family.

    A column of the source with the name of a score, or with a reserved one, becomes
    `source_<name>`, as in the ledger one with the name of a ledger column does.  Names are compared
    as SQL compares them, without case.
    """
    ledger = list(folder.read_schema(names.samples(shard)))
    scores: list[pa.Field] = []
    for family, revision in build.families.items():
        name = names.scores(family, revision, shard)
        for field in folder.read_schema(name):
            if field.name.lower() in (other.name.lower() for other in scores):
                raise LedgerError(
                    f"{folder.files.url(name)} has column {field.name!r}, as another family; "
                    "rename it"
                )
            if field.name != "uid":
                scores.append(field)
    taken = {field.name.lower() for field in scores} | {name.lower() for name in build.reserved}
    for at, field in enumerate(ledger):
        if field.name.lower() in taken:
            used = taken | {other.name.lower() for other in ledger}
            ledger[at] = field.with_name(_free_name(field.name, used))
    return pa.schema([*ledger, *scores])


def _free_name(name: str, used: Collection[str]) -> str:
    """Return `source_<name>`, with as many `source_` as it needs; `used` is lower case."""
    free = f"source_{name}"
    while free.lower() in used:
        free = f"source_{free}"
    return free


def _unified(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Return one schema for all: the wider of two types, text where they have nothing in common."""
    fields: dict[str, pa.Field] = {}
    for field in (field for schema in schemas for field in schema):
        first = fields.setdefault(field.name, field)
        if first.type != field.type:
            try:
                pair = [pa.schema([first]), pa.schema([field])]
                fields[field.name] = pa.unify_schemas(pair, promote_options="permissive").field(0)
            except pa.ArrowException:
                fields[field.name] = pa.field(field.name, pa.string())
    return pa.schema(fields.values())


def _conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return `table` with exactly the columns and types of `schema`; NULL for missing columns."""
    columns = [
        table[field.name].cast(field.type)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
