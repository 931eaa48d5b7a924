"""Data sets as img2dataset writes them: Parquet shards with their statistics, and the truth.

    FOLDER/00000.parquet          rows in order, failed downloads included, groups of 100 rows
    FOLDER/00000_stats.json       counts by status
    FOLDER/_truth/00000.parquet   uid, kind, class, colour, duplicate_of; FOLDER/*.parquet misses it

Equal arguments give equal bytes: nothing depends on the clock or on how many processes write.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from clipsieve.demo.photos import make_photo_record
from clipsieve.demo.processes import spread
from clipsieve.demo.records import Record, make_record
from clipsieve.demo.samples import DEMO, Mixture
from clipsieve.demo.textures import SIDE
from clipsieve.errors import UsageError

ROW_GROUP = 100  #: rows, img2dataset's buffer size
START_TIME = 1_700_000_000.0  #: what every data set claims as the start of its download
SECONDS_A_ROW = 0.01

RecordMaker = Callable[[int], Record]

TRUTH_SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("kind", pa.string()),
        ("class", pa.string()),
        ("colour", pa.string()),
        ("duplicate_of", pa.string()),
    ]
)


def shard_name(shard: int) -> str:
    """Five digits, as img2dataset names shards."""
    return f"{shard:05d}"


def key_of(shard: int, row: int) -> str:
    """Nine digits: the shard, then the row in it."""
    return f"{shard:05d}{row:04d}"


def shard_ranges(rows: int, shards: int) -> list[range]:
    """Split record indices into consecutive shards whose sizes differ by at most one.

    Raises:
      ValueError: if there are no shards, or fewer rows than shards.
    """
    if shards < 1:
        raise ValueError(f"shards must be an int of at least 1, got {shards}")
    if rows < shards:
        raise ValueError(f"rows must be at least the number of shards ({shards}), got {rows}")
    if rows > shards * 10_000:
        raise ValueError(
            f"{rows} rows in {shards} shards are more than the 10,000 a shard can number: "
            f"use at least {-(-rows // 10_000)} shards"
        )
    return [range(rows * k // shards, rows * (k + 1) // shards) for k in range(shards)]


def claim(folder: Path, names: Sequence[str]) -> None:
    """Create a folder for data files of the given names.

    Raises:
      UsageError: if it holds other files of the same kind, which readers would mix in.
    """
    folder.mkdir(parents=True, exist_ok=True)
    suffixes = {Path(name).suffix for name in names}
    strangers = sorted(
        path.name for path in folder.iterdir() if path.suffix in suffixes and path.name not in names
    )
    if strangers:
        raise UsageError(
            f"{strangers[0]} in {folder} is not part of the data set to be written: "
            "give an empty folder, or delete the old data set"
        )


def row_of(record: Record, key: str) -> dict[str, object]:
    """The img2dataset columns of a record, without the image bytes."""
    size = record.size
    width, height = size if size is not None else (None, None)
    return {
        "url": record.url,
        "caption": record.caption,
        "key": key,
        "status": "success" if record.error_message is None else "failed_to_download",
        "error_message": record.error_message,
        "width": width,
        "height": height,
        "original_width": width,
        "original_height": height,
        "exif": None if record.file is None else "{}",
        "sha256": None if record.file is None else hashlib.sha256(record.file).hexdigest(),
    }


def shard_schema(any_failed: bool) -> pa.Schema:
    """The columns of a shard; without a failure `error_message` has Arrow's type null."""
    return pa.schema(
        [
            ("url", pa.string()),
            ("caption", pa.string()),
            ("key", pa.string()),
            ("status", pa.string()),
            ("error_message", pa.string() if any_failed else pa.null()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("original_width", pa.int32()),
            ("original_height", pa.int32()),
            ("exif", pa.string()),
            ("sha256", pa.string()),
            ("jpg", pa.binary()),
            ("uid", pa.string()),
        ]
    )


def write_stats(path: Path, shard: int, records: Sequence[Record]) -> None:
    """Write a shard's `_stats.json`, with times that depend on nothing but the shard."""
    statuses = Counter(record.error_message or "success" for record in records)
    duration = len(records) * SECONDS_A_ROW
    start_time = START_TIME + 60 * shard
    stats = {
        "count": len(records),
        "successes": statuses["success"],
        "failed_to_download": len(records) - statuses["success"],
        "failed_to_resize": 0,
        "duration": duration,
        "start_time": start_time,
        "end_time": start_time + duration,
        "status_dict": dict(sorted(statuses.items())),
    }
    path.write_text(json.dumps(stats, indent=4) + "\n")


def write_truth(folder: Path, shard: int, records: Sequence[Record]) -> None:
    """Write `_truth/<shard>.parquet` under `folder`, if the records' truth is known."""
    truths = [(record.uid, record.truth) for record in records if record.truth is not None]
    if not truths:
        return
    columns = {
        "uid": [uid for uid, _ in truths],
        "kind": [truth.kind.value for _, truth in truths],
        "class": [truth.class_name for _, truth in truths],
        "colour": [truth.colour for _, truth in truths],
        "duplicate_of": [truth.duplicate_of for _, truth in truths],
    }
    target = folder / "_truth" / f"{shard_name(shard)}.parquet"
    target.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns, schema=TRUTH_SCHEMA), target)


