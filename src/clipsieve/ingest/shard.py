"""One shard: the rows to fetch, and its file once every row has an outcome."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipsieve.ingest.layout import (
    rows_name,
    sample_key,
    shard_name,
    spool_name,
    stats_name,
)
from clipsieve.ingest.outcomes import FAILED_TO_DOWNLOAD, FAILED_TO_RESIZE, SUCCESS, Outcome
from clipsieve.ingest.spool import Spool
from clipsieve.store.files import LocalFiles

#: Rows of a row group, as img2dataset writes them; fewer if their images have more bytes than that.
GROUP_ROWS, GROUP_BYTES = 100, 64 << 20
#: Beside the columns of the list, in the file of the rows to fetch.
ROW, FIRST_SHARD, FIRST_ROW = "_row", "_first_shard", "_first_row"
PLAN_FIELDS = (
    pa.field(ROW, pa.int32()),
    pa.field(FIRST_SHARD, pa.int32()),
    pa.field(FIRST_ROW, pa.int32()),
)
#: Columns that follow those of the list, in img2dataset's order.
RESULT_FIELDS = (
    pa.field("key", pa.string()),
    pa.field("status", pa.string()),
    pa.field("error_message", pa.string()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("original_width", pa.int32()),
    pa.field("original_height", pa.int32()),
    pa.field("exif", pa.string()),
    pa.field("sha256", pa.string()),
    pa.field("jpg", pa.binary()),
)
RESULT_NAMES = frozenset(field.name for field in RESULT_FIELDS)
_OUTCOME_COLUMNS = ["status", "error_message", "jpg", "width", "height", "exif", "sha256"]


@dataclass(frozen=True, slots=True)
class Task:
    """A shard to make, or to make again for rows that failed.

    Attributes:
      shard: its number.
      is_retry: whether it is there, and some of its rows are fetched again.
    """

    shard: int
    is_retry: bool = False


class ShardWork:
    """A shard in work."""

    def __init__(self, files: LocalFiles, task: Task, rows_per_shard: int) -> None:
        """Read the rows to fetch, and what of them an earlier process left.

        Raises:
          OSError: the files cannot be read.
        """
        self.task = task
        self._files, self._rows_per_shard = files, rows_per_shard
        with pa.OSFile(str(files.path(rows_name(task.shard, task.is_retry)))) as file:
            self._table = pa.ipc.open_file(file).read_all()
        self.spool = Spool(files.path(spool_name(task.shard, task.is_retry)))
        self._rows: list[int] = self._table[ROW].to_pylist()
        self._sources = list(
            zip(
                self._table[FIRST_SHARD].to_pylist(),
                self._table[FIRST_ROW].to_pylist(),
                strict=True,
            )
        )

    def urls(self) -> Iterator[tuple[int, str | None]]:
        """Yield the rows that are to be fetched yet, with their URLs."""
        urls = self._table["url"].to_pylist()
        for row, url, (first_shard, _) in zip(self._rows, urls, self._sources, strict=True):
            if first_shard is None and row not in self.spool:
                yield row, url

    def __len__(self) -> int:
        """How many rows are to be fetched or copied."""
        return len(self._rows)

    def needed(self) -> set[int]:
        """Return the other shards that have the first row of one of this shard's URLs."""
        shards = {first for first, _ in self._sources if first is not None}
        return shards - {self.task.shard}

    def finish(self, started: float, ended: float) -> dict[str, Any]:
        """Write the shard's file, then its counts; return these.

        Other shards that are `needed` must be finished.
        """
        outcomes = self._outcomes()
        name = shard_name(self.task.shard)
        with self._files.writing(name) as path:
            counts = self._write(path, outcomes)
        stats = stats_of(counts, started, ended)
        write_stats(self._files, self.task.shard, stats)
        self.spool.close()
        remove_work(self._files, self.task)
        return stats

    def _outcomes(self) -> dict[int, int]:
        """Copy what other shards have; return the row of the spool for each row to fetch."""
        rows, elsewhere = {}, dict[int, list[tuple[int, int]]]()
        for row, (shard, first) in zip(self._rows, self._sources, strict=True):
            rows[row] = first if shard == self.task.shard else row
            if shard is not None and shard != self.task.shard and row not in self.spool:
                elsewhere.setdefault(shard, []).append((first, row))
        for shard, pairs in sorted(elsewhere.items()):
            path = self._files.path(shard_name(shard))
            for row, outcome in zip(
                [row for _, row in sorted(pairs)],
                read_outcomes(path, sorted(first for first, _ in pairs)),
                strict=True,
            ):
                self.spool.add(row, outcome)
        return rows

    def _write(self, path: Path, rows: dict[int, int]) -> "Counter[tuple[str, str | None]]":
        """Write the file of the shard."""
        counts: Counter[tuple[str, str | None]] = Counter()
        if self.task.is_retry:
            groups = self._groups_again(rows)
            schema = pq.read_schema(self._files.path(shard_name(self.task.shard)))
        else:
            listed = self._table.drop_columns([ROW, FIRST_SHARD, FIRST_ROW])
            schema = pa.schema([*listed.schema, *RESULT_FIELDS])
            groups = self._groups(listed, rows)
        with pq.ParquetWriter(
            path,
            schema,
            use_dictionary=[name for name in schema.names if name != "jpg"],
            compression={name: "none" if name == "jpg" else "snappy" for name in schema.names},
            write_page_checksum=True,
        ) as writer:
            for listed, outcomes, start in groups:
                for outcome in outcomes:
                    counts[outcome.status, outcome.error] += 1
                columns = [*listed.columns, *self._result_columns(outcomes, start)]
                writer.write_table(pa.table(columns, schema=schema), row_group_size=GROUP_ROWS)
        return counts

    def _groups(
        self, listed: pa.Table, rows: dict[int, int]
    ) -> Iterator[tuple[pa.Table, list[Outcome], int]]:
        """Yield row groups: columns of the list, outcomes, and the first row."""
        outcomes = (self.spool.outcome(rows[row]) for row in range(len(listed)))
        for start, group in _grouped(outcomes):
            yield listed.slice(start, len(group)), group, start

    def _groups_again(self, rows: dict[int, int]) -> Iterator[tuple[pa.Table, list[Outcome], int]]:
        """Yield row groups of a shard that is there, with new outcomes for some rows."""
        file = pq.ParquetFile(self._files.path(shard_name(self.task.shard)))
        names = [name for name in file.schema_arrow.names if name not in RESULT_NAMES]
        listed = file.read(names)

        def outcomes() -> Iterator[Outcome]:
            for row, outcome in enumerate(_stored_outcomes(file)):
                yield self.spool.outcome(rows[row]) if row in rows else outcome

        for start, group in _grouped(outcomes()):
            yield listed.slice(start, len(group)), group, start

    def _result_columns(self, outcomes: Sequence[Outcome], start: int) -> list[pa.Array]:
        keys = [
            sample_key(self.task.shard, start + index, self._rows_per_shard)
            for index in range(len(outcomes))
        ]
        widths = [outcome.width for outcome in outcomes]
        heights = [outcome.height for outcome in outcomes]
        values: list[list[Any]] = [
            keys,
            [outcome.status for outcome in outcomes],
            [outcome.error for outcome in outcomes],
            *(widths, heights, widths, heights),
            [outcome.exif for outcome in outcomes],
            [outcome.sha256 for outcome in outcomes],
        ]
        arrays = [
            pa.array(column, field.type)
            for column, field in zip(values, RESULT_FIELDS[:-1], strict=True)
        ]
        return [*arrays, _binary_array([outcome.data for outcome in outcomes])]


