"""How much memory a row group can take, bounded before anything of it is decoded.

A few kB of Parquet can stand for gigabytes: a page of zeros under a codec, one long value to which
a dictionary or a prefix refers from every row, or a row whose list has a billion entries.  What
every page becomes is known from its header (`parquet_pages`); from that follows how many rows may
be decoded at once, and which columns must stay dictionaries, of which equal values are one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from clipsieve.formats.parquet_pages import (
    ChunkPages,
    ReadAt,
    count_references,
    measure_dictionary,
    read_pages,
)

# Pages in memory at once, one of each column and its dictionary.  Pages that take more must be
# honest: pictures and text are never a sixteenth of their size in the file.
_HELD_BYTES = 128 << 20
_HELD_RATIO = 16
# Copies of values that a page holds once, in the rows that are decoded at once.
_COPIED_BYTES = 64 << 20
# All values of a column with lists: they may be those of one row.
_REPEATED_BYTES = 512 << 20
# Values over this size are not copied to every row where that can be helped.
_SMALL_VALUE = 64 << 10
# A chunk of so few bytes in the file is not looked into where its codec cannot make more of them:
# a copy in Snappy's format gives 64 bytes for 3.
_MOST_UNFOLDED = {"UNCOMPRESSED": 1, "SNAPPY": 22}
#: Rows of one work item: about 1 kB of memory each before they are written.
MAX_ROWS = 1 << 20

_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}


@dataclass(frozen=True, slots=True)
class GroupBounds:
    """How a row group is read.

    Attributes:
      rows: most rows to decode at once.
      dictionaries: paths of columns to read as dictionaries.
      dictionary_bytes: of the dictionaries of those columns.
    """

    rows: int
    dictionaries: frozenset[str]
    dictionary_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Column:
    """A leaf column: its path, whether it is under a list, bytes of a value (0: they differ)."""

    path: str
    repeated: bool
    width: int
    levels: int
    chunk: Any
    pages: ChunkPages
    is_estimate: bool = False

    @property
    def copied(self) -> int:
        """Return the most bytes a value takes in a row beside what it takes in its page."""
        return self.width or self.pages.largest_copy

    def references(self, read_at: ReadAt) -> int | None:
        """Return how often rows refer to one value of the dictionary at most; None: unknown."""
        if self.width or self.repeated or not self.pages.dictionary:
            return None
        return count_references(read_at, self.chunk, self.pages, self.levels)

    def looked_into(self, read_at: ReadAt, within: int | None) -> "_Column":
        """Return the column with what its pages say in place of an estimate."""
        if not self.is_estimate:
            return self
        return replace(self, pages=read_pages(read_at, self.chunk, within), is_estimate=False)

    def measured(self, read_at: ReadAt) -> "_Column":
        """Return the column with the size of its largest value, where its values differ in size."""
        if self.width:
            return self
        return replace(self, pages=measure_dictionary(read_at, self.chunk, self.pages))


def bound_group(
    read_at: ReadAt,
    metadata: Any,
    group: int,
    rows: int,
    columns: Iterable[str] | None = None,
    within: int | None = None,
) -> GroupBounds:
    """Return how to read a row group in bounded memory.

    Args:
      read_at: reads the file.
      metadata: `pq.FileMetaData`.
      group: index of the row group.
      rows: how many to decode at once, if memory allows it.
      columns: names of the columns that will be read; None is all.
      within: look at the first so many bytes of each column chunk only.

    Raises:
      ValueError: it takes too much memory however it is read, or a page header is damaged.
    """
    names = None if columns is None else frozenset(columns)
    leaves = list(_columns(read_at, metadata, group, names, within))
    held = sum(leaf.pages.held for leaf in leaves)
    stored = sum(leaf.pages.stored for leaf in leaves)
    if held > max(_HELD_BYTES, _HELD_RATIO * stored):
        worst = max(leaves, key=lambda leaf: leaf.pages.held)
        raise ValueError(
            f"row group {group} unfolds {stored:,} bytes of pages to {held:,}, most of them in "
            f"column {worst.path!r}"
        )
    dictionaries: dict[str, int] = {}
    rows = min(rows, metadata.row_group(group).num_rows)
    if _is_large(leaves, rows):
        leaves = _without_single_copies(leaves, read_at)
    if _is_large(leaves, rows):
        leaves = [leaf.looked_into(read_at, within) for leaf in leaves]
    if _is_large(leaves, rows):
        leaves = [leaf.measured(read_at) for leaf in leaves]
        dictionaries = {
            leaf.path: leaf.pages.dictionary
            for leaf in leaves
            if not leaf.width and leaf.pages.all_dictionary and _is_copied_much(leaf)
        }
    for leaf in leaves:
        size = 4 if leaf.path in dictionaries else leaf.copied
        if leaf.repeated and leaf.pages.values * (size + 4) > _REPEATED_BYTES:
            raise ValueError(
                f"the lists of column {leaf.path!r} in row group {group} have "
                f"{leaf.pages.values:,} values of up to {size:,} bytes, too many to read; "
                "leave it out with --leave-out"
            )
        if leaf.width > _COPIED_BYTES:
            raise ValueError(f"column {leaf.path!r} has values of {leaf.width:,} bytes each")
    copied = sum(leaf.copied for leaf in leaves if leaf.path not in dictionaries)
    most = max(1, _COPIED_BYTES // max(1, copied))
    return GroupBounds(most, frozenset(dictionaries), sum(dictionaries.values()))


def _without_single_copies(leaves: Sequence[_Column], read_at: ReadAt) -> list[_Column]:
    """Return the columns; those whose values are in so few rows each that they count as no copies.

    A dictionary of values that are in one row each takes there what a page of them would.
    """
    left, counted = _COPIED_BYTES, list(leaves)
    for at in sorted(range(len(leaves)), key=lambda at: -leaves[at].copied):
        leaf = leaves[at]
        if leaf.pages.dictionary < _SMALL_VALUE:
            break  # not worth a look
        references = leaf.references(read_at)
        if references is None:
            continue
        size = references * leaf.pages.dictionary if references > 1 else 0
        if size <= left:
            left -= size
            counted[at] = replace(leaf, pages=replace(leaf.pages, largest_copy=0))
    return counted


def _is_copied_much(leaf: _Column) -> bool:
    """Return whether the values of a column are better kept in their dictionary."""
    in_lists = leaf.repeated and leaf.pages.values * (leaf.copied + 4) > _REPEATED_BYTES
    return in_lists or leaf.copied > _SMALL_VALUE


def _is_large(leaves: Sequence[_Column], rows: int) -> bool:
    """Return whether rows or lists copy too much if a value is as large as its dictionary."""
    return sum(leaf.copied for leaf in leaves) * rows > _COPIED_BYTES or any(
        leaf.repeated and leaf.pages.values * (leaf.copied + 4) > _REPEATED_BYTES for leaf in leaves
    )


def _columns(
    read_at: ReadAt, metadata: Any, group: int, names: frozenset[str] | None, within: int | None
) -> Iterable[_Column]:
    row_group, schema = metadata.row_group(group), metadata.schema
    for index in range(metadata.num_columns):
        chunk, column = row_group.column(index), schema.column(index)
        path, kind = chunk.path_in_schema, chunk.physical_type
        if names is not None and not _is_under(path, names):
            continue
        width = column.length if kind == "FIXED_LEN_BYTE_ARRAY" else _WIDTHS.get(kind, 0)
        repeated, levels = column.max_repetition_level > 0, column.max_definition_level
        estimate = None if repeated else _estimate(chunk)
        pages = estimate or read_pages(read_at, chunk, within)
        yield _Column(path, repeated, width, levels, chunk, pages, estimate is not None)


def _estimate(chunk: Any) -> ChunkPages | None:
    """Return what the pages of a small chunk are at most, whatever they say; None for others."""
    stored = chunk.total_compressed_size
    most = stored * _MOST_UNFOLDED.get(chunk.compression, _SMALL_VALUE)
    if not 0 < most <= _SMALL_VALUE:
        return None
    return ChunkPages(most, most, chunk.num_values, 0, False, most)


def _is_under(path: str, names: frozenset[str]) -> bool:
    """Return whether a leaf's path is one of the names, or below one."""
    parts = path.split(".")
    return any(".".join(parts[:length]) in names for length in range(1, len(parts) + 1))
