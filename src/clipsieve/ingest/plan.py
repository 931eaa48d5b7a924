"""What is to be done: a new list, one that was interrupted, one more, or rows that failed."""

from dataclasses import dataclass

import numpy as np

from clipsieve.control import Control
from clipsieve.errors import UsageError
from clipsieve.ingest import layout
from clipsieve.ingest.digests import first_rows
from clipsieve.ingest.extension import extended_plan, gone_name
from clipsieve.ingest.lists import open_list
from clipsieve.ingest.record import Record, TakenList, read_record, write_record
from clipsieve.ingest.retries import retry_tasks
from clipsieve.ingest.rows import missing_shard, new_places, write_rows
from clipsieve.ingest.scan import Scan, StoppableList, scan_list
from clipsieve.ingest.settings import ROWS_PER_SHARD, IngestConfig
from clipsieve.ingest.shard import Task, remove_work
from clipsieve.store.files import LocalFiles
from clipsieve.versions import __version__


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
    elif config.rows_per_shard not in (None, record.rows_per_shard):
        raise UsageError(
            f"rows_per_shard {config.rows_per_shard}: the shards in {files.root} have "
            f"{record.rows_per_shard} rows; say --rows-per-shard {record.rows_per_shard}, or "
            "ingest into another folder"
        )
    found = open_list(config.urls, config.url_col, config.caption_col, config.carry)
    urls = StoppableList(found, control)
    scan = scan_list(urls, config.extend and record is not None)
    if not len(scan.urls):
        raise UsageError(f"{', '.join(config.urls)} has no rows; name a list that has some")
    notes = [_description(urls, len(scan.urls))]
    taken = next((t for t in record.lists if t.hash == scan.hash), None) if record else None
    if record is None:
        record = _first_plan(urls, scan, files, config.rows_per_shard or ROWS_PER_SHARD)
    elif taken is None and not config.extend:
        columns = ", ".join(record.columns)
        raise UsageError(
            f"{', '.join(config.urls)} is not the list that {files.root} was made of (hash "
            f"{scan.hash[:8]}, there {record.lists[-1].hash[:8]} of the columns {columns}); say "
            "--extend to fetch its new rows, name that list, or ingest into another folder"
        )
    elif taken is None:
        record = extended_plan(urls, scan, files, record)
    taken = next(t for t in record.lists if t.hash == scan.hash)
    gone = gone_name(taken)
    if files.exists(gone):
        lines = files.read(gone).count(b"\n")
        notes.append(
            f"{lines:,} URLs of earlier lists are not in this one; to leave them out of what was "
            f"made of them: clipsieve remove OUT {config.shards.rstrip('/')}/{gone} --by url"
        )
    return Plan(record, taken, _tasks(config, files, record), tuple(notes))


def _require_no_shards(files: LocalFiles) -> None:
    """Refuse a folder of somebody else's."""
    foreign = [n for n in files.list_files("") if n.endswith((".parquet", ".tar", ".tfrecord"))]
    if foreign:
        raise UsageError(
            f"{files.root} has {foreign[0]}, and no record of ingest ({layout.RECORD}); name a "
            "folder that is new or empty"
        )


def _description(urls: StoppableList, rows: int) -> str:
    """What list was found, in a line."""
    names = dict(zip(urls.schema.names, urls.origins, strict=True))
    caption = f"caption column {names['caption']}" if "caption" in names else "no caption column"
    carried = [name for name in urls.schema.names if name not in ("url", "caption")]
    kinds = ", ".join(dict.fromkeys(kind for _, kind in urls.files))
    count = len(urls.files)
    text = f"{kinds}, {count:,} {'file' if count == 1 else 'files'}, {rows:,} rows, "
    text += f"URL column {names['url']}, {caption}"
    return text + (f"; carried: {', '.join(carried)}" if carried else "")


def _first_plan(urls: StoppableList, scan: Scan, files: LocalFiles, rows_per_shard: int) -> Record:
    """Write down all rows of the first list of a folder."""
    rows = len(scan.urls)
    places = new_places(rows, 0, rows_per_shard)
    firsts = places.firsts(first_rows(scan.urls))
    write_rows(files, urls, np.ones(rows, np.bool_), places, firsts)
    shards = -(-rows // rows_per_shard)
    columns = {field.name: str(field.type) for field in urls.schema}
    taken = TakenList(scan.hash, rows, rows, 0, shards)
    record = Record(columns, rows_per_shard, (taken,), __version__)
    write_record(files, record)
    return record


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
            raise missing_shard(files, shard)
    if config.retry_failed:
        finished = sorted(done & set(range(record.shards)))
        tasks += retry_tasks(files, finished)
    return tuple(sorted(tasks, key=lambda task: task.shard))
