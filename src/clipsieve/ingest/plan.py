"""What is to be fetched: rows of a new list, of one that was interrupted, or rows that failed."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipsieve.control import Control
from clipsieve.errors import LedgerError, UsageError
from clipsieve.ingest import layout
from clipsieve.ingest.digests import (
    Digests,
    as_array,
    first_rows,
    is_among,
    row_digests,
    unmatched,
    url_digests,
)
from clipsieve.ingest.lists import UrlList, open_list
from clipsieve.ingest.outcomes import is_worth_a_retry
from clipsieve.ingest.record import Record, TakenList, read_record, write_record
from clipsieve.ingest.settings import IngestConfig
from clipsieve.ingest.shard import FIRST_ROW, FIRST_SHARD, PLAN_FIELDS, ROW, Task, remove_work
from clipsieve.store.files import LocalFiles
from clipsieve.versions import __version__

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to do.

    Attributes:
      record: of the folder, with the list.
      taken: the list.
      tasks: shards to work on, by their numbers.
      notes: lines about what was found.
    """

    record: Record
    taken: TakenList
    tasks: tuple[Task, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Scan:
    """One pass over a list.

    Attributes:
      hash: of columns and rows.
      urls: digests.
      rows: digests of whole rows; empty unless asked for.
    """

    hash: str
    urls: Digests
    rows: Digests


@dataclass(frozen=True, slots=True)
class _Places:
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

    def __add__(self, other: "_Places") -> "_Places":
        return _Places(
            np.concatenate([self.shards, other.shards]), np.concatenate([self.rows, other.rows])
        )


class PlanStopped(Exception):
    """The run was stopped while its list was read; nothing was recorded."""


def make_plan(config: IngestConfig, files: LocalFiles, control: Control) -> Plan:
    """Return what is to be done, after writing down what a new list adds.

    Only the holder of the folder's lock may call this.

    Raises:
      UsageError: the list cannot be read, or is not the one of the folder.
      LedgerError: the folder lacks something that it must have.
      PlanStopped: the control said to stop.
    """
    record = read_record(files)
    if record is None:
        _require_no_shards(files)
    elif record.rows_per_shard != config.rows_per_shard:
        raise UsageError(
            f"rows_per_shard {config.rows_per_shard}: the shards in {files.root} have "
            f"{record.rows_per_shard} rows; say --rows-per-shard {record.rows_per_shard}, or "
            "ingest into another folder"
        )
    found = open_list(config.urls, config.url_col, config.caption_col, config.carry)
    urls = _Stoppable(found, control)
    scan = _scan(urls, config.extend and record is not None)
    if not len(scan.urls):
        raise UsageError(f"{', '.join(config.urls)} has no rows; name a list that has some")
    notes = [_description(urls, len(scan.urls))]
    taken = next((t for t in record.lists if t.hash == scan.hash), None) if record else None
    if record is None:
        record = _first_plan(urls, scan, files, config.rows_per_shard)
    elif taken is None and not config.extend:
        raise UsageError(
            f"{', '.join(config.urls)} is not the list that {files.root} was made of (hash "
            f"{scan.hash[:8]}, there {record.lists[-1].hash[:8]}); say --extend to fetch its new "
            "rows, name that list, or ingest into another folder"
        )
    elif taken is None:
        record = _extended_plan(urls, scan, files, record)
    taken = next(t for t in record.lists if t.hash == scan.hash)
    gone = gone_name(taken)
    if files.exists(gone):
        lines = files.read(gone).count(b"\n")
        notes.append(
            f"{lines:,} URLs of earlier lists are not in this one; to leave them out of what was "
            f"made of them: clipsieve remove OUT {config.shards.rstrip('/')}/{gone} --by url"
        )
    return Plan(record, taken, _tasks(config, files, record), tuple(notes))


class _Stoppable:
    """A list that is read until the run is stopped."""

    def __init__(self, urls: UrlList, control: Control) -> None:
        self._urls, self._control = urls, control
        self.files, self.origins, self.schema = urls.files, urls.origins, urls.schema

    def batches(self) -> Iterator[pa.Table]:
        for table in self._urls.batches():
            if self._control.stopped:
                raise PlanStopped
            yield table


def gone_name(taken: TakenList) -> str:
    """Name the file of URLs that a list does not have any more."""
    return f"{layout.ROOM}/gone-{taken.hash[:8]}.txt"


def _require_no_shards(files: LocalFiles) -> None:
    """Refuse a folder of somebody else's."""
    foreign = [n for n in files.list_files("") if n.endswith((".parquet", ".tar", ".tfrecord"))]
    if foreign:
        raise UsageError(
            f"{files.root} has {foreign[0]}, and no record of ingest ({layout.RECORD}); name a "
            "folder that is new or empty"
        )


def _description(urls: _Stoppable, rows: int) -> str:
    """What list was found, in a line."""
    names = dict(zip(urls.schema.names, urls.origins, strict=True))
    caption = f"caption column {names['caption']}" if "caption" in names else "no caption column"
    carried = [name for name in urls.schema.names if name not in ("url", "caption")]
    kinds = ", ".join(dict.fromkeys(kind for _, kind in urls.files))
    count = len(urls.files)
    text = f"{kinds}, {count:,} {'file' if count == 1 else 'files'}, {rows:,} rows, "
    text += f"URL column {names['url']}, {caption}"
    return text + (f"; carried: {', '.join(carried)}" if carried else "")


def _scan(urls: _Stoppable, with_rows: bool) -> _Scan:
    """Read a list once."""
    columns = {field.name: str(field.type) for field in urls.schema}
    hasher = blake2b(json.dumps(columns).encode(), digest_size=16)
    by_url, by_row = bytearray(), bytearray()
    for table in urls.batches():
        digests = row_digests(table)
        hasher.update(digests)
        by_url += url_digests(table["url"].to_pylist())
        if with_rows:
            by_row += digests
    return _Scan(hasher.hexdigest(), as_array(by_url), as_array(by_row))


def _first_plan(urls: _Stoppable, scan: _Scan, files: LocalFiles, rows_per_shard: int) -> Record:
    """Write down all rows of the first list of a folder."""
    rows = len(scan.urls)
    places = _new_places(rows, 0, rows_per_shard)
    firsts = places.firsts(first_rows(scan.urls))
    _write_rows(files, urls, np.ones(rows, np.bool_), places, firsts)
    shards = -(-rows // rows_per_shard)
    columns = {field.name: str(field.type) for field in urls.schema}
    taken = TakenList(scan.hash, rows, rows, 0, shards)
    record = Record(columns, rows_per_shard, (taken,), __version__)
    write_record(files, record)
    return record


def _extended_plan(urls: _Stoppable, scan: _Scan, files: LocalFiles, record: Record) -> Record:
    """Write down the rows of a further list that the shards do not have, and the URLs gone."""
    columns = {field.name: str(field.type) for field in urls.schema}
    if columns != record.columns:
        raise UsageError(
            f"the list has columns {_words(columns)}, the shards in {files.root} have "
            f"{_words(record.columns)}; name the same with url_col, caption_col and carry"
        )
    places, held_rows, held_urls = _held(files, record, urls.schema.names)
    is_gone, is_new = unmatched(held_rows, scan.rows)
    is_gone &= ~is_among(held_urls, scan.urls)
    count = int(is_new.sum())
    new_places = _new_places(count, record.shards, record.rows_per_shard)
    firsts = first_rows(np.concatenate([held_urls, scan.urls[is_new]]))
    places_of_firsts = (places + new_places).firsts(firsts, len(held_urls))
    _write_rows(files, urls, is_new, new_places, places_of_firsts)
    shards = -(-count // record.rows_per_shard)
    taken = TakenList(scan.hash, len(scan.urls), count, record.shards, shards)
    if is_gone.any():
        _write_gone(files, record, taken, is_gone)
    record = record.with_list(taken, __version__)
    write_record(files, record)
    return record


def _words(columns: object) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in dict(columns).items())  # type: ignore[call-overload]


def _new_places(rows: int, first_shard: int, rows_per_shard: int) -> _Places:
    numbers = np.arange(rows, dtype=np.int64)
    return _Places(first_shard + numbers // rows_per_shard, numbers % rows_per_shard)


def _listed_tables(files: LocalFiles, record: Record, names: Sequence[str]) -> Iterator[pa.Table]:
    """Yield columns of the list of every shard, finished or not."""
    for shard in range(record.shards):
        name, rows_name = layout.shard_name(shard), layout.rows_name(shard)
        if files.exists(name):
            yield pq.read_table(files.path(name), columns=list(names)).select(list(names))
        elif files.exists(rows_name):
            with pa.OSFile(str(files.path(rows_name))) as file:
                yield pa.ipc.open_file(file).read_all().select(list(names))
        else:
            raise _missing(files, shard)


def _held(
    files: LocalFiles, record: Record, names: Sequence[str]
) -> tuple[_Places, Digests, Digests]:
    """Return place, and digests of the row and the URL, of every row that a folder has."""
    by_row, by_url, shards, rows = bytearray(), bytearray(), [], []
    for shard, table in enumerate(_listed_tables(files, record, names)):
        by_row += row_digests(table)
        by_url += url_digests(table["url"].to_pylist())
        shards.append(np.full(len(table), shard, np.int64))
        rows.append(np.arange(len(table), dtype=np.int64))
    places = _Places(np.concatenate(shards), np.concatenate(rows))
    return places, as_array(by_row), as_array(by_url)


def _write_rows(
    files: LocalFiles,
    urls: _Stoppable,
    is_taken: NDArray[np.bool_],
    places: _Places,
    firsts: tuple[pa.Array, pa.Array],
) -> None:
    """Write the files of rows to fetch, reading the list once more."""
    schema = pa.schema([*urls.schema, *PLAN_FIELDS])
    position = read = 0
    parts: list[pa.Table] = []
    shard = int(places.shards[0]) if len(places.shards) else 0

    def write() -> None:
        nonlocal parts, shard
        _write_rows_file(files, layout.rows_name(shard), pa.concat_tables(parts))
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


def _write_rows_file(files: LocalFiles, name: str, table: pa.Table) -> None:
    with files.writing(name) as path, pa.OSFile(str(path), "wb") as file:
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)


def _write_gone(
    files: LocalFiles, record: Record, taken: TakenList, is_gone: NDArray[np.bool_]
) -> None:
    """Write the URLs that no row of the new list has, one a line."""
    start = 0
    seen: dict[str, None] = {}
    for table in _listed_tables(files, record, ["url"]):
        mask = is_gone[start : start + len(table)]
        start += len(table)
        for url in table["url"].filter(pa.array(mask)).to_pylist():
            if url is not None and url.strip() and url.isprintable():
                seen.setdefault(url)
    if seen:
        with files.writing(gone_name(taken)) as path:
            path.write_text("".join(f"{url}\n" for url in seen), encoding="utf-8")


def _tasks(config: IngestConfig, files: LocalFiles, record: Record) -> tuple[Task, ...]:
    """Return the shards to work on, in order: copies of a row come from shards before its own."""
    room = set(files.list_files(layout.ROOM))
    done = {int(m[1]) for m in map(layout.SHARD.fullmatch, files.list_files("")) if m}
    tasks: list[Task] = []
    for shard in range(record.shards):
        has_rows = layout.rows_name(shard).split("/")[1] in room
        if shard in done:
            if has_rows or layout.spool_name(shard).split("/")[1] in room:
                remove_work(files, Task(shard))  # a kill after the shard was renamed
        elif has_rows:
            tasks.append(Task(shard))
        else:
            raise _missing(files, shard)
    if config.retry_failed:
        finished = sorted(done & set(range(record.shards)))
        tasks += _retries(files, finished)
    return tuple(sorted(tasks, key=lambda task: task.shard))


def _retries(files: LocalFiles, finished: Sequence[int]) -> list[Task]:
    """Return the shards of which rows are fetched again; those of an interrupted run first."""
    if not files.exists(layout.RETRY_RECORD):
        _plan_retries(files, finished)
    shards: list[int] = json.loads(files.read(layout.RETRY_RECORD))["shards"]
    left = [shard for shard in shards if files.exists(layout.rows_name(shard, True))]
    if not left:
        files.delete(layout.RETRY_RECORD)
        return _retries(files, finished) if shards else []
    return [Task(shard, is_retry=True) for shard in left]


def _plan_retries(files: LocalFiles, finished: Sequence[int]) -> None:
    """Write down the rows that failed for a reason that may pass, each URL once."""
    found: dict[int, tuple[list[int], list[str | None]]] = {}
    for shard in finished:
        table = pq.read_table(
            files.path(layout.shard_name(shard)), columns=["status", "error_message", "url"]
        )
        pairs = zip(table["status"].to_pylist(), table["error_message"].to_pylist(), strict=True)
        rows = [row for row, pair in enumerate(pairs) if is_worth_a_retry(*pair)]
        remove_work(files, Task(shard, is_retry=True))
        if rows:
            found[shard] = rows, table["url"].take(rows).to_pylist()
    digests = as_array(b"".join(url_digests(urls) for _, urls in found.values()))
    shards = [np.full(len(rows), shard, np.int64) for shard, (rows, _) in found.items()]
    numbers = [np.array(rows, np.int64) for rows, _ in found.values()]
    if found:
        places = _Places(np.concatenate(shards), np.concatenate(numbers))
        first_shards, first_numbers = places.firsts(first_rows(digests))
        start = 0
        for shard, (rows, urls) in found.items():
            columns = {
                "url": pa.array(urls, pa.string()),
                ROW: pa.array(rows, pa.int32()),
                FIRST_SHARD: first_shards.slice(start, len(rows)),
                FIRST_ROW: first_numbers.slice(start, len(rows)),
            }
            start += len(rows)
            _write_rows_file(files, layout.rows_name(shard, True), pa.table(columns))
    with files.writing(layout.RETRY_RECORD) as path:
        path.write_text(json.dumps({"shards": list(found)}), encoding="utf-8")


def _missing(files: LocalFiles, shard: int) -> LedgerError:
    return LedgerError(
        f"shard {files.path(layout.shard_name(shard))} is not there, nor are its rows; put the "
        "file back, or ingest the list into another folder"
    )
