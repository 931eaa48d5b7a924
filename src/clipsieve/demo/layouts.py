"""The demo records in the other layouts that image-text data comes in.

Each writer makes the same records as `shards.write_shards` of the same arguments, with the truth
beside them in `_truth/`.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from clipsieve.demo.records import Record, make_record
from clipsieve.demo.samples import DEMO, Mixture
from clipsieve.demo.shards import (
    ROW_GROUP,
    START_TIME,
    claim,
    key_of,
    row_of,
    shard_name,
    shard_ranges,
    write_stats,
    write_truth,
)
from clipsieve.demo.textures import SIDE

_HF_FEATURES = {
    "info": {
        "features": {
            "image": {"_type": "Image"},
            "text": {"dtype": "string", "_type": "Value"},
        }
    }
}


def _made(
    folder: Path, rows: int, shards: int, seed: int, size: int, mixture: Mixture
) -> Iterator[tuple[int, list[Record]]]:
    for shard, indices in enumerate(shard_ranges(rows, shards)):
        records = [make_record(seed, index, mixture, size) for index in indices]
        write_truth(folder, shard, records)
        yield shard, records


def write_webdataset(
    folder: Path,
    rows: int = 2000,
    shards: int = 4,
    seed: int = 0,
    size: int = SIDE,
    mixture: Mixture = DEMO,
) -> list[Path]:
    """Write webdataset tars: `<key>.jpg`, `.txt` and `.json` for each download that succeeded.

    A missing caption gives an empty `.txt` and null in the `.json`, as img2dataset does it.

    Returns:
      The tar files, in order.

    Raises:
      UsageError: if the folder holds tars that this data set does not have.
    """
    names = [f"{shard_name(shard)}.tar" for shard in range(shards)]
    claim(folder, names)
    for shard, records in _made(folder, rows, shards, seed, size, mixture):
        with tarfile.open(folder / names[shard], "w", format=tarfile.USTAR_FORMAT) as tar:
            for row, record in enumerate(records):
                if record.file is None:
                    continue
                key = key_of(shard, row)
                columns = row_of(record, key) | {"uid": record.uid}
                _add(tar, f"{key}.jpg", record.file)
                _add(tar, f"{key}.txt", (record.caption or "").encode())
                _add(tar, f"{key}.json", json.dumps(columns, indent=4).encode())
        write_stats(folder / f"{shard_name(shard)}_stats.json", shard, records)
    return [folder / name for name in names]


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = len(data), START_TIME, 0o644
    tar.addfile(member, io.BytesIO(data))


def write_folder(
    folder: Path, rows: int = 200, seed: int = 0, size: int = SIDE, mixture: Mixture = DEMO
) -> Path:
    """Write loose image files with a `metadata.jsonl`, as Hugging Face's imagefolder has it.

    Each line has `file_name`, `text` and `uid`.  Failed downloads have neither file nor line.

    Returns:
      The metadata file.

    Raises:
      UsageError: if the folder holds images that this data set does not have.
    """
    claim(folder, [f"{key_of(0, row)}.jpg" for row in range(rows)])
    lines = []
    for _, records in _made(folder, rows, 1, seed, size, mixture):
        for row, record in enumerate(records):
            if record.file is None:
                continue
            name = f"{key_of(0, row)}.jpg"
            (folder / name).write_bytes(record.file)
            line = {"file_name": name, "text": record.caption, "uid": record.uid}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    metadata = folder / "metadata.jsonl"
    metadata.write_text("".join(lines), encoding="utf-8")
    return metadata


def write_hf_parquet(
    folder: Path,
    rows: int = 2000,
    shards: int = 4,
    seed: int = 0,
    size: int = SIDE,
    mixture: Mixture = DEMO,
) -> list[Path]:
    """Write Hugging Face Parquet: `image: struct<bytes, path>` and `text`.

    A failed download is a row whose image is null.

    Returns:
      The files, named `train-00000-of-00004.parquet`, in order.

    Raises:
      UsageError: if the folder holds Parquet files that this data set does not have.
    """
    names = [
        f"train-{shard_name(shard)}-of-{shard_name(shards)}.parquet" for shard in range(shards)
    ]
    claim(folder, names)
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("image", image_type), ("text", pa.string())],
        metadata={"huggingface": json.dumps(_HF_FEATURES)},
    )
    for shard, records in _made(folder, rows, shards, seed, size, mixture):
        columns = {
            "image": [
                None
                if record.file is None
                else {"bytes": record.file, "path": f"{key_of(shard, row)}.jpg"}
                for row, record in enumerate(records)
            ],
            "text": [record.caption for record in records],
        }
        pq.write_table(pa.table(columns, schema=schema), folder / names[shard], ROW_GROUP)
    return [folder / name for name in names]
