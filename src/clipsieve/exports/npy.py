"""DataComp's subset file: uids as sorted pairs of 64-bit integers in one `.npy`.

A uid of 32 hexadecimal digits is the pair (int(uid[:16], 16), int(uid[16:32], 16)); the file is the
sorted array of type "u8,u8" as `np.save` writes it, duplicates included.  Gadre et al. 2023,
"DataComp", and its resharder, which looks uids up in it.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipsieve.errors import UsageError
from clipsieve.exports.base import Reads, Written
from clipsieve.exports.folder import ExportFolder
from clipsieve.exports.parts import Part, one_part
from clipsieve.exports.rows import KeptRows

PAIRS = np.dtype("u8,u8")
_DIGITS = 32
#: Rows parsed at once: their digits stay in a core's cache.
_BLOCK = 4096
#: Rows compared or written at once.
_STEP = 1 << 20
_READERS = 4


@dataclass(frozen=True, slots=True)
class Npy:
    """The format `npy`.

    Attributes:
      file: name of the file.
    """

    file: str = "subset.npy"
    reads = Reads.NOTHING

    def parts(self, counts: Mapping[str, int]) -> tuple[Part, ...]:
        """Return one part: the file is sorted as a whole."""
        return one_part("npy", counts)

    def files(self, part: Part) -> Sequence[str]:
        """Return the one file."""
        return (self.file,)

    def write(self, part: Part, rows: KeptRows, folder: ExportFolder) -> Written:
        """Write the file; memory is about 40 bytes a row, and that of a few shards' uids."""
        high, low = np.empty(part.rows, np.uint64), np.empty(part.rows, np.uint64)
        ends = np.cumsum([span.rows for span in part.spans])

        def read(at: int) -> None:
            span = part.spans[at]
            place = slice(int(ends[at]) - span.rows, int(ends[at]))
            try:
                high[place], low[place] = uid_pairs(rows.uids(span))
            except ValueError:
                _refuse(rows.kept(span))

        with ThreadPoolExecutor(_READERS, "clipsieve-uids") as pool:
            for _ in pool.map(read, range(len(part.spans))):
                pass
        sort_pairs(high, low)
        written = Written(rows=part.rows)
        with folder.writing(self.file, written.files) as file, open(file.path, "wb") as output:
            file.rows = part.rows
            write_pairs(output, high, low)
        return written


