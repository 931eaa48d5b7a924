"""The seal: every file of an output folder carries the SHA-256 of its own bytes.

A file is written with 64 zeros behind the mark `clipsieve.sha256`, hashed as it is, and the zeros
are overwritten by the hash.  So each file can be verified with nothing but itself: no list of
hashes must be kept in step with it, and a kill between two writes leaves nothing that only looks
damaged.  The seal stands near the end of the file: in the footer of a Parquet file, as the last
key of a JSON file, in the archive comment of an `.npz`, in a comment of an SQL file.
"""

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from clipsieve.schemas.footers import SEAL

BLANK = "0" * 64
#: Between mark and digits: what Thrift, JSON or a comment have there.
_SEAL = re.compile(re.escape(SEAL).encode() + rb"[^0-9A-Za-z]{1,4}([0-9a-f]{64})")
#: Bytes at the end of a file in which the seal is looked for, one after the other.
_TAILS = (1 << 16, 1 << 20, 1 << 26)
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Seal:
    """What a sealed file says of itself.

    Attributes:
      bytes: size of the file.
      sha256: of its bytes, the 64 digits themselves taken as zeros; hexadecimal.
    """

    bytes: int
    sha256: str


class Damaged(ValueError):
    """A file is not what was written; the message says what is wrong with it."""


class _Source(Protocol):
    """What a seal is read from: a Python file or one of Arrow's."""

    def seek(self, position: int, /) -> int: ...

    def read(self, nbytes: int, /) -> bytes: ...


def seal(path: Path) -> Seal:
    """Write the hash of a file over the zeros behind its mark, and return it.

    Raises:
      ValueError: if the file has no mark with 64 zeros behind it.
    """
    with open(path, "rb+") as file:
        size = path.stat().st_size
        at, digits = _find(file, size)
        if digits != BLANK.encode():
            raise ValueError(f"{path} has no blank {SEAL}")
        sha256 = _digest(file, size, at)
        file.seek(at)
        file.write(sha256.encode())
    return Seal(size, sha256)


def verify(file: _Source, size: int) -> Seal:
    """Read a whole file of `size` bytes and return its seal.

    Raises:
      Damaged: if it has none, or a byte is not as it was written.
    """
    at, digits = _find(file, size)
    sha256 = _digest(file, size, at)
    if sha256.encode() != digits:
        raise Damaged("its bytes do not match the sha256 in it")
    return Seal(size, sha256)


def blank_json(value: Mapping[str, Any], indent: int | None = 1, sort_keys: bool = True) -> str:
    """Return `value` as JSON whose last key is a blank seal; NaN and infinity are refused.

    >>> blank_json({"b": 1, "a": 2}, indent=None)[:43]
    '{"a": 2, "b": 1, "clipsieve.sha256": "00000'
    """
    if SEAL in value:
        raise ValueError(f"{SEAL!r} is not a key of one's own")
    content = json.loads(json.dumps(value, sort_keys=True)) if sort_keys else value
    return json.dumps({**content, SEAL: BLANK}, indent=indent, allow_nan=False) + "\n"


def without_seal(content: Any) -> Any:
    """Return the value of a sealed JSON file without its seal."""
    if isinstance(content, dict):
        return {key: part for key, part in content.items() if key != SEAL}
    return content


def blank_comment(mark: str) -> str:
    """Return a line of comment with a blank seal; `mark` begins comments in that language."""
    return f"{mark} {SEAL}: {BLANK}\n"


def add_blank_comment(archive: Path) -> None:
    """Give a zip archive a comment with a blank seal."""
    with zipfile.ZipFile(archive, "a") as file:
        file.comment = f"{SEAL}: {BLANK}".encode()


def _find(file: _Source, size: int) -> tuple[int, bytes]:
    """Return where the digits of the seal are, and the digits."""
    for tail in _TAILS:
        first = max(size - tail, 0)
        file.seek(first)
        matches = list(_SEAL.finditer(file.read(size - first)))
        if matches:
            return first + matches[-1].start(1), matches[-1][1]
        if not first:
            break
    raise Damaged("it is empty" if not size else f"it has no {SEAL}, so it is cut or overwritten")


def _digest(file: _Source, size: int, at: int) -> str:
    """Return the sha256 of a file whose bytes from `at` on, 64 of them, are taken as zeros."""
    digest = hashlib.sha256()
    file.seek(0)
    _update(digest, file, at)
    digest.update(BLANK.encode())
    file.seek(at + len(BLANK))
    _update(digest, file, size - at - len(BLANK))
    return digest.hexdigest()


def _update(digest: Any, file: "_Source | BinaryIO", count: int) -> None:
    while count > 0:
        part = file.read(min(count, _CHUNK))
        if not part:
            raise Damaged("it ended while it was read")
        digest.update(part)
        count -= len(part)
