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
# So many bytes of such chunks in a row group are not looked into.
_SMALL_CHUNKS = 16 << 20
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
class _Leaf:
    """A leaf column of a schema.

    Attributes:
      index: its position.
      path: its name, below those of what it is in.
      repeated: whether it is under a list.
      width: bytes of a value; 0 if they differ.
      levels: largest definition level.
    """

    index: int
    path: str
    repeated: bool
    width: int
    levels: int


@dataclass(frozen=True, slots=True)
class _Column:
    """A leaf column of a row group, and what its pages say."""

    leaf: _Leaf
    chunk: Any
    pages: ChunkPages

    @property
    def path(self) -> str:
        """Return the path of the leaf."""
        return self.leaf.path

    @property
    def repeated(self) -> bool:
        """Return whether the leaf is under a list."""
        return self.leaf.repeated

    @property
    def width(self) -> int:
        """Return the bytes of a value; 0 if they differ."""
        return self.leaf.width

    @property
    def copied(self) -> int:
        """Return the most bytes a value takes in a row beside what it takes in its page."""
        return self.width or self.pages.largest_copy

    def references(self, read_at: ReadAt) -> int | None:
        """Return how often rows refer to one value of the dictionary at most; None: unknown."""
        if self.width or self.repeated or not self.pages.dictionary:
            return None
        return count_references(read_at, self.chunk, self.pages, self.leaf.levels)

    def measured(self, read_at: ReadAt) -> "_Column":
        """Return the column with the size of its largest value, where its values differ in size."""
        if self.width:
            return self
        return replace(self, pages=measure_dictionary(read_at, self.chunk, self.pages))


class FileBounds:
    """Tells of each row group of a file how it is read in bounded memory."""

    def __init__(
        self,
        read_at: ReadAt,
        metadata: Any,
        columns: Iterable[str] | None = None,
        within: int | None = None,
    ) -> None:
        """Look at a file.

        Args:
          read_at: reads the file.
          metadata: `pq.FileMetaData`.
          columns: names of the columns that will be read; None is all.
          within: look at the first so many bytes of each column chunk only.
        """
        self._read_at, self._metadata, self._within = read_at, metadata, within
        names = None if columns is None else frozenset(columns)
        self._leaves = list(_leaves(metadata.schema, names))

    def bound(self, group: int, rows: int) -> GroupBounds:
        """Return how to read a row group.

        Args:
          group: its index.
          rows: how many to decode at once, if memory allows it.

        Raises:
          ValueError: it takes too much memory however it is read, or a page header is damaged.
        """
        row_group = self._metadata.row_group(group)
        rows = min(rows, row_group.num_rows)
        columns: list[_Column] = []
        small: list[tuple[_Leaf, Any]] = []
        held = copied = 0
        for leaf in self._leaves:
            chunk = row_group.column(leaf.index)
            most = 0 if leaf.repeated else _most_unfolded(chunk)
            if most:
                small.append((leaf, chunk))
                held += most
                copied += leaf.width or most
            else:
                columns.append(self._read(leaf, chunk))
        if _is_large(columns, rows, copied):
            columns = _without_single_copies(columns, self._read_at)
        if small and (held > _SMALL_CHUNKS or _is_large(columns, rows, copied)):
            columns += [self._read(leaf, chunk) for leaf, chunk in small]
            copied = 0
        return _bound(columns, self._read_at, group, rows, copied)

    def _read(self, leaf: _Leaf, chunk: Any) -> _Column:
        return _Column(leaf, chunk, read_pages(self._read_at, chunk, self._within))


def _bound(
    leaves: list[_Column], read_at: ReadAt, group: int, rows: int, copied_by_others: int
) -> GroupBounds:
    """Return how to read a row group of these columns, and others with small values."""
    held = sum(leaf.pages.held for leaf in leaves)
    stored = sum(leaf.pages.stored for leaf in leaves)
    if held > max(_HELD_BYTES, _HELD_RATIO * stored):
        worst = max(leaves, key=lambda leaf: leaf.pages.held)
        raise ValueError(
            f"row group {group} unfolds {stored:,} bytes of pages to {held:,}, most of them in "
            f"column {worst.path!r}"
        )
    dictionaries: dict[str, int] = {}
    if _is_large(leaves, rows, copied_by_others):
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
    copied += copied_by_others
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


def _is_large(leaves: Sequence[_Column], rows: int, copied_by_others: int) -> bool:
    """Return whether rows or lists copy too much if a value is as large as its dictionary."""
    copied = sum(leaf.copied for leaf in leaves) + copied_by_others
    return copied * rows > _COPIED_BYTES or any(
        leaf.repeated and leaf.pages.values * (leaf.copied + 4) > _REPEATED_BYTES for leaf in leaves
    )


def _leaves(schema: Any, names: frozenset[str] | None) -> Iterable[_Leaf]:
    """Yield the leaf columns of a schema that are below `names`."""
    for index in range(len(schema)):
        column = schema.column(index)
        path, kind = column.path, column.physical_type
        if names is not None and not _is_under(path, names):
            continue
        width = column.length if kind == "FIXED_LEN_BYTE_ARRAY" else _WIDTHS.get(kind, 0)
        repeated, levels = column.max_repetition_level > 0, column.max_definition_level
        yield _Leaf(index, path, repeated, width, levels)


def _most_unfolded(chunk: Any) -> int:
    """Return what the pages of a small chunk take at most, whatever they say; 0 for others."""
    stored: int = chunk.total_compressed_size
    if not 0 < stored <= _SMALL_VALUE:
        return 0
    most = stored * _MOST_UNFOLDED.get(chunk.compression, _SMALL_VALUE + 1)
    return most if most <= _SMALL_VALUE else 0


def _is_under(path: str, names: frozenset[str]) -> bool:
    """Return whether a leaf's path is one of the names, or below one."""
    parts = path.split(".")
    return any(".".join(parts[:length]) in names for length in range(1, len(parts) + 1))
