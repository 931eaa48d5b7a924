"""What a user may say about how a source is read."""

from dataclasses import dataclass

from clipsieve.errors import UsageError
from clipsieve.read.items import InputFormat
from clipsieve.read.names import safe_name

#: As an input format: look at the content.
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to read a source; what is None is found by looking.

    Attributes:
      input_format: "parquet", "webdataset", "folder", or "auto" to look at the content.
      image_col: column, or in tars the member extension, of the image.
      caption_col: column of the caption; "none" if there are no captions.
      uid_col: column of the uid; by default `uid` in any case of letters, if there is one.
      references_col: column of reference captions.
      byte_budget: about how many bytes of images one batch holds.
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
    rows_per_item: int = 50_000
    shard_prefix: str = ""

    def __post_init__(self) -> None:
        """Refuse values that no source can be read with."""
        formats = [AUTO, *InputFormat]
        if self.input_format not in formats:
            raise UsageError(
                f"input_format must be one of {', '.join(formats)}, got {self.input_format!r}"
            )
        for name in ("byte_budget", "rows_per_item"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.shard_prefix and safe_name(self.shard_prefix) != self.shard_prefix:
            raise UsageError(
                f"shard_prefix {self.shard_prefix!r} is not safe in file names; use only letters, "
                "digits and ._=@+-, and begin with none of . and _"
            )
