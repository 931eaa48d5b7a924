"""Plain uids: a text file, one a line, in the order of the ledger."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from clipsieve.errors import UsageError
from clipsieve.exports.base import Reads, Written
from clipsieve.exports.folder import ExportFolder
from clipsieve.exports.parts import Part, one_part
from clipsieve.exports.rows import KeptRows


@dataclass(frozen=True, slots=True)
class Uids:
    """The format `uids`.

    Attributes:
      file: name of the file.
    """

    file: str = "uids.txt"
    reads = Reads.NOTHING

    def parts(self, counts: Mapping[str, int]) -> tuple[Part, ...]:
        """Return one part."""
        return one_part("uids", counts)

    def files(self, part: Part) -> Sequence[str]:
        """Return the one file."""
        return (self.file,)

    def write(self, part: Part, rows: KeptRows, folder: ExportFolder) -> Written:
        """Write the file, shard by shard in name order, rows in source order; UTF-8."""
        written = Written(rows=part.rows)
        with folder.writing(self.file, written.files) as file, open(file.path, "wb") as output:
            file.rows = part.rows
            for span in part.spans:
                try:
                    output.write(uid_lines(rows.uids(span)))
                except ValueError:
                    _refuse(rows.kept(span))
        return written


def uid_lines(uids: pa.Array) -> pa.Buffer:
    """Return uids as UTF-8, each with a line feed behind it.

    Args:
      uids: N uids of any type; what is no text is written as text.

    Raises:
      ValueError: if one is NULL or has a line break in it.
    """
    texts = uids.cast(pa.large_string())
    if pc.any(_are_no_lines(texts)).as_py():
        raise ValueError("a uid is NULL or has a line break")
    ending, separator = (pa.scalar(text, texts.type) for text in ("\n", ""))
    lines = pc.binary_join_element_wise(texts, ending, separator)
    return pa.py_buffer(b"") if not len(lines) else _characters(lines)


def _are_no_lines(texts: pa.Array) -> pa.Array:
    return pc.fill_null(pc.match_substring_regex(texts, "[\n\r]"), True)


def _refuse(kept: pa.Table) -> None:
    """Raise for the first uid that is NULL or has a line break in it; names the row.

    Raises:
      UsageError: with the cure.
    """
    uids = kept["uid"].combine_chunks().cast(pa.large_string())
    at = _are_no_lines(uids).index(True).as_py()
    shard, row = kept["shard"][at].as_py(), kept["row"][at].as_py()
    raise UsageError(
        f"uid {str(uids[at].as_py())[:80]!r} of shard {shard}, row {row} cannot be a line of text; "
        "export with --format parquet"
    )


def _characters(texts: pa.Array) -> pa.Buffer:
    """Return the bytes of all texts, one behind the other."""
    _, offsets, data = texts.buffers()
    starts = memoryview(offsets).cast("q")
    first, last = starts[texts.offset], starts[texts.offset + len(texts)]
    return data.slice(first, last - first)
