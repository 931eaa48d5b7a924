"""What an object store refuses, in one line: what, where, why, and the cure."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from clipsieve.errors import ClipsieveError, StorageError

#: Values in messages of stores that sign a request.
_SECRETS = re.compile(
    r"(?i)\b((?:x-amz-|x-goog-)?(?:signature|security-token|credential)|sig|secret|password|"
    r"token|access_?key(?:_?id)?)(\s*[=:]\s*)[^\s&,;'\")]+"
)
_MOST_CHARACTERS = 500


@contextmanager
def store_errors(verb: str, url: str, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Within the block raise what the store refuses as one line; a missing object passes.

    Args:
      verb: what is done, such as "read" or "write to".
      url: the object.
      passing: other exceptions that pass.

    Raises:
      StorageError: with the store's own words, and the cure.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError, ClipsieveError):
        raise
    except Exception as error:  # each store has exceptions of its own
        if isinstance(error, passing):
            raise
        raise refusal(verb, url, error) from error


def refusal(verb: str, url: str, error: Exception) -> StorageError:
    """Return an error of a store as one line without credentials."""
    text = " ".join(str(error).split()) or type(error).__name__
    reason = _SECRETS.sub(r"\1\2...", text)[:_MOST_CHARACTERS]
    return StorageError(
        f"cannot {verb} {url}: {reason}; {_cure(error)}, then run the same command again: "
        "complete objects are kept"
    )


def _cure(error: Exception) -> str:
    name = f"{type(error).__name__} {error}".lower()
    if "credential" in name or "token" in name:
        return "give credentials by the store's own means (environment, its configuration file)"
    if isinstance(error, PermissionError) or "forbidden" in name or "denied" in name:
        return "ask for the right to list, read, write and delete objects there"
    if isinstance(error, FileNotFoundError):
        return "make the bucket, or correct its name"
    return "check the address and the network"
