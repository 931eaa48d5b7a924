"""Tar archives that depend on names and contents only, and are written as a stream.

POSIX ustar: regular files, mode 0644, owner 0, time 0.  Several times faster than `tarfile`, whose
headers cost more than most captions.
"""

from typing import BinaryIO

_BLOCK = 512
#: Archives are filled up to a multiple of this, as `tar` and `tarfile` do.
_RECORD = 20 * _BLOCK
_LONGEST_NAME = 100
_LARGEST = 8**11 - 1
_CHECKSUM = slice(148, 156)
_REST = (
    # type, link name, magic and version, owner's names, device numbers, prefix, padding
    b"0" + bytes(100) + b"ustar\x0000" + bytes(64 + 16 + 155 + 12)
)


class TarWriter:
    """Writes members one by one; `close` ends the archive."""

    def __init__(self, output: BinaryIO) -> None:
        """Write to `output`, which the caller closes."""
        self._output = output
        self._size = 0

    def add(self, name: str, content: bytes) -> None:
        """Write one member.

        Raises:
          ValueError: if its name is no ASCII or longer than 100 characters, or it has 8 GiB.
        """
        padding = bytes(-len(content) % _BLOCK)
        self._output.write(tar_header(name, len(content)))
        self._output.write(content)
        self._output.write(padding)
        self._size += _BLOCK + len(content) + len(padding)

    def close(self) -> None:
        """Write the mark of the end."""
        end = 2 * _BLOCK
        self._output.write(bytes(end + -(self._size + end) % _RECORD))


def tar_header(name: str, size: int) -> bytes:
    """Return the 512 bytes before a member's content.

    Raises:
      ValueError: if the name is no ASCII or longer than 100 characters, or it has 8 GiB.
    """
    encoded = name.encode("ascii")
    if len(encoded) > _LONGEST_NAME or size > _LARGEST:
        raise ValueError(f"member {name!r} of {size:,} bytes is too large for a ustar header")
    fields = b"%s0000644\x000000000\x000000000\x00%011o\x0000000000000\x00        %s" % (
        encoded.ljust(_LONGEST_NAME, b"\0"),
        size,
        _REST,
    )
    header = bytearray(fields)
    header[_CHECKSUM] = b"%06o\0 " % sum(fields)
    return bytes(header)