def uid_pairs(uids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return the high and low 64 bits of uids of 32 hexadecimal digits, in either case.

    Args:
      uids: N strings.

    Returns:
      (N,) uint64 of the first 16 digits and (N,) uint64 of the last 16; empty for no uids.

    Raises:
      ValueError: if one is NULL, of another type, or anything else than 32 such digits.

    >>> uid_pairs(pa.array(["0000000000000001000000000000000A"]))
    (array([1], dtype=uint64), array([10], dtype=uint64))
    """
    digits = _digits(uids)
    high, low = np.empty(len(uids), np.uint64), np.empty(len(uids), np.uint64)
    for first in range(0, len(uids), _BLOCK):
        part = slice(first, first + _BLOCK)
        values, are_hex = _hex_values(digits[part])
        if not are_hex.all():
            raise ValueError("a uid has a character that is no hexadecimal digit")
        words = _packed(values.view("<u8"))
        high[part] = words[:, 0] << 32 | words[:, 1]
        low[part] = words[:, 2] << 32 | words[:, 3]
    return high, low


def sort_pairs(high: np.ndarray, low: np.ndarray) -> None:
    """Sort pairs lexicographically, in place; equal ones are kept.

    Sorts by the leading bits of the high words and mends runs that are equal in them: several times
    faster than a sort of a structured array.  Takes 16 bytes a row beside the arguments.

    Args:
      high: (N,) uint64.
      low: (N,) uint64.
    """
    if len(high) < 2:
        return
    bits = (len(high) - 1).bit_length()
    # The position takes the place of the lowest bits: one sort of integers gives the order.
    keys = high >> bits
    keys <<= bits
    keys |= np.arange(len(high), dtype=np.uint64)
    keys.sort()
    keys &= np.uint64((1 << bits) - 1)
    order = keys.view(np.int64)
    high[:] = high[order]
    low[:] = low[order]
    del keys, order
    places = _tied(high, bits)
    if len(places):
        tied_high, tied_low = high[places], low[places]
        order = np.lexsort((tied_low, tied_high))
        high[places], low[places] = tied_high[order], tied_low[order]


def _tied(values: np.ndarray, bits: int) -> np.ndarray:
    """Return (M,) int64, the places of sorted values that agree with a neighbour above `bits`."""
    is_tied = np.zeros(len(values), bool)
    for first in range(0, len(values) - 1, _STEP):
        part = values[first : first + _STEP + 1]
        is_equal = (part[1:] ^ part[:-1]) >> bits == 0
        is_tied[first + 1 : first + len(part)] |= is_equal
        is_tied[first : first + len(part) - 1] |= is_equal
    return np.flatnonzero(is_tied)


def write_pairs(output: BinaryIO, high: np.ndarray, low: np.ndarray) -> None:
    """Write sorted pairs as `np.save` writes an array of type "u8,u8".

    Args:
      output: where to.
      high: (N,) uint64.
      low: (N,) uint64.
    """
    header = np.lib.format.header_data_from_array_1_0(np.empty(0, PAIRS))
    np.lib.format.write_array_header_1_0(output, {**header, "shape": (len(high),)})
    for first in range(0, len(high), _STEP):
        part = slice(first, first + _STEP)
        output.write(np.stack([high[part], low[part]], axis=1).data)


def _refuse(kept: pa.Table) -> None:
    """Raise for the first uid that is not 32 hexadecimal digits; names the row.

    Raises:
      UsageError: with the cure.
    """
    uids = kept["uid"].combine_chunks()
    at = int(np.flatnonzero(~_are_pairs(uids))[0])
    shard, row = kept["shard"][at].as_py(), kept["row"][at].as_py()
    raise UsageError(
        f"uid {str(uids[at].as_py())[:80]!r} of shard {shard}, row {row} is not {_DIGITS} "
        "hexadecimal digits, which DataComp's format is made of; export with --format uids or "
        "parquet"
    )


def _digits(uids: pa.Array) -> np.ndarray:
    """Return (N, 32) uint8, the characters of N uids, without a copy of them."""
    if not (pa.types.is_string(uids.type) or pa.types.is_large_string(uids.type)):
        raise ValueError(f"uids are {uids.type}, not text")
    _, offsets, data = uids.buffers()
    if not len(uids):
        return np.empty((0, _DIGITS), np.uint8)
    kind = np.int32 if pa.types.is_string(uids.type) else np.int64
    starts = np.frombuffer(offsets, kind)[uids.offset : uids.offset + len(uids) + 1]
    if uids.null_count or (np.diff(starts) != _DIGITS).any():
        raise ValueError(f"a uid is not {_DIGITS} characters")
    characters = np.frombuffer(data, np.uint8, len(uids) * _DIGITS, int(starts[0]))
    return characters.reshape(-1, _DIGITS)


def _hex_values(digits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of hexadecimal digits, and which characters are some; both as `digits`."""
    are_decimal = digits - np.uint8(ord("0")) < 10
    are_letters = (digits | np.uint8(0x20)) - np.uint8(ord("a")) < 6
    # The low four bits of "0" to "9" are their values, those of "A" and "a" are 1.
    values = (digits & np.uint8(15)) + are_letters * np.uint8(9)
    return values, are_decimal | are_letters


def _packed(words: np.ndarray) -> np.ndarray:
    """Return the number that each word's eight digits make, from one digit a byte, first lowest."""
    words = (words << 4 | words >> 8) & 0x00FF00FF00FF00FF
    words = (words | words >> 8) & 0x0000FFFF0000FFFF
    words = (words | words >> 16) & 0x00000000FFFFFFFF
    return words.astype("<u4").byteswap().astype(np.uint64)


def _are_pairs(uids: pa.Array) -> np.ndarray:
    """Return (N,) bool: which uids are 32 hexadecimal digits."""
    if not (pa.types.is_string(uids.type) or pa.types.is_large_string(uids.type)):
        return np.zeros(len(uids), bool)
    matches = pc.match_substring_regex(uids, rf"\A[0-9a-fA-F]{{{_DIGITS}}}\z")
    return np.asarray(pc.fill_null(matches, False).to_numpy(zero_copy_only=False))
