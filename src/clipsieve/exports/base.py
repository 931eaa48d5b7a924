"""What all formats of an export share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import Protocol

import pyarrow as pa

from clipsieve.exports.folder import ExportFolder
from clipsieve.exports.parts import Part
from clipsieve.exports.records import LEFT_OUT_SCHEMA, FileRecord
from clipsieve.exports.rows import KeptRows


class Reads(Flag):
    """What a format reads beside the subset."""

    NOTHING = 0
    COLUMNS = auto()  #: the view `scores`
    PICTURES = auto()  #: the sources
    EMBEDDINGS = auto()


@dataclass(slots=True)
class Written:
    """What was written of a part.

    Attributes:
      files: its files.
      rows: rows that are in them.
      left_out: rows that have no place in them, and why; `LEFT_OUT_SCHEMA`.
      notes: rows by something that the user should know of them.
    """

    files: list[FileRecord] = field(default_factory=list)
    rows: int = 0
    left_out: pa.Table = field(default_factory=LEFT_OUT_SCHEMA.empty_table)
    notes: Mapping[str, int] = field(default_factory=dict)


class Exporter(Protocol):
    """A format; frozen and picklable.

    Attributes:
      reads: what it reads beside the subset.
    """

    @property
    def reads(self) -> Reads: ...  # noqa: D102

    def parts(self, counts: Mapping[str, int]) -> tuple[Part, ...]:
        """Return what is written as one.

        Args:
          counts: kept rows of each shard, in name order.
        """
        ...

    def files(self, part: Part) -> Sequence[str]:
        """Return the names of all files of a part."""
        ...

    def write(self, part: Part, rows: KeptRows, folder: ExportFolder) -> Written:
        """Write the files of a part; the same part gives the same bytes."""
        ...


def left_out_rows(rows: pa.Table, reasons: Sequence[str | None]) -> pa.Table:
    """Return the rows that have a reason, as `LEFT_OUT_SCHEMA`.

    Args:
      rows: N rows with `uid`, `shard` and `row`.
      reasons: N reasons, None for rows that are not left out.
    """
    table = rows.select(["uid", "shard", "row"])
    table = table.append_column("reason", pa.array(reasons, pa.string()))
    return table.filter(table["reason"].is_valid()).cast(LEFT_OUT_SCHEMA)
