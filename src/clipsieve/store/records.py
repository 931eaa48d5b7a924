"""History of an output folder: one manifest a run, one record a shard and stage.

A record is an object of its own, written when its shard ends, so it survives a kill; when a run
ends its records are gathered in one file.  Records do not decide what is done: the shards' own
files do.
"""

import json
import re
import time
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any
from uuid import uuid4

from clipsieve.errors import LedgerError
from clipsieve.formats.names import escaped_path
from clipsieve.redaction import redacted
from clipsieve.schemas.footers import SEAL
from clipsieve.schemas.states import RowState
from clipsieve.store import names
from clipsieve.store.folder import READERS, OutputFolder
from clipsieve.store.json_text import parse_json
from clipsieve.store.seal import Seal, blank_json, without_seal
from clipsieve.store.validation import Count, Timestamp, decode

#: How the work on a shard ended.
DONE, FAILED, SCORED = "done", "failed", "scored"
_GATHERED = ".shards.jsonl"
_SINGLE = ".shards"
_NAME = re.compile(rf"({DONE}|{FAILED}|{SCORED})-(\d+)-(\d+)-([0-9a-f]{{16}})-[0-9a-f]{{32}}\.json")
_SEAL_LINE = b'{"' + SEAL.encode()


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
      files: size and sha256 of each file that was written, by its name; see `Seal`.
    """

    run_id: str
    shard: str
    uri: str
    state: str
    rows: Count = 0
    states: Mapping[str, Count] = field(default_factory=dict)
    error: str | None = None
    seconds: float = 0.0
    ended_at: Timestamp = 0.0
    files: Mapping[str, Seal] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, line: str | bytes) -> "ShardRecord":
        """Return the record that `to_json` gave.

        Raises:
          ValueError: if it is none; names the field.
        """
        record: ShardRecord = decode(cls, without_seal(parse_json(line)))
        return record


@dataclass(frozen=True, slots=True)
class RecordSummary:
    """What the name of a single record tells, so that progress is known without reading any.

    Attributes:
      state: see `ShardRecord`.
      rows: rows committed.
      failed_rows: of those, rows that did not end `ok`; 0 where the record does not say.
      digest: of the shard.
    """

    state: str
    rows: int
    failed_rows: int
    digest: str

    def name_start(self) -> str:
        """Return what stands before the digits that make the name unique.

        >>> RecordSummary("done", 12, 1, "0" * 16).name_start()
        'done-12-1-0000000000000000-'
        """
        return f"{self.state}-{self.rows}-{self.failed_rows}-{self.digest}-"

    @classmethod
    def from_name(cls, name: str) -> "RecordSummary | None":
        """Return what a name tells; None for another file's, or an older version's.

        >>> RecordSummary.from_name(f"done-12-1-{'0' * 16}-{'a' * 32}.json").rows
        12
        >>> RecordSummary.from_name("a" * 32 + ".json")
        """
        match = _NAME.fullmatch(name)
        return match and cls(match[1], int(match[2]), int(match[3]), match[4])


def new_run_id() -> str:
    """Make a run id that sorts by time: UTC to the second, then six random hex digits."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + "-" + uuid4().hex[:6]


def add_record(folder: OutputFolder, record: ShardRecord) -> None:
    """Write a record as an object of its own; any number of processes may do so at once.

    It is not forced to disk: what is done is decided by the shard's files, which are.
    """
    failed_rows = record.rows - record.states.get(RowState.OK, 0) if record.states else 0
    summary = RecordSummary(record.state, record.rows, failed_rows, _digest(record.shard))
    name = f"{_record_folder(record.run_id)}/{summary.name_start()}{uuid4().hex}.json"
    folder.write_json(name, asdict(record), indent=None, durable=False)


def record_names(folder: OutputFolder, run_id: str) -> set[str]:
    """Return the names of the single records of a run, in one listing."""
    return set(folder.files.list_files(_record_folder(run_id)))


