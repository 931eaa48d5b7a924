"""Rows of Parquet shards, streamed page by page: never a whole row group in memory.

The one thing that cannot be cut is a data page, which has to be decompressed as a whole.  Writers
aim at 1 MB, but many only look after every 1,024 rows: then a row group of large images is one
page, and reading it takes its compressed and its plain size together.

What page headers say of a row group decides how it is read (`parquet_bounds`): a column whose
large values are in a dictionary is read as dictionary, and rows with equal values share one object.
"""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from clipsieve.formats.arrow_types import (
    decode_captions,
    decoded_bytes,
    has_fixed_lists,
    plain_type,
    replace_invalid_utf8,
    shared_values,
    to_plain,
)
from clipsieve.formats.base import RowBatch, SourceConfig, WorkItem, missing_image
from clipsieve.formats.columns import unique_labels
from clipsieve.formats.inputs import local_path, open_binary
from clipsieve.formats.parquet_bounds import MAX_ROWS, FileBounds
from clipsieve.schemas.states import RowFailure

# A step is what Arrow decodes at once; on top of it come the finished rows of the batch.
_STEPS_PER_BUDGET = 8
# Values differ in size: an estimate from their mean is not trusted further.
_MAX_ROWS_PER_STEP = 128
#: What one carried column, or uids, of one step may unfold to.
MAX_STEP_BYTES = 128 << 20
# Of a column chunk in a store so much is looked at ahead: reading all page headers would fetch it
# twice.
_LOOK_AHEAD_IN_STORES = 4 << 20
# Bytes read ahead in each column.  With 0, pyarrow reads whole column chunks: 500 MB of images.
_READ_AHEAD = 1 << 20


@contextmanager
def open_parquet(uri: str) -> Iterator[Any]:
    """Open a shard so that its row groups can be streamed; yields a `pq.ParquetFile`.

    Raises:
      OSError: it cannot be opened, or whatever else the store raises.
      pa.ArrowException: it is not Parquet, or its end is missing.
    """
    with _open_handle(uri) as handle, _open_file(handle) as file:
        yield file


def _open_handle(uri: str) -> Any:
    path = local_path(uri)
    return open_binary(uri) if path is None else pa.OSFile(os.fsencode(path), "rb")


def _open_file(handle: Any, **options: Any) -> Any:
    return pq.ParquetFile(handle, pre_buffer=False, buffer_size=_READ_AHEAD, **options)


def read_parquet(item: WorkItem, source: SourceConfig) -> Iterator[RowBatch]:
    """Yield the rows of an item in order, about `source.byte_budget` bytes a batch.

    A batch may hold rows of several row groups; one row larger than the budget is a batch.

    Raises:
      OSError: or whatever else the store raises.
      pa.ArrowException: the file is damaged, or a value does not fit the planned type.
      IndexError: the file has fewer row groups than planned.
      ValueError: it takes too much memory however it is read.
    """
    start, size = item.start, 0
    steps: list[RowBatch] = []
    for records in read_records(item, source.byte_budget, left_out=source.left_out):
        step = _to_rows(records, source)
        steps.append(step)
        size += step.carried.nbytes + _image_bytes(step.images)
        if size >= source.byte_budget - source.byte_budget // _STEPS_PER_BUDGET:
            batch = _join(steps, start, source)
            start, size, steps = start + len(batch), 0, []
            yield batch
    if steps:
        yield _join(steps, start, source)


