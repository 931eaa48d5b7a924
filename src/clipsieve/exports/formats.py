"""The formats of an export by name, and the settings each takes."""

from dataclasses import dataclass
from pathlib import Path

from clipsieve.errors import UsageError
from clipsieve.exports.base import Exporter
from clipsieve.exports.clip_retrieval import ClipRetrieval
from clipsieve.exports.folder import ExportFolder
from clipsieve.exports.npy import Npy
from clipsieve.exports.parquet import ParquetFiles
from clipsieve.exports.tars import Tars
from clipsieve.exports.uids import Uids

FORMATS = ("npy", "parquet", "tars", "clip-retrieval", "uids")
SAMPLES_PER_TAR = 10_000
#: How the name of the only file of a format ends.
_ENDINGS = {"npy": ".npy", "uids": ".txt"}
#: Endings of names that are meant as files.
_FILE_ENDINGS = (".npy", ".txt", ".tar", ".parquet", ".json", ".csv", ".tsv", ".gz", ".zip")


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """What is exported, as what, and where to.

    Attributes:
      subset: its name.
      format: one of `FORMATS`.
      to: a folder that is new, empty, or of the same export; for `npy` and `uids`
        also the name of a file that ends in `.npy` or `.txt`.
      with_images: for `parquet`: whether the pictures are a column.
      samples_per_tar: for `tars`: kept rows a tar; None is 10,000.
    """

    subset: str
    format: str
    to: str
    with_images: bool = False
    samples_per_tar: int | None = None

    def __post_init__(self) -> None:
        """Refuse settings that the format does not take.

        Raises:
          UsageError: for one of them.
        """
        if self.format not in FORMATS:
            raise UsageError(f"format must be one of {', '.join(FORMATS)}, got {self.format!r}")
        if self.with_images and self.format != "parquet":
            raise UsageError(
                f"with_images is for the format parquet, not {self.format}; tars always have them"
            )
        self._check_to()
        samples = self.samples_per_tar
        if samples is None:
            return
        if self.format != "tars":
            raise UsageError(f"samples_per_tar is for the format tars, not {self.format}")
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise UsageError(f"samples_per_tar must be an integer of at least 1, got {samples!r}")

    def _check_to(self) -> None:
        """Refuse the name of a file for what is a folder; one with `/` behind it is a folder's."""
        if self.is_file or not self.to.lower().endswith(_FILE_ENDINGS):
            return
        cure = f"a folder, such as {Path(self.to).with_suffix('')}"
        if self.format in _ENDINGS:
            cure = f"a file that ends in {_ENDINGS[self.format]}, or {cure}"
        raise UsageError(f"to is {self.to}, and {self.format} cannot be that file; name {cure}")

    @property
    def is_file(self) -> bool:
        """Whether `to` names the one file of the export."""
        return self.format in _ENDINGS and self.to.endswith(_ENDINGS[self.format])

    def exporter(self) -> Exporter:
        """Return the format."""
        if self.format == "npy":
            return Npy(Path(self.to).name) if self.is_file else Npy()
        if self.format == "parquet":
            return ParquetFiles(self.with_images)
        if self.format == "tars":
            return Tars(self.samples_per_tar or SAMPLES_PER_TAR)
        if self.format == "clip-retrieval":
            return ClipRetrieval()
        return Uids(Path(self.to).name) if self.is_file else Uids()

    def folder(self) -> ExportFolder:
        """Return where it is written.

        Raises:
          UsageError: if `to` is empty or a URL.
        """
        if not self.is_file:
            return ExportFolder(self.to)
        head = self.to.rpartition("/")[0]
        return ExportFolder(head or ("/" if self.to.startswith("/") else "."), Path(self.to).name)
