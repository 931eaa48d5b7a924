"""History of an output folder: one manifest a run, one line a shard.

Lines are appended as shards end, so they survive a kill; the manifest is written last.  Neither
decides what is done: the shards' own files do.
"""

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from glob import escape
from pathlib import Path
from typing import Any
from uuid import uuid4

from clipsieve.store.atomic import write_json
from clipsieve.store.layout import Layout

#: Embedded, not readable, scored from storage.
DONE, FAILED, SCORED = "done", "failed", "scored"


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """How the work on one shard ended.

    Attributes:
      run_id: the run it belongs to.
      shard: output name.
      uri: where it was read.
      state: `DONE`, `FAILED` or `SCORED`; a run that does both leaves two records of a shard.
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
        """One line of JSON."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> "ShardRecord":
        """The record that `to_json` gave."""
        return cls(**json.loads(line))


def new_run_id() -> str:
    """A run id that sorts by time: UTC to the second, then six random hex digits."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + "-" + uuid4().hex[:6]


def append_record(layout: Layout, record: ShardRecord) -> None:
    """Add a line for `record`; every process has a file of its own."""
    layout.runs.mkdir(parents=True, exist_ok=True)
    name = f"{record.run_id}.{socket.gethostname()}-{os.getpid()}.shards.jsonl"
    with open(layout.runs / name, "a", encoding="utf-8") as file:
        file.write(record.to_json() + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_records(layout: Layout, run_id: str | None = None) -> Iterator[ShardRecord]:
    """Records of one run or of all, by the time they ended; a line cut by a kill is left out."""
    pattern = f"{escape(run_id)}.*shards.jsonl" if run_id else "*.shards.jsonl"
    records = [
        ShardRecord.from_json(line)
        for path in sorted(layout.runs.glob(pattern))
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
        if line.endswith("\n")
    ]
    chosen = [record for record in records if run_id is None or record.run_id == run_id]
    yield from sorted(chosen, key=lambda record: record.ended_at)


def write_manifest(layout: Layout, run_id: str, content: Mapping[str, Any]) -> Path:
    """Write the manifest of a run that has ended; returns its path."""
    path = layout.runs / f"{run_id}.json"
    write_json(path, {"run_id": run_id, **content})
    return path
