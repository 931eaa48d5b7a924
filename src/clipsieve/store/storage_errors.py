"""The system's refusal to read or write, in one line: what, where, how much room, and the cure."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipsieve.errors import StorageError

#: What a user does about an error of the system.
_CURES = {
    errno.ENOSPC: "free space on that disk",
    errno.EDQUOT: "free space within the quota",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EROFS: "mount it writable",
    errno.EACCES: "change its permissions",
    errno.EPERM: "change its permissions",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close programs that hold many files open",
    errno.EIO: "check that disk",
    errno.ESTALE: "mount it again",
    errno.ENOTCONN: "mount it again",
    errno.ENAMETOOLONG: "use a shorter name or path",
    errno.ENOENT: "put its folder back, which was removed meanwhile",
    errno.ENOTDIR: "remove the file in the place of that folder",
    errno.ELOOP: "remove the links that lead to each other",
    errno.EISDIR: "remove the folder in the place of that file",
}
#: Those that only writing meets: they are about the output, whatever file the system names.
_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
#: Those of a name that is not there, which callers of a read expect.
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
#: What Python says if no folder for temporary files can be written to.
_NO_SCRATCH = "No usable temporary directory"
#: How pyarrow names the file, which it keeps in no attribute.
_NAMED = re.compile(r"file '([^']*)'")
#: Ends the name of a file that is being written, which tells a user nothing.
_MARKED = re.compile(r"\.tmp-[0-9a-f]{32}$")


@contextmanager
def write_errors(place: Path, root: Path) -> Iterator[None]:
    """Within the block, raise the system's refusal to write to `place` as one line.

    An error about a file outside of `root`, which is read for what is written, passes.

    Raises:
      StorageError: with the room that is left and the cure.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or not is_about(error, place, root):
            raise
        raise write_error(error, place) from error


@contextmanager
def read_errors(place: Path) -> Iterator[None]:
    """Within the block, raise the system's refusal to read `place` as one line.

    A missing file passes as what it is, and so does damage, which is no error of the system.

    Raises:
      StorageError: with the cure.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.errno in _MISSING:
            raise
        raise StorageError(
            f"cannot read {place}: {os.strerror(error.errno)}; {_cure(error.errno)}, then run the "
            "same command again"
        ) from error


def write_error(
    error: OSError, place: str | os.PathLike[str], command: str = "command"
) -> StorageError:
    """Return the system's refusal to write to `place`; `command` is what to run again."""
    number = error.errno or errno.EIO
    room = _room(Path(place)) if number == errno.ENOSPC else ""
    name = _MARKED.sub("", os.fspath(place))
    return StorageError(
        f"cannot write to {name}: {os.strerror(number)}{room}; {_cure(number)}, then run the same "
        f"{command} again: complete files are kept"
    )


def storage_error(error: OSError) -> StorageError | None:
    """Return an error of the system, met anywhere, as one line; None for one that is none."""
    again = "then run the same command again"
    if _NO_SCRATCH in str(error.strerror):
        return StorageError(
            f"{error.strerror}: all are full or forbidden; free space, or name a folder in TMPDIR, "
            f"{again}"
        )
    if error.errno not in _CURES or error.errno == errno.ENOENT:
        return None
    place = error.filename2 or error.filename
    where = f"cannot use {place}: " if place is not None else ""
    return StorageError(f"{where}{os.strerror(error.errno)}; {_cure(error.errno)}, {again}")


def free_bytes(place: Path) -> int | None:
    """Return the bytes that are free where `place` is, or will be; None if that is not known."""
    for folder in (place, *place.parents):
        try:
            return shutil.disk_usage(folder).free
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None


def byte_count(count: int) -> str:
    """Return a number of bytes as a person reads it.

    >>> byte_count(0), byte_count(15_360), byte_count(3_200_000_000)
    ('0 B', '15 kB', '3.2 GB')
    """
    size, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if size < 1000 or unit == "PB":
            break
        size /= 1000
    return f"{size:.2g} {unit}" if size < 10 and unit != "B" else f"{size:.0f} {unit}"


def _room(place: Path) -> str:
    free = free_bytes(place)
    return "" if free is None else f" ({byte_count(free)} free, the file needs more)"


def _cure(number: int) -> str:
    return _CURES.get(number, "see the system log")


def is_about(error: OSError, place: str | os.PathLike[str], root: Path) -> bool:
    """Whether the system refused to write `place`, or what it refused lies below `root`."""
    if error.errno in _OF_WRITING:
        return True
    quoted = _NAMED.search(str(error))
    names = [name for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    names += [quoted[1]] if quoted and not names else []
    paths = [Path(os.fsdecode(name)) for name in names]
    # A temporary file has the name of its target and a mark; folders above it are made for it.
    if any(str(p).startswith(os.fspath(place)) or Path(place).is_relative_to(p) for p in paths):
        return True
    return not paths or (
        error.errno not in _MISSING and any(path.is_relative_to(root) for path in paths)
    )
