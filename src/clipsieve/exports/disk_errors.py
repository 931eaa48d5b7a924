"""The system's refusal to write, in words and with a cure."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from clipsieve.errors import ClipsieveError

#: Errors of a full disk, by what a user does about them.
_CURES = {
    errno.ENOSPC: "free space on that disk",
    errno.EDQUOT: "free space within the quota",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
}


@contextmanager
def disk_errors(place: str) -> Iterator[None]:
    """Within the block, raise the system's refusal to write to `place` as one line.

    Raises:
      ClipsieveError: with the cure.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not the system's
            raise
        cure = _CURES.get(error.errno, "make it writable")
        raise ClipsieveError(
            f"cannot write to {place}: {os.strerror(error.errno)}; {cure}, then run the same "
            "`clipsieve export` again: complete files are kept"
        ) from error