def _write_shard(folder: Path, shard: int, indices: range, make: RecordMaker) -> None:
    records = [make(index) for index in indices]
    rows = [
        row_of(record, key_of(shard, row)) | {"jpg": record.file, "uid": record.uid}
        for row, record in enumerate(records)
    ]
    schema = shard_schema(any(record.error_message is not None for record in records))
    table = pa.Table.from_pylist(rows, schema=schema)
    target = folder / f"{shard_name(shard)}.parquet"
    pq.write_table(table, target, row_group_size=ROW_GROUP, compression="snappy")
    write_stats(folder / f"{shard_name(shard)}_stats.json", shard, records)
    write_truth(folder, shard, records)


def _write_shards(
    folder: Path, rows: int, shards: int, make: RecordMaker, processes: int
) -> list[Path]:
    ranges = shard_ranges(rows, shards)
    names = [f"{shard_name(shard)}.parquet" for shard in range(shards)]
    claim(folder, names)
    calls = [(folder, shard, indices, make) for shard, indices in enumerate(ranges)]
    for _ in spread(_write_shard, calls, processes):
        pass
    return [folder / name for name in names]


def write_shards(
    folder: Path,
    rows: int = 2000,
    shards: int = 4,
    seed: int = 0,
    size: int = SIDE,
    mixture: Mixture = DEMO,
    processes: int = 1,
) -> list[Path]:
    """Write a demo data set as img2dataset Parquet shards.

    Args:
      folder: created if missing.
      rows: of the whole data set, failed downloads included.
      shards: files; rows are spread over them in order.
      seed: data sets of different seeds share no picture.
      size: side of the pictures in pixels.
      mixture: which kinds of record occur and how often.
      processes: the bytes written do not depend on it.

    Returns:
      The Parquet files, in order.

    Raises:
      UsageError: if the folder holds Parquet files that this data set does not have.
    """
    make = partial(make_record, seed, mixture=mixture, size=size)
    return _write_shards(folder, rows, shards, make, processes)


def write_benchmark_shards(
    folder: Path, rows: int, shards: int, seed: int = 0, processes: int = 1
) -> list[Path]:
    """Write photo-like JPEGs of 256 to 640 pixels with web-like captions, to measure speed.

    Arguments and result are those of `write_shards`.  There is no `_truth`: the pictures show
    nothing and the captions mean nothing.
    """
    return _write_shards(folder, rows, shards, partial(make_photo_record, seed), processes)
