"""History of an output folder: one manifest a run, one record a shard and stage.

A record is an object of its own, written when its shard ends, so it survives a kill; when a run
ends its records are gathered in one file.  Records do not decide what is done: the shards' own
files do.
"""

import json
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import uuid4

from clipsieve.store import names
from clipsieve.store.folder import OutputFolder

#: How the work on a shard ended.
DONE, FAILED, SCORED = "done", "failed", "scored"
_GATHERED = ".shards.jsonl"


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """How the work on one shard ended.

    Attributes:
      run_id: the run it belongs to.
      shard: output name.
      uri: where it was read.
      state: `DONE`, `FAILED` or `SCORED`; a run that embeds and scores leaves two of a shard.
      rows: rows committed; 0 if it failed.
      states: committed rows by state.
      error: why it failed; None if it did not.
      seconds: from its first row's arrival to its last file's rename.
      ended_at: seconds since the epoch.
    """

    run_id: str
    shard: str
    uri: str
    state: str
    rows: int = 0
    states: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None
    seconds: float = 0.0
    ended_at: float = 0.0

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, line: str | bytes) -> "ShardRecord":
        """Return the record that `to_json` gave."""
        return cls(**json.loads(line))


def new_run_id() -> str:
    """Make a run id that sorts by time: UTC to the second, then six random hex digits."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + "-" + uuid4().hex[:6]


def add_record(folder: OutputFolder, record: ShardRecord) -> None:
    """Write a record as an object of its own; any number of processes may do so at once.

    It is not forced to disk: what is done is decided by the shard's files, which are.
    """
    name = f"{_record_folder(record.run_id)}/{uuid4().hex}.json"
    folder.write_text(name, record.to_json() + "\n", durable=False)


def read_records(folder: OutputFolder, run_id: str | None = None) -> list[ShardRecord]:
    """Return the records of one run, or of all, by the time they ended."""
    runs = _runs(folder) if run_id is None else [run_id]
    lines = {line for run in runs for line in _lines(folder, run)}
    records = map(_whole_record, sorted(lines))  # equal times: always the same order
    return sorted((r for r in records if r is not None), key=lambda record: record.ended_at)


def gather_records(folder: OutputFolder, run_id: str) -> None:
    """Put the records of a run that has ended into one file, `_runs/<run>.shards.jsonl`."""
    records = read_records(folder, run_id)
    if records:
        text = "".join(record.to_json() + "\n" for record in records)
        folder.write_text(f"{names.RUNS}/{run_id}{_GATHERED}", text)
    folder.files.delete_folder(_record_folder(run_id))


def write_run(folder: OutputFolder, run_id: str, content: Mapping[str, Any]) -> None:
    """Write the manifest of a run that has ended, and gather its records."""
    gather_records(folder, run_id)
    folder.write_json(f"{names.RUNS}/{run_id}.json", {"run_id": run_id, **content})


def _whole_record(line: bytes) -> ShardRecord | None:
    """Return the record of a line; None for one that was torn before another was put behind it."""
    try:
        return ShardRecord.from_json(line)
    except (ValueError, TypeError):
        return None


def _record_folder(run_id: str) -> str:
    return f"{names.RUNS}/{run_id}.shards"


def _runs(folder: OutputFolder) -> Iterable[str]:
    """Ids of all runs that left a record."""
    # In this order no run that is gathered meanwhile is missed.
    single = [n.removesuffix(".shards") for n in folder.files.list_folders(names.RUNS)]
    files = folder.files.list_files(names.RUNS)
    gathered = [name.removesuffix(_GATHERED) for name in files if name.endswith(_GATHERED)]
    return dict.fromkeys([*gathered, *single])


def _lines(folder: OutputFolder, run_id: str) -> list[bytes]:
    """Lines of the records of a run, single and gathered ones; a line cut short is left out."""
    single = _record_folder(run_id)
    files = [n for n in folder.files.list_files(single) if n.endswith(".json")]
    # The gathered ones last: there is every record that was removed meanwhile.
    objects = [*(f"{single}/{n}" for n in files), f"{names.RUNS}/{run_id}{_GATHERED}"]
    parts: list[bytes] = []
    for name in objects:
        with suppress(FileNotFoundError):
            parts.append(folder.files.read(name))
    return [
        line.strip()
        for part in parts
        for line in part.splitlines(keepends=True)
        if line.endswith(b"\n")
    ]
