"""Find the pages of a Parquet file, and damage them so that their checksums still fit."""

import io
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.faults import mutate

_STOP, _TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE = range(8)
_BINARY, _LIST, _SET, _MAP, _STRUCT = range(8, 13)
#: Numbers of fields of a page header.
_UNCOMPRESSED, _COMPRESSED, _CRC = 2, 3, 4


@dataclass(frozen=True)
class Page:
    """Where a page lies, and where the numbers of its header do: value, start, end."""

    start: int
    body: int
    end: int
    numbers: dict[int, tuple[int, int, int]]


def pages(data: bytes) -> Iterator[Page]:
    """Walk the pages of a sound file."""
    metadata = pq.read_metadata(io.BytesIO(data))
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            at = chunk.data_page_offset
            if chunk.has_dictionary_page and chunk.dictionary_page_offset:
                at = min(at, chunk.dictionary_page_offset)
            end = at + chunk.total_compressed_size
            while at < end:
                numbers, body = _struct(data, at)
                page = Page(at, body, body + numbers[_COMPRESSED][0], numbers)
                yield page
                at = page.end


def mutated(rng: random.Random) -> tuple[str, bytes]:
    """Return what was done, and a damaged file of 20 rows with pictures and captions."""
    how = rng.choice(tuple(_WAYS))
    data = bytearray(base(rng, checksums=how != "page without checksum"))
    _WAYS[how](data, rng)
    return how, bytes(data)


def base(rng: random.Random, checksums: bool) -> bytes:
    """Return a sound file, written in one of many ways."""
    from tests.faults.pictures import sound

    pictures = sound()
    table = pa.table(
        {
            "uid": [f"{rng.getrandbits(64):016x}" for _ in range(20)],
            "jpg": [rng.choice(pictures) for _ in range(20)],
            "caption": [rng.choice(("a red square", "two cats", "ünïcode", "")) for _ in range(20)],
            "width": pa.array(range(20), pa.int32()),
            "tags": pa.array([["a", "b"][: n % 3] for n in range(20)], pa.list_(pa.string())),
        }
    )
    file = io.BytesIO()
    pq.write_table(
        table,
        file,
        compression=rng.choice(("none", "none", "snappy", "zstd", "gzip", "lz4", "brotli")),
        use_dictionary=rng.random() < 0.7,
        data_page_version=rng.choice(("1.0", "2.0")),
        row_group_size=rng.choice((7, 20)),
        write_page_checksum=checksums,
        write_page_index=rng.random() < 0.3,
        store_schema=rng.random() < 0.7,
    )
    return file.getvalue()


def _damage_page(data: bytearray, rng: random.Random) -> None:
    """Damage the body of a page and give it the checksum of what it is now."""
    found = [page for page in pages(bytes(data)) if page.end > page.body]
    for _ in range(50):
        page = rng.choice(found)
        body = data[page.body : page.end]
        rng.choice((mutate.flip, mutate.flip_many, mutate.zero, mutate.noise, mutate.extreme))(
            body, rng
        )
        if len(body) != page.end - page.body:
            continue
        if _CRC not in page.numbers:
            data[page.body : page.end] = body
            return
        _, start, end = page.numbers[_CRC]
        crc = zlib.crc32(body)
        encoded = _varint(_zigzag(crc - (1 << 32) if crc >> 31 else crc))
        if len(encoded) == end - start:
            data[page.body : page.end] = body
            data[start:end] = encoded
            return


def _damage_header(data: bytearray, rng: random.Random) -> None:
    """Damage the header of a page."""
    page = rng.choice(list(pages(bytes(data))))
    data[rng.randrange(page.start, page.body)] ^= 1 << rng.randrange(8)


def _lie_about_sizes(data: bytearray, rng: random.Random) -> None:
    """Write another size into the header of a page, in as many bytes."""
    page = rng.choice(list(pages(bytes(data))))
    _, start, end = page.numbers[rng.choice((_UNCOMPRESSED, _COMPRESSED))]
    size = end - start
    low, high = (0, 1 << 7) if size == 1 else (1 << (7 * (size - 1)), 1 << (7 * size))
    data[start:end] = _varint(rng.randrange(low, high) & ~1)


def _damage_footer(data: bytearray, rng: random.Random) -> None:
    """Flip bits of the footer."""
    length = int.from_bytes(data[-8:-4], "little")
    for _ in range(rng.choice((1, 1, 3))):
        data[rng.randrange(len(data) - 8 - length, len(data) - 8)] ^= 1 << rng.randrange(8)


def _lie_about_footer(data: bytearray, rng: random.Random) -> None:
    """Write another length of the footer."""
    data[-8:-4] = rng.choice((0, 1, 7, 0x7FFFFFFF, 0xFFFFFFFF, rng.getrandbits(20))).to_bytes(
        4, "little"
    )


def _anything(data: bytearray, rng: random.Random) -> None:
    data[:] = mutate.mutate(bytes(data), rng)


_WAYS = {
    "page with a valid checksum": _damage_page,
    "page without checksum": _damage_page,
    "page header": _damage_header,
    "page sizes": _lie_about_sizes,
    "footer": _damage_footer,
    "footer length": _lie_about_footer,
    "anything": _anything,
}


def _struct(data: bytes, at: int) -> tuple[dict[int, tuple[int, int, int]], int]:
    """Read a struct in Thrift's compact protocol: its i32 fields, and where it ends."""
    numbers: dict[int, tuple[int, int, int]] = {}
    field = 0
    while data[at] != _STOP:
        kind, delta = data[at] & 15, data[at] >> 4
        at += 1
        if delta:
            field += delta
        else:
            number, at = _read_varint(data, at)
            field = (number >> 1) ^ -(number & 1)
        start = at
        at = _skip(data, at, kind)
        if kind == _I32:
            number, _ = _read_varint(data, start)
            numbers[field] = ((number >> 1) ^ -(number & 1), start, at)
    return numbers, at + 1


def _skip(data: bytes, at: int, kind: int) -> int:
    """Return where a value ends."""
    if kind in (_TRUE, _FALSE):
        return at
    if kind == _BYTE:
        return at + 1
    if kind in (_I16, _I32, _I64):
        return _read_varint(data, at)[1]
    if kind == _DOUBLE:
        return at + 8
    if kind == _BINARY:
        length, at = _read_varint(data, at)
        return at + length
    if kind in (_LIST, _SET):
        count, item = data[at] >> 4, data[at] & 15
        at += 1
        if count == 15:
            count, at = _read_varint(data, at)
        for _ in range(count):
            at = at + 1 if item in (_TRUE, _FALSE) else _skip(data, at, item)
        return at
    if kind == _STRUCT:
        return _struct(data, at)[1]
    raise ValueError(f"type {kind} at byte {at} is not in page headers")


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return value, at


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


def _zigzag(value: int) -> int:
    return (value << 1) ^ (value >> 31)


def rewritten(data: bytes, change: dict[str, Any]) -> bytes:
    """Return a Parquet file with other key-value metadata, checksums valid."""
    table = pq.read_table(io.BytesIO(data))
    metadata = dict(table.schema.metadata or {})
    metadata.update({k.encode(): v for k, v in change.items()})
    file = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), file, write_page_checksum=True)
    return file.getvalue()
