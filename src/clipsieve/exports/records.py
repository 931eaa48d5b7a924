"""What is recorded of the files and parts of an export, and of rows that it has no place for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

#: Rows of a subset that an export has no place for.
LEFT_OUT_SCHEMA = pa.schema(
    [
        pa.field("uid", pa.string()),
        pa.field("shard", pa.string()),
        pa.field("row", pa.int64()),
        pa.field("reason", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file of an export: name below its folder, rows, size in bytes, sha256 in hex."""

    name: str
    rows: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PartRecord:
    """What was written of a part.

    Attributes:
      key: that of the part.
      files: its files.
      rows: rows that are in them.
      left_out: rows that had no place in them.
      notes: rows by something that the user should know of them.
    """

    key: str
    files: tuple[FileRecord, ...]
    rows: int
    left_out: int = 0
    notes: Mapping[str, int] | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "PartRecord":
        """Return the record that `asdict` gave."""
        return cls(**{**value, "files": tuple(FileRecord(**file) for file in value["files"])})
