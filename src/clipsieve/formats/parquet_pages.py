"""Page headers of Parquet column chunks: how large each page becomes, before any is decoded.

The footer only claims sizes.  What Arrow allocates for a page is in the page's own header, which
Arrow compares with what the codec gives; a chunk's compressed size bounds what it reads.  Headers
are structs in Thrift's compact protocol (parquet.thrift, `PageHeader`).
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

#: Returns up to so many bytes from an offset of the file.
ReadAt = Callable[[int, int], bytes]

_DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2 = 0, 2, 3
_PLAIN_DICTIONARY, _DELTA_BYTE_ARRAY, _RLE_DICTIONARY = 2, 7, 8

_HEADER_GUESS = 512
_MAX_HEADER = 16 << 20  # Arrow's own limit
_MAX_DEPTH = 8
_RLE = 3
# More bytes of indices are not counted: decoding them would take longer than the dictionary.
_MAX_COUNTED_INDICES = 1 << 16
# A larger dictionary is not looked into: its size stands for that of its largest value.
_MAX_MEASURED_DICTIONARY = 32 << 20


@dataclass(frozen=True, slots=True)
class ChunkPages:
    """What the pages of one column chunk say.

    Attributes:
      held: bytes that its largest data page and its dictionary page take together.
      stored: bytes of those two in the file.
      values: values in all data pages, NULL and empty lists among them.
      dictionary: bytes of the dictionary page, 0 without one.
      all_dictionary: every data page refers to the dictionary.
      largest_copy: most bytes that one value can take of which its page holds only a reference:
        an index into the dictionary, or a prefix of the value before.
      dictionary_page: header of the dictionary page, None without one.
      index_pages: headers of the data pages that refer to the dictionary; None if they cannot be
        counted: not all pages were looked at, or values are kept in a form that copies others.
    """

    held: int
    stored: int
    values: int
    dictionary: int
    all_dictionary: bool
    largest_copy: int
    dictionary_page: "PageHeader | None" = None
    index_pages: "tuple[PageHeader, ...] | None" = None


@dataclass(frozen=True, slots=True)
class PageHeader:
    """The header of a page: sizes as they are in memory and in the file, and where it begins."""

    kind: int
    plain_size: int
    stored_size: int
    values: int
    encoding: int
    body: int
    level_encoding: int | None = None


def read_pages(read_at: ReadAt, chunk: Any, within: int | None = None) -> ChunkPages:
    """Read the page headers of a column chunk.

    Args:
      read_at: reads the file.
      chunk: `pq.ColumnChunkMetaData`.
      within: look no further than so many bytes into the chunk; None is to its end.

    Raises:
      ValueError: a header is damaged.
    """
    first = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < (chunk.dictionary_page_offset or 0) < first:
        first = chunk.dictionary_page_offset
    position, end = first, first + chunk.total_compressed_size
    values = largest_copy = page_size = page_stored = 0
    dictionary_page: PageHeader | None = None
    all_dictionary = is_countable = True
    index_pages: list[PageHeader] = []
    while position < end and values < chunk.num_values:
        if within is not None and position - first > within:
            all_dictionary, values = False, max(values, chunk.num_values)
            is_countable = False
            break
        page = _read_header(read_at, position, end)
        if page.kind == _DICTIONARY_PAGE:
            if dictionary_page is None or page.plain_size > dictionary_page.plain_size:
                dictionary_page = page
            largest_copy = max(largest_copy, page.plain_size)
        elif page.kind in (_DATA_PAGE, _DATA_PAGE_V2):
            values += page.values
            if page.plain_size > page_size:
                page_size, page_stored = page.plain_size, page.stored_size
            if page.encoding in (_PLAIN_DICTIONARY, _RLE_DICTIONARY):
                index_pages.append(page)
            else:
                all_dictionary = False
            if page.encoding == _DELTA_BYTE_ARRAY:
                is_countable = False
                largest_copy = max(largest_copy, page.plain_size)
        position = page.body + page.stored_size
    dictionary = 0 if dictionary_page is None else dictionary_page.plain_size
    return ChunkPages(
        held=dictionary + page_size,
        stored=(0 if dictionary_page is None else dictionary_page.stored_size) + page_stored,
        values=values,
        dictionary=dictionary,
        all_dictionary=all_dictionary and dictionary > 0,
        largest_copy=largest_copy,
        dictionary_page=dictionary_page,
        index_pages=tuple(index_pages) if is_countable else None,
    )


def measure_dictionary(read_at: ReadAt, chunk: Any, pages: ChunkPages) -> ChunkPages:
    """Return the pages of a chunk of byte arrays with the size of its dictionary's largest value.

    Before, the size of the whole dictionary stands for it.

    Args:
      read_at: reads the file.
      chunk: `pq.ColumnChunkMetaData`.
      pages: of the chunk.
    """
    page = pages.dictionary_page
    if page is None or pages.largest_copy > page.plain_size:
        return pages
    return replace(pages, largest_copy=_largest_value(read_at, page, chunk.compression))


def count_references(read_at: ReadAt, chunk: Any, pages: ChunkPages, levels: int) -> int | None:
    """Return how often the data pages refer to one value of the dictionary at most.

    So many times the dictionary is the most that its values can take in all rows.  For pictures it
    is about once, which the few bytes of the indices tell without a look at the dictionary.

    Args:
      read_at: reads the file.
      chunk: `pq.ColumnChunkMetaData`, of a column that is under no list.
      pages: of the chunk.
      levels: largest definition level of the column.

    Returns:
      The number; None if it is not known: pages of another kind than usual, or too many indices.
    """
    index_pages = pages.index_pages
    if index_pages is None or sum(p.plain_size for p in index_pages) > _MAX_COUNTED_INDICES:
        return None
    parts = [np.empty(0, np.int64)]
    try:
        for page in index_pages:
            if page.kind != _DATA_PAGE or (levels and page.level_encoding != _RLE):
                return None
            parts.append(_indices(_plain_bytes(read_at, page, chunk.compression), page, levels))
    except (pa.ArrowException, OSError, ValueError, IndexError, struct.error):
        return None  # a codec that only Arrow's reader knows, or damage it will name
    indices = np.sort(np.concatenate(parts))
    is_repeated = indices[1:] == indices[:-1]
    if not is_repeated.any():
        return min(len(indices), 1)
    ends = np.flatnonzero(~is_repeated) + 1
    return int(np.diff(ends, prepend=0, append=len(indices)).max())


def _indices(data: bytes, page: PageHeader, levels: int) -> np.ndarray:
    """Return the dictionary index of each value in a data page that is not NULL."""
    count, position = page.values, 0
    if levels:
        (length,) = struct.unpack_from("<I", data)
        position = 4 + length
        defined = decode_hybrid(data[4:position], levels.bit_length(), count)
        count = int(np.count_nonzero(defined == levels))
    return decode_hybrid(data[position + 1 :], data[position], count)


def decode_hybrid(data: bytes, width: int, count: int) -> np.ndarray:
    """Return (count,) int64: numbers of `width` bits in Parquet's hybrid of runs and packed groups.

    >>> decode_hybrid(bytes([6, 1, 3, 0b11_10_01_00, 0b00_00_00_01]), 2, 8).tolist()
    [1, 1, 1, 0, 1, 2, 3, 1]

    Raises:
      ValueError: there are fewer.
      IndexError: likewise.
    """
    if not 0 <= width <= 32:
        raise ValueError(f"numbers of {width} bits")
    runs: list[np.ndarray] = []
    position = decoded = 0
    while decoded < count:
        header, position = _read_varint(data, position)
        if header & 1:
            end = position + (header >> 1) * width
            bits = np.frombuffer(data[position:end], np.uint8)
            bits = np.unpackbits(bits, bitorder="little") if width else np.empty(0, np.uint8)
            packed = bits[: len(bits) // max(1, width) * width].reshape(-1, max(1, width))
            run = packed.astype(np.int64) @ (1 << np.arange(max(1, width), dtype=np.int64))
            if not width:
                run = np.zeros(min(count - decoded, (header >> 1) * 8), np.int64)
        else:
            end = position + (width + 7) // 8
            value = int.from_bytes(data[position:end], "little")
            run = np.full(min(count - decoded, header >> 1), value, np.int64)
        if end > len(data) or not len(run):
            raise ValueError("a page has fewer values than its header says")
        position = end
        runs.append(run)
        decoded += len(run)
    if len(runs) == 1:
        return runs[0][:count]
    return np.concatenate([np.empty(0, np.int64), *runs])[:count]


def _read_header(read_at: ReadAt, position: int, end: int) -> PageHeader:
    size = _HEADER_GUESS
    while True:
        data = read_at(position, size)
        try:
            fields, length = _read_struct(data, 0, 0)
            break
        except IndexError as error:  # the header is longer than what was read
            if len(data) < size or size >= _MAX_HEADER:
                raise ValueError(f"the page header at byte {position:,} is damaged") from error
            size *= 8
    kind = fields.get(1)
    is_second_version = kind == _DATA_PAGE_V2
    number = {_DATA_PAGE: 5, _DICTIONARY_PAGE: 7}.get(kind, 8) if isinstance(kind, int) else 8
    details = fields.get(number, {})
    if not isinstance(details, dict):
        details = {}
    values, encoding = details.get(1, 0), details.get(4 if is_second_version else 2, 0)
    numbers = [kind, fields.get(2), fields.get(3), values, encoding]
    sizes = [number for number in numbers if isinstance(number, int) and number >= 0]
    if len(sizes) < len(numbers):
        raise ValueError(f"the page header at byte {position:,} is damaged")
    kind, plain_size, stored_size, values, encoding = sizes
    body = position + length
    if body + stored_size > end + 128:  # some old writers left the header out of the chunk's size
        raise ValueError(f"the page at byte {position:,} is longer than its column chunk")
    level_encoding = None if is_second_version else details.get(3)
    return PageHeader(kind, plain_size, stored_size, values, encoding, body, level_encoding)


def _largest_value(read_at: ReadAt, page: PageHeader, compression: str) -> int:
    """Return the bytes of the largest value in a dictionary page of byte arrays, or a bound."""
    if page.plain_size > _MAX_MEASURED_DICTIONARY:
        return page.plain_size
    try:
        data = _plain_bytes(read_at, page, compression)
    except (pa.ArrowException, OSError, ValueError):
        return page.plain_size  # a codec that only Arrow's reader knows, or damage it will name
    largest = position = 0
    read_length = struct.Struct("<I").unpack_from
    while position + 4 <= len(data):
        (length,) = read_length(data, position)
        largest = max(largest, length)
        position += 4 + length
    return min(largest, page.plain_size)


def _plain_bytes(read_at: ReadAt, page: PageHeader, compression: str) -> bytes:
    """Return what a page unfolds to; raises what the codec does."""
    data = read_at(page.body, page.stored_size)
    if compression in ("UNCOMPRESSED", "NONE"):
        return data
    # Of the two codecs that pyarrow calls LZ4 this is the one in use.  A page of Hadoop's is none
    # of this: its first bytes, the plain size, would refer to output before the first.
    codec = pa.Codec({"LZ4": "lz4_raw"}.get(compression, compression.lower()))
    plain: bytes = codec.decompress(data, page.plain_size, asbytes=True)
    return plain


def _read_struct(data: bytes, position: int, depth: int) -> tuple[dict[int, Any], int]:
    """Return field number -> value of a struct, and the position behind it."""
    if depth > _MAX_DEPTH:
        raise ValueError("a page header is nested too deeply")
    fields: dict[int, Any] = {}
    number = 0
    while byte := data[position]:
        position += 1
        if byte >> 4:
            number += byte >> 4
        else:
            number, position = _read_integer(data, position)
        fields[number], position = _read_value(data, position, byte & 15, depth)
    return fields, position + 1


def _read_value(data: bytes, position: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):  # true, false
        return kind == 1, position
    if kind == 3:  # byte
        return data[position], position + 1
    if kind in (4, 5, 6):
        return _read_integer(data, position)
    if kind == 7:  # double
        return None, position + 8
    if kind == 8:  # bytes
        length, position = _read_varint(data, position)
        return None, position + length
    if kind in (9, 10):  # list, set
        byte = data[position]
        position += 1
        count = byte >> 4
        if count == 15:
            count, position = _read_varint(data, position)
        if count > len(data) - position:  # an element takes a byte at least
            raise IndexError
        for _ in range(count):
            width = 1 if byte & 15 in (1, 2) else 0
            _, position = _read_value(data, position, byte & 15, depth + 1)
            position += width
        return None, position
    if kind == 12:
        return _read_struct(data, position, depth + 1)
    raise ValueError(f"a page header has a field of unknown kind {kind}")


def _read_integer(data: bytes, position: int) -> tuple[int, int]:
    number, position = _read_varint(data, position)
    return (number >> 1) ^ -(number & 1), position


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, position
        shift += 7
        if shift > 63:
            raise ValueError("a page header has a number of more than 64 bits")