def read_records(
    item: WorkItem,
    byte_budget: int,
    *,
    left_out: Sequence[str] = (),
    only: Sequence[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield the columns of an item's rows, as the file has them, a few rows at a time.

    Args:
      item: what to read.
      byte_budget: about eight times what a batch may hold.
      left_out: columns that are not read if names are unique.
      only: columns that are read; None is all others.

    Raises:
      Exception: as `read_parquet`, but for types that do not fit.
    """
    try:
        with ExitStack() as stack:
            handle = stack.enter_context(_open_handle(item.uri))
            file = stack.enter_context(_open_file(handle))
            if any(map(has_fixed_lists, file.schema_arrow.types)):
                metadata = _without_arrow_schema(file.metadata)
                file = stack.enter_context(_open_file(handle, metadata=metadata))
            names = file.schema_arrow.names
            columns = None if only is None else list(only)
            if columns is None and left_out and len(set(names)) == len(names):
                columns = [name for name in names if name not in left_out]
            yield from _read_steps(file, handle, item, byte_budget, columns)
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


def _read_steps(
    file: Any, handle: Any, item: WorkItem, byte_budget: int, columns: Sequence[str] | None
) -> Iterator[pa.RecordBatch]:
    """Yield small record batches of these columns; None is all."""
    groups = list(_row_groups(file, item))
    file_bounds = _file_bounds(file, handle, item, columns)
    total = sum(metadata.num_rows for _, metadata in groups)
    if total > MAX_ROWS:
        raise ValueError(
            f"{total:,} rows in one work item, the limit is {MAX_ROWS:,}; write smaller row groups"
        )
    readers: dict[frozenset[str], Any] = {frozenset(): file}
    with ExitStack() as stack:
        for group, metadata in groups:
            if metadata.num_rows == 0:
                continue
            rows = _rows_per_step(byte_budget, metadata, 0)
            bounds = file_bounds.bound(group, rows)
            if bounds.dictionaries not in readers:
                paths = sorted(bounds.dictionaries)
                reader = _open_file(handle, metadata=file.metadata, read_dictionary=paths)
                readers[bounds.dictionaries] = stack.enter_context(reader)
            rows = _rows_per_step(byte_budget, metadata, bounds.dictionary_bytes)
            yield from readers[bounds.dictionaries].iter_batches(
                batch_size=min(rows, bounds.rows),
                row_groups=[group],
                columns=columns,
                use_threads=False,
            )


def _rows_per_step(byte_budget: int, group: Any, dictionary_bytes: int) -> int:
    """Return how many rows are decoded at once by their mean size, without shared values."""
    row_size = max(1, (group.total_byte_size - dictionary_bytes) // group.num_rows)
    rows = byte_budget // (_STEPS_PER_BUDGET * row_size)
    return int(min(max(1, rows), _MAX_ROWS_PER_STEP))


def _file_bounds(
    file: Any, handle: Any, item: WorkItem, columns: Sequence[str] | None
) -> FileBounds:
    is_local = local_path(item.uri) is not None

    def read_at(offset: int, size: int) -> bytes:
        if is_local:
            return bytes(handle.read_at(size, offset))
        handle.seek(offset)
        return bytes(handle.read(size))

    within = None if is_local else _LOOK_AHEAD_IN_STORES
    return FileBounds(read_at, file.metadata, columns, within)


def _without_arrow_schema(metadata: Any) -> Any:
    """Return the footer without the Arrow types that were written; Parquet's own types remain.

    Arrow reads a list as one of fixed length only because of them, and then refuses every NULL.
    """
    key = b"ARROW:schema"
    buffer = io.BytesIO()
    metadata.write_metadata_file(buffer)
    content = buffer.getvalue()
    if content.count(key) > 1:  # a column is called so
        return metadata
    return pq.read_metadata(io.BytesIO(content.replace(key, b"ignored_" + key[-4:])))


def _image_bytes(images: Sequence[bytes | None]) -> int:
    """Return the bytes of images, equal objects counted once."""
    return sum({id(image): len(image) for image in images if image is not None}.values())


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
        captions, failures = decode_captions(columns[source.caption], source.max_caption_bytes)
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
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    paths = None
    if types.is_struct(column.type):
        children = dict(zip(column.type.names, column.flatten(), strict=True))
        column, paths = children["bytes"], children.get("path")
    images: list[bytes | None] = shared_values(column)
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
    taken = column.take(pa.array(rows))
    if decoded_bytes(taken) > MAX_STEP_BYTES:
        raise ValueError(f"a column of messages holds {decoded_bytes(taken):,} bytes in few rows")
    texts: list[str | None] = replace_invalid_utf8(to_plain(taken)).to_pylist()
    return texts


def _to_type(column: pa.Array | None, kind: pa.DataType, rows: int) -> pa.Array:
    """Return a column in its unified type, strings repaired; NULL where the shard lacks it."""
    if column is None:
        return pa.nulls(rows, kind)
    if (size := decoded_bytes(column)) > MAX_STEP_BYTES:
        raise ValueError(
            f"a carried column unfolds to {size:,} bytes in {rows:,} rows; leave the "
            "column out with --leave-out"
        )
    column = to_plain(column)
    return replace_invalid_utf8(column if column.type.equals(kind) else column.cast(kind))
