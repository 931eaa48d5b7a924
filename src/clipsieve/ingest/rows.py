"""Files of the rows to fetch, and where each row is, or will be."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipsieve.errors import LedgerError, UsageError
from clipsieve.ingest import layout
from clipsieve.ingest.record import Record
from clipsieve.ingest.scan import StoppableList
from clipsieve.ingest.shard import PLAN_FIELDS
from clipsieve.store.files import LocalFiles

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Places:
    """Where rows are, or will be: shard and row in it."""

    shards: Ints
    rows: Ints

    def firsts(self, firsts: Ints, start: int = 0) -> tuple[pa.Array, pa.Array]:
        """Return shard and row of the first rows of URLs; NULL for rows that are first.

        Args:
          firsts: positions, by `first_rows` over all places.
          start: position of the first row that is asked about.
        """
        asked = firsts[start:]
        is_first = asked == np.arange(start, len(firsts))
        return tuple(
            pa.array(place[asked].astype(np.int32), mask=is_first)
            for place in (self.shards, self.rows)
        )

    def __add__(self, other: "Places") -> "Places":
        """Return the places of both, one after the other."""
        return Places(
            np.concatenate([self.shards, other.shards]), np.concatenate([self.rows, other.rows])
        )


def new_places(rows: int, first_shard: int, rows_per_shard: int) -> Places:
    """Return the places of new rows, in shards from `first_shard` on."""
    numbers = np.arange(rows, dtype=np.int64)
    return Places(first_shard + numbers // rows_per_shard, numbers % rows_per_shard)


def listed_tables(files: LocalFiles, record: Record, names: Sequence[str]) -> Iterator[pa.Table]:
    """Yield columns of the list of every shard, finished or not."""
    for shard in range(record.shards):
        name, rows_name = layout.shard_name(shard), layout.rows_name(shard)
        if files.exists(name):
            yield pq.read_table(files.path(name), columns=list(names)).select(list(names))
        elif files.exists(rows_name):
            with pa.OSFile(str(files.path(rows_name))) as file:
                yield pa.ipc.open_file(file).read_all().select(list(names))
        else:
            raise missing_shard(files, shard)


def write_rows(
    files: LocalFiles,
    urls: StoppableList,
    is_taken: NDArray[np.bool_],
    places: Places,
    firsts: tuple[pa.Array, pa.Array],
) -> None:
    """Write the files of rows to fetch, reading the list once more."""
    schema = pa.schema([*urls.schema, *PLAN_FIELDS])
    position = read = 0
    parts: list[pa.Table] = []
    shard = int(places.shards[0]) if len(places.shards) else 0

    def write() -> None:
        nonlocal parts, shard
        write_rows_file(files, layout.rows_name(shard), pa.concat_tables(parts))
        parts, shard = [], shard + 1

    for table in urls.batches():
        if read + len(table) > len(is_taken):
            raise UsageError("the list has grown while it was read; run again")
        listed = table.filter(pa.array(is_taken[read : read + len(table)]))
        read += len(table)
        stop = position + len(listed)
        rows = pa.array(places.rows[position:stop].astype(np.int32))
        chosen = [rows, *(first.slice(position, len(listed)) for first in firsts)]
        planned = pa.table([*listed.columns, *chosen], schema=schema)
        shards, position, at = places.shards[position:stop], stop, 0
        while at < len(planned):
            end = int(np.searchsorted(shards, shard, "right"))
            if end > at:
                parts.append(planned.slice(at, end - at))
            at = end
            if at < len(planned):
                write()
    if parts:
        write()
    if read != len(is_taken):
        raise UsageError("the list has become shorter while it was read; run again")


def write_rows_file(files: LocalFiles, name: str, table: pa.Table) -> None:
    """Write a file of rows to fetch."""
    with files.writing(name) as path, pa.OSFile(str(path), "wb") as file:
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)


def missing_shard(files: LocalFiles, shard: int) -> LedgerError:
    """Return the error for a shard of which nothing is there."""
    return LedgerError(
        f"shard {files.path(layout.shard_name(shard))} is not there, nor are its rows; put the "
        "file back, or ingest the list into another folder"
    )
