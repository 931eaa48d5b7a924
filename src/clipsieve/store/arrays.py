"""Arrays of numbers in .npz files that others may have written: no pickles, nothing compressed.

`numpy.savez` stores members as they are.  A file in which they are compressed, overlap, or claim
shapes that their bytes do not have, would take more memory than its size, and is refused first.
"""

import io
import math
from tokenize import TokenError
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np
from numpy.lib import format as npy

#: Members of one file; scorers keep a dozen.
_MOST_MEMBERS = 10_000


def parse_npz(content: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz file by name.

    Raises:
      ValueError: if it is none, is damaged, or holds anything but arrays of numbers and texts.
    """
    try:
        with ZipFile(io.BytesIO(content)) as archive:
            _check_members(archive.infolist(), len(content))
            return {
                info.filename.removesuffix(".npy"): _parse_npy(archive.read(info), info.filename)
                for info in archive.infolist()
            }
    except (BadZipFile, NotImplementedError, EOFError, RuntimeError, OSError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _check_members(members: list[ZipInfo], size: int) -> None:
    """Refuse members that are compressed, doubled, no arrays, or larger than the file."""
    names = [info.filename for info in members]
    if len(names) > _MOST_MEMBERS or len(set(names)) < len(names):
        raise ValueError(f"{len(names):,} members, or two of one name")
    for info in members:
        if not info.filename.endswith(".npy") or info.compress_type != ZIP_STORED:
            raise ValueError(f"member {info.filename[:80]!r} is compressed, or no array")
    if sum(info.file_size for info in members) > size:
        raise ValueError("members claim more bytes than the file has")


def _parse_npy(content: bytes, name: str) -> np.ndarray:
    """Return an array whose header says what its bytes are."""
    file = io.BytesIO(content)
    version = npy.read_magic(file)  # a ValueError for anything else
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"member {name[:80]!r} has format {version}")
    try:
        shape, _, kind = readers[version](file)
    except (SyntaxError, TokenError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"member {name[:80]!r} has a header that cannot be read") from error
    if kind.hasobject:
        raise ValueError(f"member {name[:80]!r} holds objects, which allow_pickle=False refuses")
    if kind.kind not in "biufUS":
        raise ValueError(f"member {name[:80]!r} holds {str(kind)[:80]}, not numbers or texts")
    if min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != len(content) - file.tell():
        raise ValueError(f"member {name[:80]!r} claims another size than its bytes have")
    array: np.ndarray = npy.read_array(io.BytesIO(content), allow_pickle=False)
    return array
