"""Glue the column families of all shards into `wide/`: one row a sample, every column.

Reading the families side by side in SQL needs a join, which costs ten times a scan; a positional
join is fast and silently wrong when a shard is missing.  Here rows are glued by position once,
after their uids were compared.

Parts are made of whole shards in name order, so a part depends on its members only: a part whose
members have not changed is linked from the build before, not written again.
"""

import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from clipsieve.errors import LedgerError
from clipsieve.schemas import footers
from clipsieve.store.atomic import replacing
from clipsieve.store.canonical import canonical_json, short_hash
from clipsieve.store.layout import Layout
from clipsieve.store.parquet import ROW_GROUP_ROWS, open_writer, read_footer

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
    """One state of `wide/`: its parts, and the families they glue to the ledger."""

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


def plan_build(
    layout: Layout,
    families: Mapping[str, str],
    part_rows: int = PART_ROWS,
    reserved: Collection[str] = (),
) -> Build:
    """The build that holds every shard in the ledger, with the active revision of each family.

    Args:
      layout: the output folder.
      families: active revision of each.
      part_rows: rows after which a part is closed.
      reserved: names that views give to scores, which no column of a source may have.

    Raises:
      LedgerError: if a shard lacks one of the families, or its uids differ between them.
    """
    parts: list[Part] = []
    members: list[tuple[str, int, str]] = []

    def close() -> None:
        shards = tuple(name for name, _, _ in members)
        rows = sum(count for _, count, _ in members)
        content = {
            "families": dict(families),
            "members": [key for _, _, key in members],
            "reserved": sorted(reserved),
        }
        parts.append(Part(shards, rows, short_hash(content)))
        members.clear()

    for path in sorted((layout.root / "samples").glob("*.parquet")):
        members.append(_member(layout, path.stem, families))
        if sum(count for _, count, _ in members) >= part_rows:
            close()
    if members:
        close()
    return Build(tuple(parts), dict(families), frozenset(reserved))


def write_part(layout: Layout, build: Build, part: Part) -> None:
    """Write one part of `build`, or link it from an earlier build that has the same.

    Raises:
      LedgerError: if rows of a shard do not line up after all.
    """
    target = layout.wide(build.id) / part.file_name
    for known in (target, *sorted((layout.root / "wide").glob(f"build=*/{part.file_name}"))):
        if read_footer(known).get(footers.REVISION) == part.key:
            if known != target:
                _link(known, target)
            return
    schema = _unified([_glued_schema(layout, shard, build) for shard in part.shards])
    footer = {
        footers.LAYOUT: footers.LAYOUT_VERSION,
        footers.FAMILY: "wide",
        footers.REVISION: part.key,
        footers.ROWS: str(part.rows),
        footers.MEMBERS: canonical_json(list(part.shards)),
    }
    with replacing(target) as temporary:
        with open_writer(temporary, schema) as writer:
            for group in _row_groups(layout, build, part, schema):
                writer.write_table(group, row_group_size=ROW_GROUP_ROWS)
            writer.add_key_value_metadata(footer)


def _row_groups(layout: Layout, build: Build, part: Part, schema: pa.Schema) -> Iterator[pa.Table]:
    """The part's rows in tables of about a row group: no more than that is in memory."""
    waiting: list[pa.Table] = []
    for shard in part.shards:
        waiting.append(_conformed(_glued(layout, shard, build), schema))
        if sum(table.num_rows for table in waiting) >= ROW_GROUP_ROWS:
            yield pa.concat_tables(waiting)
            waiting.clear()
    if waiting:
        yield pa.concat_tables(waiting)