def read_records(
    folder: OutputFolder, run_id: str | None = None, damaged: Collection[str] = ()
) -> list[ShardRecord]:
    """Return the records of one run, or of all, by the time they ended.

    A line that is no JSON is left out: a power failure tears those that were written last.

    Args:
      folder: the output folder.
      run_id: of the run; None is all runs.
      damaged: names of files that are not read.

    Raises:
      LedgerError: if a record has fields that no record has.
    """
    runs = recorded_runs(folder) if run_id is None else [run_id]
    found = (entry for run in runs for entry in _lines(folder, run))
    lines = {line: place for line, place in found if place not in damaged}
    parsed = [_parse(line, folder.files.url(place)) for line, place in lines.items()]
    records = {record.to_json(): record for record in filter(None, parsed)}
    in_order = (records[text] for text in sorted(records))  # also those of equal times
    return sorted(in_order, key=lambda record: record.ended_at)


def gather_records(folder: OutputFolder, run_id: str) -> list[ShardRecord]:
    """Put the records of a run that has ended into one file, `_runs/<run>.shards.jsonl`.

    Returns:
      The records.
    """
    records = read_records(folder, run_id)
    if records:
        text = "".join(record.to_json() + "\n" for record in records)
        name = f"{names.RUNS}/{run_id}{_GATHERED}"
        folder.write_sealed(name, text + blank_json({}, indent=None))
    folder.files.delete_folder(_record_folder(run_id))
    return records


def write_run(folder: OutputFolder, run_id: str, content: Mapping[str, Any]) -> list[ShardRecord]:
    """Write the manifest of a run that has ended, and gather its records.

    Words of its `argv` that are not UTF-8 are escaped, or no reader of JSON would take it; values
    of options that hold credentials are left away.

    Returns:
      The records.
    """
    records = gather_records(folder, run_id)
    if "argv" in content:
        content = {**content, "argv": [escaped_path(word) for word in redacted(content["argv"])]}
    folder.write_json(f"{names.RUNS}/{run_id}.json", {"run_id": run_id, **content})
    return records


def _record_folder(run_id: str) -> str:
    return f"{names.RUNS}/{run_id}{_SINGLE}"


def _digest(shard: str) -> str:
    return sha256(shard.encode()).hexdigest()[:16]


def _parse(line: bytes, place: str) -> ShardRecord | None:
    """Return the record of a line; None if the line is torn."""
    try:
        return ShardRecord.from_json(line)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    except ValueError as error:
        raise LedgerError(
            f"{place} holds what is no record of a shard ({error}); delete the file: what is done "
            "is decided by the shards' own files"
        ) from error


def recorded_runs(folder: OutputFolder) -> Iterable[str]:
    """Return the ids of all runs that left a record."""
    # In this order no run that is gathered meanwhile is missed.
    folders = folder.files.list_folders(names.RUNS)
    single = [n.removesuffix(_SINGLE) for n in folders if names.is_own(n, _SINGLE)]
    files = folder.files.list_files(names.RUNS)
    gathered = [n.removesuffix(_GATHERED) for n in files if names.is_own(n, _GATHERED)]
    return dict.fromkeys([*gathered, *single])


def _lines(folder: OutputFolder, run_id: str) -> list[tuple[bytes, str]]:
    """Lines of the records of a run, and their files; a line cut short is left out."""
    single = _record_folder(run_id)
    files = [n for n in folder.files.list_files(single) if names.is_own(n, ".json")]
    # The gathered ones last: there is every record that was removed meanwhile.
    objects = [*(f"{single}/{n}" for n in files), f"{names.RUNS}/{run_id}{_GATHERED}"]

    def content(name: str) -> bytes | None:
        try:
            return folder.files.read(name)
        except FileNotFoundError:
            return None

    with ThreadPoolExecutor(READERS, "clipsieve-records") as pool:
        found = list(zip(pool.map(content, objects[:-1]), objects, strict=False))
    found.append((content(objects[-1]), objects[-1]))
    parts = [(part, name) for part, name in found if part is not None]
    return [
        (line.strip(), name)
        for part, name in parts
        for line in part.splitlines(keepends=True)
        if line.endswith(b"\n") and not line.startswith(_SEAL_LINE)
    ]
