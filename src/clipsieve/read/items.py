"""The unit of work: one shard, or one range of rows of it, as planned and sent to a worker."""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class InputFormat(StrEnum):
    """What the rows are stored in."""

    PARQUET = "parquet"  #: Parquet files with the image bytes in a column
    WEBDATASET = "webdataset"  #: tar files, the members of one row side by side
    FOLDER = "folder"  #: image files, captions beside them or in metadata files


@dataclass(frozen=True, slots=True)
class SourceFingerprint:
    """Whether a source is still the one that was planned: equal means unchanged.

    Attributes:
      size: bytes; -1 where the server does not say.  For folders, of all files of the item.
      version: `mtime_ns` of a local file, else the ETag, generation or time the store gives;
        for folders a sha256 over names, sizes and times.  Empty where the store gives nothing.
      rows: rows that the item covers, or None where only reading tells (tar files).
    """

    size: int
    version: str
    rows: int | None


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One output file's worth of input; picklable, and `from_json(to_json())` is the same item.

    Attributes:
      shard: name of the output, unique in a plan and safe as a file name.
      uri: absolute path or URL of the source file or folder.
      format: how to read it.
      start: index in the source of the first row, counted from 0.
      row_groups: half-open range of Parquet row groups; None is the whole file.
      fingerprint: of the source, when it was planned.
      files: half-open range of the sorted rows of a folder; None for other formats.
      problem: why planning could not read it, or None.  Reading it raises `ShardError`.
    """

    shard: str
    uri: str
    format: InputFormat
    start: int
    row_groups: tuple[int, int] | None
    fingerprint: SourceFingerprint
    files: tuple[int, int] | None = None
    problem: str | None = None

    def to_json(self) -> str:
        """Return the item as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "WorkItem":
        """Return the item that `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        for name in ("row_groups", "files"):
            fields[name] = None if fields[name] is None else tuple(fields[name])
        fields["format"] = InputFormat(fields["format"])
        fields["fingerprint"] = SourceFingerprint(**fields["fingerprint"])
        return cls(**fields)
