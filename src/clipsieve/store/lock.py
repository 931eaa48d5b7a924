"""One writer at a time for an output folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from clipsieve.errors import Locked, UsageError
from clipsieve.store.layout import Layout


@contextmanager
def exclusive(layout: Layout) -> Iterator[None]:
    """Hold the folder's lock for the length of the block.

    The kernel frees the lock when the holder dies, however it dies, so none is ever stale.

    Raises:
      Locked: at once, if another process holds it; the message names that process.
      UsageError: if the folder cannot be made or written to.
    """
    try:
        layout.root.mkdir(parents=True, exist_ok=True)
        handle = os.open(layout.lock, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UsageError(
            f"output folder {layout.root} cannot be written to ({error.strerror}); "
            "choose another, or change its permissions"
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(handle, 64).decode(errors="replace").strip() or "unknown"
            raise Locked(
                f"{layout.root} is being written by process {holder}; wait for it to end, "
                "or write to another output folder"
            ) from error
        os.truncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
