"""Small files that are large in memory."""

import gzip
import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.faults.pictures import sound
from tests.faults.tars import add, sparse_claim


def captions(path: Path, rng: random.Random) -> None:
    """One caption of 5 MB in 3,000 rows: kilobytes on disk, 15 GB as strings."""
    _repeated(path, rng.choice(sound()[:3]), "x" * 5_000_000, 3000)


def pictures(path: Path, rng: random.Random) -> None:
    """One picture of 50 MB in 400 rows."""
    _repeated(path, sound()[0] + bytes(50_000_000), "a cat", 400)


def metadata_columns(path: Path, rng: random.Random) -> None:
    """One value of 8 MB of a column that is carried along, in 2,000 rows."""
    _repeated(path, sound()[0], "a cat", 2000, {"alt": "y" * 8_000_000})


def _repeated(
    path: Path, picture: bytes, caption: str, rows: int, more: dict[str, str] | None = None
) -> None:
    values = {"jpg": picture, "caption": caption, **(more or {})}
    indices = pa.array([0] * rows, pa.int32())
    columns = {
        name: pa.DictionaryArray.from_arrays(indices, pa.array([value]))
        for name, value in values.items()
    }
    pq.write_table(
        pa.table(columns),
        path.with_suffix(".parquet"),
        compression="zstd",
        dictionary_pagesize_limit=1 << 30,
        store_schema=False,
    )


def compressed_tar(path: Path, rng: random.Random) -> None:
    """A picture, a caption or metadata of 3 GB of zeros in a tar.gz of 3 MB."""
    suffix = rng.choice(("jpg", "txt", "json"))
    with gzip.open(path.with_suffix(".tar.gz"), "wb", 1) as file:
        small = io.BytesIO()
        with tarfile.open(fileobj=small, mode="w") as tar:
            add(tar, "000000.jpg", sound()[0])
            add(tar, "000000.txt", b"a cat")
        file.write(small.getvalue()[: _end_of_members(small.getvalue())])
        info = tarfile.TarInfo(f"000001.{suffix}")
        info.size = 3 << 30
        file.write(info.tobuf())
        block = bytes(1 << 24)
        for _ in range((3 << 30) // len(block)):
            file.write(block)
        file.write(bytes(1024))


def _end_of_members(data: bytes) -> int:
    """Return where the end marker of a tar begins."""
    return len(data.rstrip(b"\0")) // 512 * 512 + 512


def sparse_tar(path: Path, rng: random.Random) -> None:
    """A member of 512 bytes that claims 40 GB."""
    path.with_suffix(".tar").write_bytes(sparse_claim())


#: With the format that the job is told, `auto` refusing a mixture of tars and Parquet.
ALL: tuple[Callable[[Path, random.Random], None], ...] = (
    captions,
    pictures,
    metadata_columns,
    sparse_tar,
    compressed_tar,
)
