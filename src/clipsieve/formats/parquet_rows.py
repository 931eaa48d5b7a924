"""Rows of Parquet shards, streamed page by page: never a whole row group in memory.

The one thing that cannot be cut is a data page, which has to be decompressed as a whole.  Writers
aim at 1 MB, but many only look after every 1,024 rows: then a row group of large images is one
page, and reading it takes its compressed and its plain size together.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from clipsieve.formats.arrow_types import (
    decode_captions,
    plain_type,
    replace_invalid_utf8,
    to_plain,
)
from clipsieve.formats.base import RowBatch, SourceConfig, WorkItem, missing_image
from clipsieve.formats.columns import unique_labels
from clipsieve.formats.inputs import local_path, open_binary
from clipsieve.schemas.states import RowFailure

# A step is what Arrow decodes at once; on top of it come the finished rows of the batch.
_STEPS_PER_BUDGET = 8
# Row group sizes do not show what a dictionary unfolds to, so estimates are not trusted further.
_MAX_ROWS_PER_STEP = 128
# Bytes read ahead in each column.  With 0, pyarrow reads whole column chunks: 500 MB of images.
_READ_AHEAD = 1 << 20


@contextmanager
def open_parquet(uri: str) -> Iterator[Any]:
    """Open a shard so that its row groups can be streamed; yields a `pq.ParquetFile`.

    Raises:
      OSError: it cannot be opened, or whatever else the store raises.
      pa.ArrowException: it is not Parquet, or its end is missing.
    """
    path = local_path(uri)
    handle = open_binary(uri) if path is None else pa.OSFile(os.fsencode(path), "rb")
    with handle, pq.ParquetFile(handle, pre_buffer=False, buffer_size=_READ_AHEAD) as file:
        yield file


def read_parquet(item: WorkItem, source: SourceConfig) -> Iterator[RowBatch]:
    """Yield the rows of an item in order, about `source.byte_budget` bytes a batch.

    A batch may hold rows of several row groups; one row larger than the budget is a batch.

    Raises:
      OSError: or whatever else the store raises.
      pa.ArrowException: the file is damaged, or a value does not fit the planned type.
      IndexError: the file has fewer row groups than planned.
    """
    start, size = item.start, 0
    steps: list[RowBatch] = []
    try:
        with open_parquet(item.uri) as file:
            for records in _read_steps(file, item, source):
                step = _to_rows(records, source)
                steps.append(step)
                size += step.carried.nbytes + sum(map(len, filter(None, step.images)))
                if size >= source.byte_budget - source.byte_budget // _STEPS_PER_BUDGET:
                    batch = _join(steps, start, source)
                    start, size, steps = start + len(batch), 0, []
                    yield batch
            if steps:
                yield _join(steps, start, source)
    finally:
        pa.default_memory_pool().release_unused()  # pages may have been much larger than batches


def count_parquet(item: WorkItem) -> int:
    """Return the number of rows of an item as the footer has it now; raises as above."""
    with open_parquet(item.uri) as file:
        return sum(group.num_rows for _, group in _row_groups(file, item))


def narrow_parquet(item: WorkItem, first: int, stop: int) -> WorkItem:
    """Return the item of those row groups alone that hold rows `first` to `stop` - 1.

    Args:
      item: to take from.
      first: index in the source.
      stop: likewise, behind `first`.
    """
    groups: list[tuple[int, int, int]] = []
    start = item.start
    with open_parquet(item.uri) as file:
        for group, metadata in _row_groups(file, item):
            if start < stop and start + metadata.num_rows > first:
                groups.append((group, start, metadata.num_rows))
            start += metadata.num_rows
    if not groups:
        return item
    rows = sum(count for _, _, count in groups)
    return replace(
        item,
        start=groups[0][1],
        row_groups=(groups[0][0], groups[-1][0] + 1),
        fingerprint=replace(item.fingerprint, rows=rows),
    )


def _row_groups(file: Any, item: WorkItem) -> Iterator[tuple[int, Any]]:
    """Yield number and metadata of each row group of an item."""
    for group in range(*(item.row_groups or (0, file.num_row_groups))):
        if group >= file.num_row_groups:
            raise IndexError(f"row group {group} was planned, but it has {file.num_row_groups}")
        yield group, file.metadata.row_group(group)


def _read_steps(file: Any, item: WorkItem, source: SourceConfig) -> Iterator[pa.RecordBatch]:
    """Yield small record batches, without the columns of other pixels if names are unique."""
    names = file.schema_arrow.names
    columns = None
    if source.left_out and len(set(names)) == len(names):
        columns = [name for name in names if name not in source.left_out]
    for group, metadata in _row_groups(file, item):
        if metadata.num_rows == 0:
            continue
        row_size = max(1, metadata.total_byte_size // metadata.num_rows)
        rows = source.byte_budget // (_STEPS_PER_BUDGET * row_size)
        yield from file.iter_batches(
            batch_size=min(max(1, rows), _MAX_ROWS_PER_STEP),
            row_groups=[group],
            columns=columns,
            use_threads=False,
        )


def _to_rows(records: pa.RecordBatch, source: SourceConfig) -> RowBatch:
    """Return a record batch as rows, numbered from 0."""
    columns = dict(zip(unique_labels(records.schema.names), records.columns, strict=True))
    rows = records.num_rows
    if source.image not in columns:
        raise KeyError(f"column {source.image!r} is gone")
    images, paths = _split_image(columns[source.image])
    captions: Sequence[str | None] = [None] * rows
    failures: dict[int, RowFailure] = {}
    if source.caption in columns:
        captions, failures = decode_captions(columns[source.caption])
    if None in images:  # the image's failure outranks the caption's
        failures |= _missing_images(images, paths, columns)
    carried = [
        _to_type(paths if origin == source.image else columns.get(origin), field.type, rows)
        for origin, field in zip(source.origins, source.carried, strict=True)
    ]
    uids = None
    if source.uid is not None:
        uids = _to_type(columns.get(source.uid), source.uid_type, rows)
    table = pa.Table.from_arrays(carried, schema=source.carried)
    return RowBatch(0, images, captions, table, failures, uids)


def _join(steps: Sequence[RowBatch], start: int, source: SourceConfig) -> RowBatch:
    """Return consecutive rows as one batch that begins at row `start`."""
    images: list[bytes | None] = []
    captions: list[str | None] = []
    failures: dict[int, RowFailure] = {}
    for step in steps:
        failures |= {len(images) + row: failure for row, failure in step.failures.items()}
        images += step.images
        captions += step.captions
    if source.origins:
        carried = pa.concat_tables([step.carried for step in steps]).combine_chunks()
    else:  # a table of no columns that still counts its rows
        carried = pa.table({"row": pa.nulls(len(images))}).select([])
    uids = [step.uids for step in steps if step.uids is not None]
    return RowBatch(
        start, images, captions, carried, failures, pa.concat_arrays(uids) if uids else None
    )


def _split_image(column: pa.Array) -> tuple[list[bytes | None], pa.Array | None]:
    """Return the image bytes of a column, and the paths if it is a struct that has them."""
    column = to_plain(column)
    paths = None
    if types.is_struct(column.type):
        children = dict(zip(column.type.names, column.flatten(), strict=True))
        column, paths = children["bytes"], children.get("path")
    images: list[bytes | None] = column.to_pylist()
    return images, paths


def _missing_images(
    images: Sequence[bytes | None], paths: pa.Array | None, columns: Mapping[str, pa.Array]
) -> dict[int, RowFailure]:
    rows = [row for row, image in enumerate(images) if image is None]
    statuses = _take_texts(columns.get("status"), rows)
    messages = _take_texts(columns.get("error_message"), rows)
    places = _take_texts(paths, rows)
    return {
        row: missing_image(status, message, place)
        for row, status, message, place in zip(rows, statuses, messages, places, strict=True)
    }


def _take_texts(column: pa.Array | None, rows: Sequence[int]) -> list[str | None]:
    """Return a column's strings at some rows; None for a column that is absent or not text."""
    if column is None or not types.is_string(plain_type(column.type)):
        return [None] * len(rows)
    texts: list[str | None]
    texts = replace_invalid_utf8(to_plain(column.take(pa.array(rows)))).to_pylist()
    return texts


def _to_type(column: pa.Array | None, kind: pa.DataType, rows: int) -> pa.Array:
    """Return a column in its unified type, strings repaired; NULL where the shard lacks it."""
    if column is None:
        return pa.nulls(rows, kind)
    column = to_plain(column)
    return replace_invalid_utf8(column if column.type.equals(kind) else column.cast(kind))
