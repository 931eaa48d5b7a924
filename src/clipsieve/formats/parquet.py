"""Parquet shards of img2dataset, Hugging Face `datasets` and others, planned from their footers."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import BinaryIO

import pyarrow as pa
from pyarrow import types

from clipsieve.errors import UsageError
from clipsieve.formats.arrow_types import plain_type, unify_columns
from clipsieve.formats.base import (
    Format,
    InputFormat,
    InputPlan,
    ReadOptions,
    RowBatch,
    Shard,
    SourceConfig,
    SourceFingerprint,
    WorkItem,
    problems_note,
)
from clipsieve.formats.columns import (
    MAX_COLUMNS,
    CarriedColumns,
    Roles,
    carried_columns,
    choose_roles,
    require_column,
    unique_labels,
)
from clipsieve.formats.inputs import THREADS, file_fingerprint, require_unchanged
from clipsieve.formats.names import fitted_name, plural, shard_name
from clipsieve.formats.parquet_rows import count_parquet, open_parquet, read_parquet

Columns = tuple[tuple[str, pa.DataType], ...]

_IMG2DATASET_COLUMNS = frozenset({"key", "status", "error_message"})


@dataclass(frozen=True, slots=True)
class Footer:
    """What planning takes from the footer of one shard.

    Attributes:
      columns: (label, type) of each column, in order.
      group_rows: rows of each row group.
      huggingface: whether Hugging Face `datasets` wrote it.
      marked_images: columns that `datasets` marks as images.
    """

    columns: Columns
    group_rows: tuple[int, ...]
    huggingface: bool
    marked_images: frozenset[str]

    @classmethod
    def from_file(cls, uri: str) -> "Footer":
        """Read the footer; raises as `open_parquet` does."""
        with open_parquet(uri) as file:
            schema, metadata = file.schema_arrow, file.metadata
            if metadata.num_columns > MAX_COLUMNS:
                raise ValueError(
                    f"{metadata.num_columns:,} columns, the limit is {MAX_COLUMNS:,}; write fewer"
                )
            note = (schema.metadata or {}).get(b"huggingface")
            groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
            return cls(
                columns=tuple(zip(unique_labels(schema.names), schema.types, strict=True)),
                group_rows=tuple(group.num_rows for group in groups),
                huggingface=note is not None,
                marked_images=_marked_images(note),
            )


class Parquet(Format):
    """Parquet files with the image bytes in a column."""

    name = InputFormat.PARQUET
    label = "a Parquet file"
    suffixes = (".parquet",)

    def sniff(self, file: BinaryIO) -> bool:
        """Look for Parquet's magic bytes."""
        return file.read(4) == b"PAR1"

    def plan(self, shards: Sequence[Shard], options: ReadOptions) -> InputPlan:
        """Read the footers, unify the types, cut large shards between row groups."""
        shared: dict[Columns, Columns] = {}
        with ThreadPoolExecutor(THREADS) as pool:
            scanned = list(pool.map(lambda shard: _scan(shard, shared), shards))
        readable = [(shard, footer) for shard, footer in scanned if footer is not None]
        if not readable:
            first = scanned[0][0]
            raise UsageError(
                f"none of the {len(scanned):,} Parquet files can be read, first {first.uri}: "
                f"{first.problem}; replace them or check the path"
            )
        first_uris: dict[Columns, str] = {}
        for shard, footer in readable:
            first_uris.setdefault(footer.columns, shard.uri)
        columns = unify_columns((uri, columns) for columns, uri in first_uris.items())
        if len(columns) > MAX_COLUMNS:
            raise UsageError(
                f"the {len(readable):,} shards have {len(columns):,} different columns together, "
                f"the limit is {MAX_COLUMNS:,}; plan them apart"
            )
        roles = choose_roles(
            columns,
            readable[0][0].uri if len(readable) == 1 else f"the {len(readable):,} shards",
            options,
            marked_images=frozenset().union(*(footer.marked_images for _, footer in readable)),
        )
        for name in options.leave_out:
            require_column(name, columns, "leave_out", "the shards")
        carried = _carried(columns, roles, options.leave_out)
        flavour = "img2dataset" if columns.keys() >= _IMG2DATASET_COLUMNS else "parquet"
        if any(footer.huggingface for _, footer in readable):
            flavour = "huggingface"
        source = SourceConfig(
            format=InputFormat.PARQUET,
            flavour=flavour,
            image=roles.image,
            caption=roles.caption,
            uid=roles.uid,
            references=options.references_col,
            left_out=tuple(dict.fromkeys([*roles.pixels, *_unread(roles, options)])),
            carried=carried.schema,
            origins=carried.origins,
            uid_type=None if roles.uid is None else columns[roles.uid],
            byte_budget=options.byte_budget,
        )
        items = [
            item for shard, footer in scanned for item in _items(shard, footer, roles, options)
        ]
        rows = sum(sum(footer.group_rows) for _, footer in readable)
        text = _describe(source, columns, len(scanned), rows)
        if len(items) > len(scanned):
            text += f"; cut into {len(items):,} items"
        if roles.pixels:
            text += f"; pixels not carried: {', '.join(roles.pixels)}"
        if options.leave_out:
            text += f"; left out: {', '.join(options.leave_out)}"
        text += carried.renaming_note() + problems_note(items)
        return InputPlan(tuple(items), source, text)

    def read(self, item: WorkItem, source: SourceConfig) -> Iterator[RowBatch]:
        """Stream the row groups of an item."""
        require_unchanged(item, file_fingerprint(item.uri))
        yield from read_parquet(item, source)

    def count(self, item: WorkItem) -> int:
        """Count the rows in the footer."""
        return count_parquet(item)

    def fingerprint(self, item: WorkItem) -> SourceFingerprint:
        """Return size, version and rows of the file."""
        current = file_fingerprint(item.uri)
        rows = None if item.fingerprint.rows is None else count_parquet(item)
        return replace(current, rows=rows)

    def describe(self, uri: str) -> str:
        """Say whether Hugging Face `datasets` wrote the file."""
        try:
            huggingface = Footer.from_file(uri).huggingface
        except Exception:  # a damaged footer is the business of `plan`
            huggingface = False
        return f"{self.label} of Hugging Face datasets" if huggingface else self.label


