"""Folders that a command works in and must find where they were when it began."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipsieve.errors import StorageError

#: Device and inode of each folder that a block of `staying_in_place` is about, by path.
_folders: dict[Path, tuple[int, int]] = {}


@contextmanager
def staying_in_place(root: Path) -> Iterator[None]:
    """Within the block `require_in_place(root)` refuses what is not the folder that is there now.

    Raises:
      StorageError: if there is no such folder.
    """
    before, identity = _folders.get(root), _identity(root)
    if identity is None:
        raise _gone(root)
    _folders[root] = identity
    try:
        yield
    finally:
        if before is None:
            del _folders[root]
        else:
            _folders[root] = before


def require_in_place(root: Path) -> None:
    """Refuse a folder that was removed, renamed or replaced in a block of `staying_in_place`.

    Raises:
      StorageError: says so; without such a block nothing is refused.
    """
    expected = _folders.get(root)
    if expected is not None and _identity(root) != expected:
        raise _gone(root)


def _gone(root: Path) -> StorageError:
    return StorageError(
        f"output folder {root} is gone: it was removed, renamed or replaced while this command "
        "wrote to it; put it back, then run the same command again: complete files are kept"
    )


def _identity(root: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(root)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino
