"""Outcomes of a shard in work, in the order in which they came: a file that is only appended to.

After a kill at any moment what is whole at its beginning is used, and nothing is fetched twice.
"""

import json
import os
import struct
import threading
import time
import zlib
from pathlib import Path
from typing import BinaryIO

from clipsieve.errors import Locked
from clipsieve.ingest.outcomes import Outcome

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: A process whose driver is gone ends at once; it is waited for so long.
LOCK_SECONDS = 10.0
#: Mark, row, bytes of JSON, bytes of the image, CRC-32 of all that follows it and of those three.
_HEAD = struct.Struct("<4sIIII")
_NUMBERS = struct.Struct("<III")
_MARK = b"csp1"


class Spool:
    """Outcomes by row."""

    def __init__(self, path: Path) -> None:
        """Open a spool, and cut off what was not written whole.

        Raises:
          OSError: the file cannot be read or written.
          Locked: another process writes to it.
        """
        self._path = path
        self._lock = threading.Lock()
        self._places: dict[int, tuple[int, int]] = {}
        self._file: BinaryIO = open(path, "a+b", buffering=0)
        _lock(self._file, path)
        self._end = self._read_places()
        os.ftruncate(self._file.fileno(), self._end)
        self._is_closed = False

    def __contains__(self, row: int) -> bool:
        """Whether a row has an outcome."""
        return row in self._places

    def __len__(self) -> int:
        """How many rows have an outcome."""
        return len(self._places)

    def add(self, row: int, outcome: Outcome) -> None:
        """Append the outcome of a row; after `close` nothing happens.

        Raises:
          OSError: it cannot be written.
        """
        data = outcome.data or b""
        values: list[object] = [outcome.status, outcome.error, outcome.data is not None]
        values += [outcome.width, outcome.height, outcome.exif, outcome.sha256]
        text = json.dumps(values).encode()
        numbers = _NUMBERS.pack(row, len(text), len(data))
        crc = zlib.crc32(data, zlib.crc32(text, zlib.crc32(numbers)))
        record = memoryview(b"".join((_MARK, numbers, struct.pack("<I", crc), text, data)))
        with self._lock:
            if self._is_closed:
                return
            written = 0
            try:
                while written < len(record):
                    written += os.write(self._file.fileno(), record[written:])
            except OSError as error:  # with its place, for the message
                raise OSError(error.errno, error.strerror, str(self._path)) from error
            self._places[row] = self._end, len(record)
            self._end += len(record)

    def outcome(self, row: int) -> Outcome:
        """Return the outcome of a row."""
        place, length = self._places[row]
        record = memoryview(os.pread(self._file.fileno(), length, place))
        if len(record) < length:
            raise OSError(f"{self._path} is shorter than it was")
        _, _, text_length, _, _ = _HEAD.unpack_from(record)
        text = bytes(record[_HEAD.size : _HEAD.size + text_length])
        status, error, has_data, width, height, exif, sha256 = json.loads(text)
        data = bytes(record[_HEAD.size + text_length :]) if has_data else None
        return Outcome(status, error, data, width, height, exif, sha256)

    def close(self) -> None:
        """Take no outcome any more."""
        with self._lock:
            self._is_closed = True
            self._file.close()

    def _read_places(self) -> int:
        """Find the records that are whole; return where the last of them ends."""
        size = os.fstat(self._file.fileno()).st_size
        place = 0
        self._file.seek(0)
        while place + _HEAD.size <= size:
            mark, row, text_length, data_length, crc = _HEAD.unpack(_read(self._file, _HEAD.size))
            after = place + _HEAD.size + text_length + data_length
            if mark != _MARK or after > size:
                break
            content = _read(self._file, text_length + data_length)
            if zlib.crc32(content, zlib.crc32(_NUMBERS.pack(row, text_length, data_length))) != crc:
                break
            self._places[row] = place, after - place
            place = after
        return place


def _lock(file: BinaryIO, path: Path) -> None:
    """Wait for a process that was left behind by a killed driver, and is about to end."""
    end = time.monotonic() + LOCK_SECONDS
    while fcntl is not None:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                file.close()
                raise Locked(
                    f"{path} is being written by a process that an earlier ingest left; end that "
                    "process, then run again"
                ) from None
            time.sleep(0.05)


def _read(file: BinaryIO, size: int) -> bytearray:
    """Read so many bytes of a file that has them."""
    content = bytearray(size)
    view, read = memoryview(content), 0
    while read < size:
        count = file.readinto(view[read:])  # type: ignore[attr-defined]
        if not count:
            raise OSError(f"{file.name} is shorter than it was")
        read += count
    return content