def row_ranges(group_rows: Sequence[int], limit: int) -> list[tuple[int, tuple[int, int] | None]]:
    """Return (first row, half-open range of row groups) of each work item of one shard.

    A shard of at most `limit` rows, or of one row group, is one item with range None.  Others
    are cut between row groups into runs of at most `limit` rows, or of one larger row group.
    """
    if sum(group_rows) <= limit or len(group_rows) < 2:
        return [(0, None)]
    ranges: list[tuple[int, tuple[int, int] | None]] = []
    first_group = first_row = row = 0
    for group, rows in enumerate(group_rows):
        if group > first_group and row + rows - first_row > limit:
            ranges.append((first_row, (first_group, group)))
            first_group, first_row = group, row
        row += rows
    return [*ranges, (first_row, (first_group, len(group_rows)))]


def _scan(shard: Shard, shared: dict[Columns, Columns]) -> tuple[Shard, Footer | None]:
    """Return the footer, or the shard with a problem; there may be 500,000 equal `columns`."""
    if shard.problem is not None:
        return shard, None
    try:
        footer = Footer.from_file(shard.uri)
        return shard, replace(footer, columns=shared.setdefault(footer.columns, footer.columns))
    except Exception as error:  # one damaged shard must not stop the plan
        reason = " ".join(str(error).split())
        return replace(shard, problem=f"its Parquet footer cannot be read: {reason}"), None


def _carried(
    columns: Mapping[str, pa.DataType], roles: Roles, leave_out: Sequence[str]
) -> CarriedColumns:
    """Return what is carried: all but pixels, uid, caption and what is to be left out.

    The path in an image struct is carried as `<image>_path`; its origin is the image column.
    Lists of captions are carried whole, for only their first entry is the caption.
    """
    carried = []
    for label, kind in columns.items():
        if label in leave_out:
            continue
        if label == roles.image:
            if types.is_struct(kind) and kind.get_field_index("path") >= 0:
                carried.append((label, f"{label}_path", plain_type(kind.field("path").type)))
        elif label == roles.caption:
            if types.is_list(kind):
                carried.append((label, label, kind))
        elif label != roles.uid and label not in roles.pixels:
            carried.append((label, label, kind))
    return carried_columns(carried)


def _unread(roles: Roles, options: ReadOptions) -> list[str]:
    """Return the columns that are left out and have no role: they are not even read."""
    with_role = {roles.image, roles.caption, roles.uid, "status", "error_message"}
    return [name for name in options.leave_out if name not in with_role]


def _items(
    shard: Shard, footer: Footer | None, roles: Roles, options: ReadOptions
) -> Iterator[WorkItem]:
    name = options.shard_prefix + shard_name(shard.relative)
    problem, group_rows = shard.problem, footer.group_rows if footer else ()
    if footer is not None and roles.image not in dict(footer.columns):
        labels = ", ".join(label for label, _ in footer.columns)
        problem = f"it has no image column {roles.image!r}, only {labels}"
    for start, groups in row_ranges(group_rows, options.rows_per_item):
        rows = sum(group_rows if groups is None else group_rows[slice(*groups)])
        yield WorkItem(
            shard=fitted_name(name, "" if groups is None else f".r{start:09d}"),
            uri=shard.uri,
            format=InputFormat.PARQUET,
            start=start,
            row_groups=groups,
            fingerprint=replace(shard.fingerprint, rows=None if footer is None else rows),
            problem=problem,
        )


def _describe(
    source: SourceConfig, columns: Mapping[str, pa.DataType], shards: int, rows: int
) -> str:
    caption = "no captions" if source.caption is None else f"caption column {source.caption}"
    if source.caption is not None and types.is_nested(columns[source.caption]):
        caption += " (lists: the first entry is the caption)"
    parts = [
        "parquet" if source.flavour == "parquet" else f"{source.flavour} parquet",
        plural(shards, "shard"),
        plural(rows, "row"),
        f"image column {source.image}",
        caption,
        "no uid column" if source.uid is None else f"uid column {source.uid}",
    ]
    if source.references is not None:
        parts.append(f"references column {source.references}")
    return ", ".join(parts)


def _marked_images(note: bytes | None) -> frozenset[str]:
    """Return the image columns in the metadata that `datasets` writes."""
    try:
        features = json.loads(note or b"{}")["info"]["features"]
        return frozenset(
            name
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "Image"
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return frozenset()