def read_outcomes(path: Path, rows: Sequence[int]) -> Iterator[Outcome]:
    """Yield the outcomes of rows of a shard's file, which are in order and may repeat."""
    file = pq.ParquetFile(path)
    group, start, stop, table = -1, 0, 0, None
    for row in rows:
        while row >= stop:
            group += 1
            start, stop = stop, stop + file.metadata.row_group(group).num_rows
            table = None
        if table is None:
            table = file.read_row_group(group, _OUTCOME_COLUMNS).select(_OUTCOME_COLUMNS)
        yield Outcome(*(column[row - start].as_py() for column in table.columns))


def _stored_outcomes(file: pq.ParquetFile) -> Iterator[Outcome]:
    for group in range(file.metadata.num_row_groups):
        table = file.read_row_group(group, _OUTCOME_COLUMNS).select(_OUTCOME_COLUMNS)
        for values in zip(*(column.to_pylist() for column in table.columns), strict=True):
            yield Outcome(*values)


def _binary_array(values: Sequence[bytes | None]) -> pa.Array:
    """Return bytes as an array, in a third of the time that `pa.array` takes."""
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum([len(value or b"") for value in values], out=offsets[1:])
    validity = pa.array([value is not None for value in values]).buffers()[1]
    content = pa.py_buffer(b"".join(value or b"" for value in values))
    buffers = [validity, pa.py_buffer(offsets), content]
    return pa.Array.from_buffers(pa.binary(), len(values), buffers)


