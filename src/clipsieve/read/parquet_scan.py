"""Parquet shards as planning sees them: footers only, no rows."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from clipsieve.read.columns import Carried, Roles, carried_columns, labels_of
from clipsieve.read.storage import is_local, locate, open_binary
from clipsieve.read.unify import plain_type, unify_columns

#: Bytes read ahead in each column.  With 0, pyarrow reads whole column chunks: 500 MB of images.
READ_AHEAD = 1 << 20


@dataclass(frozen=True, slots=True)
class ParquetFacts:
    """What the footer of one shard says.

    Attributes:
      columns: (label, type) of each column, in order.
      group_rows: rows of each row group.
      huggingface: whether Hugging Face `datasets` wrote it.
      pictures: columns that `datasets` marks as images.
    """

    columns: tuple[tuple[str, pa.DataType], ...]
    group_rows: tuple[int, ...]
    huggingface: bool
    pictures: frozenset[str]

    @property
    def rows(self) -> int:
        """Number of rows of the shard."""
        return sum(self.group_rows)


@contextmanager
def open_parquet(uri: str) -> Iterator[Any]:
    """Open a shard so that its row groups can be streamed; yields a `pq.ParquetFile`.

    Raises:
      OSError: it cannot be opened, or whatever else the store raises.
      pa.ArrowException: it is not Parquet, or its end is missing.
    """
    system, path = locate(uri)
    source = pa.OSFile(path, "rb") if is_local(system) else open_binary(uri)
    with source, pq.ParquetFile(source, pre_buffer=False, buffer_size=READ_AHEAD) as file:
        yield file


def scan_parquet(uri: str) -> ParquetFacts:
    """Return what the footer says; raises as `open_parquet` does."""
    with open_parquet(uri) as file:
        schema, metadata = file.schema_arrow, file.metadata
        note = (schema.metadata or {}).get(b"huggingface")
        return ParquetFacts(
            columns=tuple(zip(labels_of(schema.names), schema.types, strict=True)),
            group_rows=tuple(
                metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)
            ),
            huggingface=note is not None,
            pictures=_marked_pictures(note),
        )


def unify_shards(shards: Sequence[tuple[str, ParquetFacts]]) -> dict[str, pa.DataType]:
    """Return the unified type of each column over shards of (uri, facts).

    Raises:
      UsageError: as `unify_columns`.
    """
    distinct: dict[tuple[tuple[str, pa.DataType], ...], str] = {}
    for uri, facts in shards:
        distinct.setdefault(facts.columns, uri)
    return unify_columns((uri, columns) for columns, uri in distinct.items())


def carried_of(columns: dict[str, pa.DataType], roles: Roles) -> Carried:
    """Return what is carried: all but pixels, uid and caption.

    The path in an image struct is carried as `<image>_path`; its origin is the image column.
    Lists of captions are carried whole, for only their first entry is the caption.
    """
    wanted = []
    for label, kind in columns.items():
        if label == roles.image:
            if types.is_struct(kind) and kind.get_field_index("path") >= 0:
                wanted.append((label, f"{label}_path", plain_type(kind.field("path").type)))
        elif label == roles.caption:
            if types.is_list(kind) or types.is_fixed_size_list(kind):
                wanted.append((label, label, kind))
        elif label != roles.uid and label not in roles.pixels:
            wanted.append((label, label, kind))
    return carried_columns(wanted)


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


def _marked_pictures(note: bytes | None) -> frozenset[str]:
    try:
        features = json.loads(note or b"{}")["info"]["features"]
        return frozenset(
            name
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "Image"
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return frozenset()
