"""Names that the file system of an output folder cannot hold: refused before it is written to."""

import os
from collections.abc import Iterable
from pathlib import Path

from clipsieve.errors import UsageError
from clipsieve.formats.names import escaped_path
from clipsieve.formats.urls import is_url
from clipsieve.store import names

#: Of Linux; a file system may allow less, see `check_shard_names`.
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4095
#: Of an object in S3, Google Cloud Storage and Azure.
MAX_KEY_BYTES = 1024
#: Longest path below an output folder to a file of a shard, without the file's own name: those of
#: a subset with a name of 64 letters, or of embeddings of a model with one of 100.
_BELOW_BYTES = 140


def check_folder_name(root: str) -> None:
    """Refuse the absolute path of an output folder that cannot be made or read by other programs.

    Raises:
      UsageError: it is not UTF-8, or it is longer than a path can be.
    """
    if escaped_path(root) != root:
        raise UsageError(
            f"output folder {escaped_path(root)} (escaped) is not UTF-8, and SQL could not name "
            "its files; choose a folder whose path is UTF-8"
        )
    long = [part for part in root.split("/") if len(os.fsencode(part)) > MAX_NAME_BYTES]
    if long:
        raise UsageError(
            f"output folder {root} has a name of {len(os.fsencode(long[0])):,} bytes in its path, "
            f"at most {MAX_NAME_BYTES} are possible; choose a shorter name"
        )
    if len(os.fsencode(root)) + _BELOW_BYTES > MAX_PATH_BYTES:
        raise UsageError(_path_message(root, len(os.fsencode(root)), MAX_PATH_BYTES))


def check_shard_names(root: str, shards: Iterable[str]) -> None:
    """Refuse shards whose files the file system of an output folder cannot name.

    Args:
      root: the folder, or its URL in an object store; it need not exist yet.
      shards: names, ASCII.

    Raises:
      UsageError: a name, or a path with it, is longer than the file system allows.
    """
    longest = max(shards, key=len, default="")
    if is_url(root):
        key_bytes = len(root.encode()) + _BELOW_BYTES + len(longest)
        if key_bytes > MAX_KEY_BYTES:
            raise UsageError(
                f"shard {longest!r} in {root} would have objects with names of {key_bytes:,} "
                f"bytes, and stores allow {MAX_KEY_BYTES:,}; choose a shorter name for one of them"
            )
        return
    place = Path(root)
    while not place.is_dir() and place != place.parent:
        place = place.parent
    name_bytes, path_bytes = MAX_NAME_BYTES, MAX_PATH_BYTES
    if hasattr(os, "pathconf"):
        # POSIX counts the NUL at the end of a path.
        name_bytes = os.pathconf(place, "PC_NAME_MAX")
        path_bytes = os.pathconf(place, "PC_PATH_MAX") - 1
    file = os.path.basename(names.samples(longest))
    if len(file) > name_bytes:
        raise UsageError(
            f"shard {longest!r} would be a file name of {len(file)} bytes, and the file system of "
            f"{place} allows {name_bytes}; rename the source, or choose an output folder elsewhere"
        )
    root_bytes = len(os.fsencode(root))
    if root_bytes + _BELOW_BYTES + len(file) > path_bytes:
        raise UsageError(_path_message(root, root_bytes, path_bytes))


def _path_message(root: str, length: int, limit: int) -> str:
    return (
        f"output folder {root} has a path of {length:,} bytes, with which paths of files in it "
        f"would have more than the {limit:,} that the system allows; choose a shorter one"
    )