def _link(known: Path, target: Path) -> None:
    """Give a file a second name; where the file system has no links, copy it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        try:
            os.link(known, temporary)
        except OSError:
            shutil.copyfile(known, temporary)


def drop_builds(layout: Layout, keep: Sequence[str]) -> None:
    """Remove all builds but those named; readers of the build before may still be at work."""
    for folder in (layout.root / "wide").glob("build=*"):
        if folder.name.removeprefix("build=") not in keep:
            shutil.rmtree(folder)


def _member(layout: Layout, shard: str, families: Mapping[str, str]) -> tuple[str, int, str]:
    """Name, rows and content key of a shard whose families line up."""
    ledger = read_footer(layout.samples(shard))
    keys = [ledger.get(footers.SOURCE_FINGERPRINT), ledger.get(footers.REVISION)]
    for family, revision in families.items():
        path = layout.scores(family, revision, shard)
        footer = read_footer(path)
        if not footer:
            raise LedgerError(
                f"{path} is missing or damaged; run `clipsieve run` or `clipsieve score` again"
            )
        for key in (footers.UID_HASH, footers.ROWS):
            if footer.get(key) != ledger.get(key):
                raise LedgerError(
                    f"{path} and {layout.samples(shard)} differ in {key}: {footer.get(key)} and "
                    f"{ledger.get(key)}; delete both files and run `clipsieve run` again"
                )
    keys.append(ledger.get(footers.UID_HASH))
    return shard, int(ledger[footers.ROWS]), canonical_json(keys)


def _glued(layout: Layout, shard: str, build: Build) -> pa.Table:
    """The ledger of a shard with the columns of every family, named as `_glued_schema` says."""
    ledger = pq.read_table(layout.samples(shard), partitioning=None)
    columns = ledger.columns
    for family, revision in build.families.items():
        path = layout.scores(family, revision, shard)
        scores = pq.read_table(path, partitioning=None)
        if not scores["uid"].equals(ledger["uid"]):
            raise LedgerError(
                f"{path} has other uids than {layout.samples(shard)}; delete both files and run "
                "`clipsieve run` again"
            )
        columns += [scores[name] for name in scores.column_names if name != "uid"]
    return pa.Table.from_arrays(columns, schema=_glued_schema(layout, shard, build))


def _glued_schema(layout: Layout, shard: str, build: Build) -> pa.Schema:
    """Columns of the ledger of a shard, then those of every family; from the footers alone.

    A column of the source with the name of a score, or with a reserved one, becomes
    `source_<name>`, as in the ledger one with the name of a ledger column does.  Names are compared
    as SQL compares them, without case.
    """
    ledger = list(pq.read_schema(layout.samples(shard)))
    scores: list[pa.Field] = []
    for family, revision in build.families.items():
        path = layout.scores(family, revision, shard)
        for field in pq.read_schema(path):
            if field.name.lower() in (other.name.lower() for other in scores):
                raise LedgerError(f"{path} has column {field.name!r}, as another family; rename it")
            if field.name != "uid":
                scores.append(field)
    taken = {field.name.lower() for field in scores} | {name.lower() for name in build.reserved}
    for at, field in enumerate(ledger):
        if field.name.lower() in taken:
            names = taken | {other.name.lower() for other in ledger}
            ledger[at] = field.with_name(_free_name(field.name, names))
    return pa.schema([*ledger, *scores])


def _free_name(name: str, taken: Collection[str]) -> str:
    """`source_<name>`, with as many `source_` as it needs to be free; `taken` is lower case."""
    free = f"source_{name}"
    while free.lower() in taken:
        free = f"source_{free}"
    return free


def _unified(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """One schema for all: the wider of two types, and text where they have nothing in common."""
    fields: dict[str, pa.Field] = {}
    for field in (field for schema in schemas for field in schema):
        held = fields.setdefault(field.name, field)
        if held.type != field.type:
            try:
                pair = [pa.schema([held]), pa.schema([field])]
                fields[field.name] = pa.unify_schemas(pair, promote_options="permissive").field(0)
            except pa.ArrowException:
                fields[field.name] = pa.field(field.name, pa.string())
    return pa.schema(fields.values())


def _conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` with exactly the columns and types of `schema`; NULL where it lacks a column."""
    columns = [
        table[field.name].cast(field.type)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
