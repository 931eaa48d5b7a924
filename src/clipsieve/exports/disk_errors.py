"""The system's refusal to write an export, in words and with a cure."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipsieve.errors import StorageError
from clipsieve.store.storage_errors import is_about, write_error


@contextmanager
def disk_errors(place: str) -> Iterator[None]:
    """Within the block, raise the system's refusal to write to `place` as one line.

    Raises:
      StorageError: with the cure.
    """
    try:
        yield
    except (OSError, StorageError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError) or cause.errno is None:  # not the system's
            raise
        if not is_about(cause, place, Path(place)):
            raise
        raise write_error(cause, place, "`clipsieve export`") from cause
