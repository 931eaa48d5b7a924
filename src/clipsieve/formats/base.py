"""What all formats share: work items, the planned source, row batches, options, and `Format`."""

import base64
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, BinaryIO, ClassVar

import pyarrow as pa

from clipsieve.errors import UsageError
from clipsieve.formats.names import safe_name
from clipsieve.schemas.states import RowFailure, RowState

#: Longest caption in UTF-8: far over what any CLIP reads (77 to 256 tokens) and what alternative
#: texts of the web hold, and small enough that a batch of them is no burden.
MAX_CAPTION_BYTES = 64 << 10
#: Largest encoded image.
MAX_IMAGE_BYTES = 64 << 20

#: Longest message of a downloader that is repeated.
_MAX_MESSAGE = 1000

#: As an input format: look at the content.
AUTO = "auto"


class InputFormat(StrEnum):
    """What the rows are stored in."""

    PARQUET = "parquet"  #: Parquet files with the image bytes in a column
    WEBDATASET = "webdataset"  #: tar files, the members of one row side by side
    FOLDER = "folder"  #: image files, captions beside them or in metadata files


@dataclass(frozen=True, slots=True)
class SourceFingerprint:
    """Whether a source is still the one that was planned: equal means unchanged.

    Attributes:
      size: bytes; -1 where the server does not say.  For folders, of all files of the item; for
        a tar with a sidecar, of both.
      version: `mtime_ns` of a local file, else the ETag, generation or time the store gives;
        for folders a sha256 over names, sizes and times; for a tar with a sidecar, of both.
        Empty where the store gives nothing.
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
      uri: absolute path or URL of the source file or folder, as UTF-8; see `path_uri`.
      format: how to read it.
      start: index in the source of the first row, counted from 0.
      row_groups: half-open range of Parquet row groups; None is the whole file.
      fingerprint: of the source, when it was planned.
      files: half-open range of the sorted rows of a folder; None for other formats.
      problem: why planning could not read it, or None.  Reading it raises `ShardError`.
      sidecar: of a tar, address of the Parquet file that has its rows, failed ones too; or None.
    """

    shard: str
    uri: str
    format: InputFormat
    start: int
    row_groups: tuple[int, int] | None
    fingerprint: SourceFingerprint
    files: tuple[int, int] | None = None
    problem: str | None = None
    sidecar: str | None = None

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


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """One source as planned; picklable, and `from_json(to_json())` is equal.

    "Column" is a Parquet column, a key of the samples' JSON, or a column of a metadata file.

    Attributes:
      format: what the rows are stored in.
      flavour: who wrote it: "img2dataset", "huggingface", or the name of the format.
      image: Parquet column of the image, or extension of tar members; None is any picture
        extension (tars) or every picture (folders).
      caption: column of the caption; "txt" is the text member or file; None if there is none.
      uid: column of the uid, or None.
      references: column of the reference captions, which is carried like others; None if none.
      left_out: columns that are not read: they hold other pixels, or are to be left out.
      carried: names and unified types of `RowBatch.carried`; every field may be null.
      origins: for each carried field the column it comes from.
      uid_type: unified type of the uid column, None without one.
      byte_budget: about how many bytes of images one `RowBatch` holds.
      max_caption_bytes: longer captions are `CAPTION_TOO_LONG`, and cut.
      max_image_bytes: larger images of tars and folders are `IMAGE_TOO_LARGE`, and not read.
    """

    format: InputFormat
    flavour: str
    image: str | None
    caption: str | None
    uid: str | None
    references: str | None
    left_out: tuple[str, ...]
    carried: pa.Schema
    origins: tuple[str, ...]
    uid_type: pa.DataType | None
    byte_budget: int
    max_caption_bytes: int = MAX_CAPTION_BYTES
    max_image_bytes: int = MAX_IMAGE_BYTES

    def to_json(self) -> str:
        """Return the configuration as one line of JSON; Arrow types in base64 IPC form."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        fields["carried"] = _encode_schema(self.carried)
        if self.uid_type is not None:
            fields["uid_type"] = _encode_schema(pa.schema([("uid", self.uid_type)]))
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> "SourceConfig":
        """Return the configuration that `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        fields["format"] = InputFormat(fields["format"])
        fields["left_out"] = tuple(fields["left_out"])
        fields["origins"] = tuple(fields["origins"])
        fields["carried"] = _decode_schema(fields["carried"])
        if fields["uid_type"] is not None:
            fields["uid_type"] = _decode_schema(fields["uid_type"]).field("uid").type
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Consecutive rows of one shard, in source order; N rows, N >= 1.

    Attributes:
      start: index in the source (file or folder) of the first row, counted from 0; the first
        batch of a work item starts at `WorkItem.start`.
      images: N encoded images as stored in the source; None where there are no bytes.
      captions: N captions; None where the source has NULL.  Bytes that are not UTF-8 are
        replaced by U+FFFD, and the row has an `INVALID_CAPTION` failure.
      carried: N rows of all source columns that are not pixels, the uid and caption columns
        left out (they have their own place), in unified types.
      failures: what the *source* already says of a row, by its position in this batch (0..N-1):
        `FETCH_FAILED`, `MISSING_IMAGE`, `IMAGE_TOO_LARGE`, `INVALID_CAPTION`,
        `CAPTION_TOO_LONG`.  The decoder adds its own later.
      uids: N uids in the type of the source, or None where the source has no uid column.
    """

    start: int
    images: Sequence[bytes | None]
    captions: Sequence[str | None]
    carried: pa.Table
    failures: Mapping[int, RowFailure] = field(default_factory=dict)
    uids: pa.Array | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.images)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to read a source; what is None is detected.

    Attributes:
      input_format: "parquet", "webdataset", "folder", or "auto" to look at the content.
      image_col: column, or in tars the member extension, of the image.
      caption_col: column of the caption; "none" if there are no captions.
      uid_col: column of the uid; by default `uid` in any case of letters, if there is one.
      references_col: column of reference captions; checked, and carried like other columns.
      byte_budget: about how many bytes of images one batch holds.
      max_caption_bytes: longer captions are `CAPTION_TOO_LONG`, and cut.
      max_image_bytes: larger images are `IMAGE_TOO_LARGE`, and not read where that can be helped.
      leave_out: columns that are not carried.
      rows_per_item: larger Parquet files and folders are cut into items of at most this many
        rows; a Parquet file between row groups only.
      shard_prefix: put before every shard name.
    """

    input_format: str = AUTO
    image_col: str | None = None
    caption_col: str | None = None
    uid_col: str | None = None
    references_col: str | None = None
    byte_budget: int = 64 << 20
    max_caption_bytes: int = MAX_CAPTION_BYTES
    max_image_bytes: int = MAX_IMAGE_BYTES
    leave_out: tuple[str, ...] = ()
    rows_per_item: int = 50_000
    shard_prefix: str = ""

    def __post_init__(self) -> None:
        """Refuse values that no source can be read with."""
        object.__setattr__(self, "leave_out", tuple(self.leave_out))  # JSON has lists
        if self.references_col in self.leave_out:
            raise UsageError(
                f"references_col {self.references_col!r} is to be left out too; drop one of the two"
            )
        formats = [AUTO, *InputFormat]
        if self.input_format not in formats:
            raise UsageError(
                f"input_format must be one of {', '.join(formats)}, got {self.input_format!r}"
            )
        for name in ("byte_budget", "rows_per_item", "max_caption_bytes", "max_image_bytes"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.shard_prefix and safe_name(self.shard_prefix) != self.shard_prefix:
            raise UsageError(
                f"shard_prefix {self.shard_prefix!r} is not safe in file names; use only letters, "
                "digits and ._=@+-, and begin with none of . and _"
            )


@dataclass(frozen=True, slots=True)
class Shard:
    """One source file or folder.

    Attributes:
      uri: absolute path or URL.
      relative: path below the inputs' common folder; "" for that folder itself.
      fingerprint: when it was listed; rows are None.
      files: for folders, size and version of each file by relative path.
      problem: why it cannot be read, or None.
    """

    uri: str
    relative: str
    fingerprint: SourceFingerprint
    files: Mapping[str, SourceFingerprint] | None = None
    problem: str | None = None


@dataclass(frozen=True)
class InputPlan:
    """A source ready to be read.

    Attributes:
      items: the work, sorted by source and row; every row of the source is in exactly one.
      source: what every reader must know.
      description: one line: what the source is, and what was decided on the way.
    """

    items: tuple[WorkItem, ...]
    source: SourceConfig
    description: str


class Format(ABC):
    """One way to store rows: recognize it, plan it, read it, count it.

    Attributes:
      name: the format.
      label: what one shard is called in messages.
      suffixes: lower-case ends of file names that claim the format.
    """

    name: ClassVar[InputFormat]
    label: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def sniff(self, file: BinaryIO) -> bool:
        """Return whether an open file is of this format; its name does not count."""

    @abstractmethod
    def plan(self, shards: Sequence[Shard], options: ReadOptions) -> InputPlan:
        """Return the work items of shards, and their columns.

        Raises:
          UsageError: a column is missing or of a wrong type, or no shard can be read.
        """

    @abstractmethod
    def read(self, item: WorkItem, source: SourceConfig) -> Iterator[RowBatch]:
        """Yield the rows of an item in order, about `source.byte_budget` bytes a batch.

        Raises:
          Exception: the source is damaged, or is not the planned one; whatever its library raises.
        """

    @abstractmethod
    def count(self, item: WorkItem) -> int:
        """Return the number of rows an item has now, from the source alone; raises as `read`."""

    @abstractmethod
    def fingerprint(self, item: WorkItem) -> SourceFingerprint:
        """Return the fingerprint of an item's source as it is now; raises as `read`."""

    def describe(self, uri: str) -> str:
        """Return what a file of this format is, in words."""
        return self.label

    def claims(self, uri: str) -> bool:
        """Return whether a file's name claims the format; damaged files show nothing else."""
        return uri.partition("?")[0].lower().endswith(self.suffixes)


def missing_image(status: str | None, message: str | None, path: str | None = None) -> RowFailure:
    """Return the failure of a row without image bytes.

    Args:
      status: img2dataset's; `failed_to_download` and `failed_to_resize` are `FETCH_FAILED`.
      message: why, in the words of the downloader.
      path: where the source says the image is, if it says so.
    """
    if status is not None and status.startswith("failed"):
        return RowFailure(RowState.FETCH_FAILED, (message or status)[:_MAX_MESSAGE])
    where = f"; the source points at {path[:_MAX_MESSAGE]}" if path else ""
    return RowFailure(RowState.MISSING_IMAGE, f"no image bytes in the source{where}")


def problems_note(items: Sequence[WorkItem]) -> str:
    """Return "; N unreadable, first ...", or nothing."""
    bad = [item for item in items if item.problem is not None]
    return f"; {len(bad):,} unreadable, first {bad[0].uri}: {bad[0].problem}" if bad else ""


def _encode_schema(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize().to_pybytes()).decode("ascii")


def _decode_schema(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
