"""Locks of an output folder: one writer of everything, or several parts of one run at once.

A part writes only files that are named after its own shards, and the manifest while it holds the
folder's lock for a moment.  It holds a lock of its own, that of a folder `_runs/parts/3-of-8`, for
as long as it works.  Who wants the whole folder takes the folder's lock and then looks whether any
part holds its own; a part takes its own and then asks for the folder's lock once.  So of a part and
a writer of everything, whichever comes second sees the first.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from clipsieve.errors import Locked
from clipsieve.store import names
from clipsieve.store.file_system import FileSystem
from clipsieve.store.lock_terms import LockTerms

#: For how long a part waits while others hold the folder's lock: each needs it for a moment.
WAIT_SECONDS = 60.0
_RETRY_SECONDS = (0.02, 0.2)

#: Folders of which this process is the only writer, and how often.
_only_writer: Counter[str] = Counter()


@contextmanager
def only_writer(
    files: FileSystem,
    terms: LockTerms | None = None,
    on_lost: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Hold the lock of everything in a folder for the length of the block.

    Raises:
      Locked: at once, if another process holds it, or a part of a run is at work.
    """
    with files.lock(terms, on_lost):
        _require_no_part(files, terms)
        _only_writer[files.url()] += 1
        try:
            yield
        finally:
            _only_writer[files.url()] -= 1


def is_only_writer(files: FileSystem) -> bool:
    """Whether this process holds the lock of everything in a folder."""
    return _only_writer[files.url()] > 0


@contextmanager
def part_writer(
    files: FileSystem,
    part: str,
    terms: LockTerms | None = None,
    on_lost: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Hold the lock of one part for the length of the block.

    Args:
      files: of the output folder.
      part: name of the part's folder; see `part_name`.
      terms: of the locks.
      on_lost: told why the part's lock is another process's now.

    Raises:
      Locked: if another process works on the same part, or, after `WAIT_SECONDS`, on everything.
    """
    with part_files(files, part).lock(terms, on_lost):
        with momentary_writer(files, terms):
            pass
        yield


@contextmanager
def momentary_writer(
    files: FileSystem, terms: LockTerms | None = None, wait: float = WAIT_SECONDS
) -> Iterator[None]:
    """Hold the folder's lock for the length of a short block, in a part.

    Raises:
      Locked: if others hold it for longer than `wait` seconds.
    """
    end = time.monotonic() + wait
    while True:
        lock = files.lock(terms)
        try:
            lock.__enter__()
        except Locked:
            if time.monotonic() > end:
                raise
            time.sleep(random.uniform(*_RETRY_SECONDS))
            continue
        break
    try:
        yield
    except BaseException as error:
        lock.__exit__(type(error), error, error.__traceback__)
        raise
    lock.__exit__(None, None, None)


def part_name(number: int, count: int) -> str:
    """Name the folder of a part, below `names.PARTS`.

    >>> part_name(3, 8)
    '3-of-8'
    """
    return f"{number}-of-{count}"


def part_files(files: FileSystem, part: str) -> FileSystem:
    """Return the folder of a part, which holds its lock and what it says of itself."""
    return files.below(f"{names.PARTS}/{part}")


def clear_parts(files: FileSystem, terms: LockTerms | None = None) -> None:
    """Remove what parts have left that have ended; only for the only writer of the folder.

    A part that begins just now waits for the folder's lock, and keeps its own.
    """
    for part in files.list_folders(names.PARTS):
        with suppress(Locked), part_files(files, part).lock(terms):
            files.delete_folder(f"{names.PARTS}/{part}")


def _require_no_part(files: FileSystem, terms: LockTerms | None) -> None:
    """Refuse to go on while a part is at work; the folder's lock is held.

    Raises:
      Locked: says which.
    """
    for part in files.list_folders(names.PARTS):
        try:
            with part_files(files, part).lock(terms):
                pass
        except Locked as error:
            raise Locked(
                f"part {part.replace('-of-', '/')} of a run is writing to {files.url()} ({error}); "
                "wait for it to end"
            ) from error
