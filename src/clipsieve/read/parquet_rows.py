"""Rows of Parquet shards, streamed page by page: never a whole row group in memory.

The one thing that cannot be cut is a data page, which has to be decompressed as a whole.  Writers
aim at 1 MB, but many only look after every 1,024 rows: then a row group of large images is one
page, and reading it takes its compressed and its plain size together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pyarrow import types

from clipsieve.read.batch import RowBatch
from clipsieve.read.columns import labels_of
from clipsieve.read.items import WorkItem
from clipsieve.read.parquet_scan import open_parquet
from clipsieve.read.source import SourceConfig
from clipsieve.read.text import captions_of, flat, references_of, repaired
from clipsieve.read.unify import plain_type
from clipsieve.schemas.states import RowFailure, RowState

# A step is what Arrow decodes at once; on top of it come the finished rows of the batch.
_STEPS_PER_BUDGET = 8
# Row group sizes do not show what a dictionary unfolds to, so estimates are not trusted further.
_MOST_ROWS_PER_STEP = 128


def read_parquet(item: WorkItem, source: SourceConfig) -> Iterator[RowBatch]:
    """Yield the rows of an item in order, about `source.byte_budget` bytes a batch.

    A batch may hold rows of several row groups; one row larger than the budget is a batch.

    Raises:
      OSError: or whatever else the store raises.
      pa.ArrowException: the file is damaged, or a value does not fit the planned type.
      IndexError: the file has fewer row groups than planned.
    """
    try:
        with open_parquet(item.uri) as file:
            pending = _Pending(item.start)
            for batch in _steps(file, item, source):
                pending.add(_Step.of(batch, source))
                if pending.size >= source.byte_budget - source.byte_budget // _STEPS_PER_BUDGET:
                    yield pending.finish(source)
                    pending = _Pending(pending.end)
            if pending.images:
                yield pending.finish(source)
    finally:
        pa.default_memory_pool().release_unused()  # pages may have been much larger than batches


def count_parquet(item: WorkItem) -> int:
    """Return the number of rows of an item as the footer has it now; raises as above."""
    with open_parquet(item.uri) as file:
        first, last = item.row_groups or (0, file.num_row_groups)
        return sum(_group(file, group).num_rows for group in range(first, last))


def _group(file: Any, group: int) -> Any:
    if group >= file.num_row_groups:
        raise IndexError(f"row group {group} was planned, but it has {file.num_row_groups}")
    return file.metadata.row_group(group)


def _steps(file: Any, item: WorkItem, source: SourceConfig) -> Iterator[pa.RecordBatch]:
    names = file.schema_arrow.names
    wanted = None
    if source.left_out and len(set(names)) == len(names):
        wanted = [name for name in names if name not in source.left_out]
    first, last = item.row_groups or (0, file.num_row_groups)
    for group in range(first, last):
        facts = _group(file, group)
        if facts.num_rows == 0:
            continue
        per_row = max(1, facts.total_byte_size // facts.num_rows)
        rows = source.byte_budget // (_STEPS_PER_BUDGET * per_row)
        yield from file.iter_batches(
            batch_size=min(max(1, rows), _MOST_ROWS_PER_STEP),
            row_groups=[group],
            columns=wanted,
            use_threads=False,
        )


@dataclass(frozen=True, slots=True)
class _Step:
    """The parts of one small record batch."""

    images: Sequence[bytes | None]
    captions: Sequence[str | None]
    failures: dict[int, RowFailure]
    carried: pa.RecordBatch
    uids: pa.Array | None
    references: Sequence[Sequence[str]] | None

    @classmethod
    def of(cls, batch: pa.RecordBatch, source: SourceConfig) -> "_Step":
        columns = dict(zip(labels_of(batch.schema.names), batch.columns, strict=True))
        rows = batch.num_rows
        if source.image not in columns:
            raise KeyError(f"column {source.image!r} is gone")
        images, paths = _images(columns[source.image])
        captions: Sequence[str | None] = [None] * rows
        failures: dict[int, RowFailure] = {}
        if source.caption in columns:
            captions, failures = captions_of(columns[source.caption])
        if None in images:  # the image's failure outranks the caption's
            failures |= _missing(images, paths, columns)
        references = None
        if source.references is not None:
            found = columns.get(source.references)
            references = [[] for _ in range(rows)] if found is None else references_of(found)
        uids = None
        if source.uid is not None:
            uids = _typed(columns.get(source.uid), source.uid_type, rows)
        carried = [
            _typed(paths if origin == source.image else columns.get(origin), kind.type, rows)
            for origin, kind in zip(source.origins, source.carried, strict=True)
        ]
        table = pa.RecordBatch.from_arrays(carried, schema=source.carried)
        return cls(images, captions, failures, table, uids, references)


@dataclass(slots=True)
class _Pending:
    """Rows gathered for the next batch."""

    start: int
    images: list[bytes | None] = field(default_factory=list)
    captions: list[str | None] = field(default_factory=list)
    failures: dict[int, RowFailure] = field(default_factory=dict)
    carried: list[pa.RecordBatch] = field(default_factory=list)
    uids: list[pa.Array] = field(default_factory=list)
    references: list[Sequence[str]] = field(default_factory=list)
    size: int = 0

    @property
    def end(self) -> int:
        return self.start + len(self.images)

    def add(self, step: _Step) -> None:
        before = len(self.images)
        self.images += step.images
        self.captions += step.captions
        self.failures |= {before + row: failure for row, failure in step.failures.items()}
        self.carried.append(step.carried)
        if step.uids is not None:
            self.uids.append(step.uids)
        if step.references is not None:
            self.references += step.references
        self.size += sum(len(image) for image in step.images if image is not None)
        self.size += step.carried.nbytes

    def finish(self, source: SourceConfig) -> RowBatch:
        table = pa.Table.from_batches(self.carried, source.carried).combine_chunks()
        return RowBatch(
            start=self.start,
            images=self.images,
            captions=self.captions,
            carried=table if len(source.carried) else empty_columns(len(self.images)),
            failures=self.failures,
            uids=pa.concat_arrays(self.uids) if source.uid is not None else None,
            references=self.references if source.references is not None else None,
        )


def empty_columns(rows: int) -> pa.Table:
    """Return a table of no columns that still counts its rows."""
    return pa.table({"row": pa.nulls(rows)}).select([])


def _images(column: pa.Array) -> tuple[list[bytes | None], pa.Array | None]:
    """Return the image bytes of a column, and the paths if it is a struct that has them."""
    column = flat(column, plain_type(column.type))
    paths = None
    if types.is_struct(column.type):
        children = dict(zip(column.type.names, column.flatten(), strict=True))
        column, paths = children["bytes"], children.get("path")
    images: list[bytes | None] = column.to_pylist()
    return images, paths


def _missing(
    images: Sequence[bytes | None], paths: pa.Array | None, columns: dict[str, pa.Array]
) -> dict[int, RowFailure]:
    rows = [row for row, image in enumerate(images) if image is None]
    statuses = _texts(columns.get("status"), rows)
    messages = _texts(columns.get("error_message"), rows)
    places = _texts(paths, rows)
    return {
        row: missing_image(status, message, place)
        for row, status, message, place in zip(rows, statuses, messages, places, strict=True)
    }


def missing_image(status: str | None, message: str | None, path: str | None = None) -> RowFailure:
    """Return the failure of a row without image bytes.

    Args:
      status: img2dataset's; `failed_to_download` and `failed_to_resize` are `FETCH_FAILED`.
      message: why, in the words of who fetched it.
      path: where the source says the image is, if it says so.
    """
    if status is not None and status.startswith("failed"):
        return RowFailure(RowState.FETCH_FAILED, message or status)
    where = f"; the source points at {path}" if path else ""
    return RowFailure(RowState.MISSING_IMAGE, f"no image bytes in the source{where}")


def _texts(column: pa.Array | None, rows: Sequence[int]) -> list[str | None]:
    """Return a column's strings at some rows; None for a column that is absent or not text."""
    if column is None or not types.is_string(plain_type(column.type)):
        return [None] * len(rows)
    texts: list[str | None] = repaired(flat(column.take(pa.array(rows)), pa.string())).to_pylist()
    return texts


def _typed(column: pa.Array | None, kind: pa.DataType, rows: int) -> pa.Array:
    """Return a column in its unified type, strings repaired; NULL where the shard lacks it."""
    if column is None:
        return pa.nulls(rows, kind)
    column = flat(column, plain_type(column.type))
    return repaired(column if column.type.equals(kind) else column.cast(kind))