def _grouped(outcomes: Iterator[Outcome]) -> Iterator[tuple[int, list[Outcome]]]:
    """Yield the first row and the outcomes of row groups."""
    start, group, size = 0, list[Outcome](), 0
    for outcome in outcomes:
        length = len(outcome.data or b"")
        if group and (len(group) == GROUP_ROWS or size + length > GROUP_BYTES):
            yield start, group
            start, group, size = start + len(group), [], 0
        group.append(outcome)
        size += length
    if group:
        yield start, group


def stats_of(
    counts: "Counter[tuple[str, str | None]]", started: float, ended: float
) -> dict[str, Any]:
    """Return what img2dataset tells of a shard, from its (status, error) pairs."""
    statuses: Counter[str] = Counter()
    for (status, _), count in counts.items():
        statuses[status] += count
    reasons = Counter[str]()
    for (status, error), count in counts.items():
        reasons[error or status] += count
    return {
        "count": statuses.total(),
        "successes": statuses[SUCCESS],
        "failed_to_download": statuses[FAILED_TO_DOWNLOAD],
        "failed_to_resize": statuses[FAILED_TO_RESIZE],
        "duration": ended - started,
        "start_time": started,
        "end_time": ended,
        "status_dict": dict(reasons.most_common()),
    }


def write_stats(files: LocalFiles, shard: int, stats: dict[str, Any]) -> None:
    """Write the counts of a shard."""
    with files.writing(stats_name(shard), durable=False) as path:
        path.write_text(json.dumps(stats, indent=4), encoding="utf-8")


def stored_stats(files: LocalFiles, shard: int) -> dict[str, Any]:
    """Return the counts of a finished shard, from its file if there are none beside it."""
    try:
        stats: dict[str, Any] = json.loads(files.read(stats_name(shard)))
        if {"count", "successes", "status_dict"} <= set(stats):
            return stats
    except (FileNotFoundError, ValueError, TypeError):
        pass
    table = pq.read_table(files.path(shard_name(shard)), columns=["status", "error_message"])
    pairs = zip(table["status"].to_pylist(), table["error_message"].to_pylist(), strict=True)
    stats = stats_of(Counter(pairs), 0.0, 0.0)
    write_stats(files, shard, stats)
    return stats


def remove_work(files: LocalFiles, task: Task) -> None:
    """Remove the files of a task that is finished."""
    files.delete(rows_name(task.shard, task.is_retry))  # first: a spool alone is no work
    files.delete(spool_name(task.shard, task.is_retry))
