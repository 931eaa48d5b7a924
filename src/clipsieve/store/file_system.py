"""The few operations on files that an output folder is made of.

Objects are written whole or not at all, and named by paths relative to the folder with `/` between
parts.  Everything above this module works through `FileSystem`, so that another store needs nothing
but another implementation.
"""

import os
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from clipsieve.store.lock_terms import LockTerms

#: Folders of a store that are listed at once: a listing of 100,000 objects takes some 100 MB.
LISTERS = 8
#: Ends the name of a file that is being written.  No glob of a reader matches it: `*.parquet` would
#: match `x.tmp.parquet`, so the mark comes last.
MARK = ".tmp-"
#: Longer names are hashed in temporary ones.
_STEM_BYTES = 100
TEMPORARY = re.compile(re.escape(MARK) + "[0-9a-f]{32}$")


class FileStatus(NamedTuple):
    """What tells whether an object is still the one that it was.

    Attributes:
      bytes: its size.
      version: changes with its content: of a file the time it was written, in nanoseconds since
        the epoch; of an object in a store a hash of its ETag.
    """

    bytes: int
    version: int


@dataclass(frozen=True, slots=True)
class Listing:
    """What is directly in a folder.

    Attributes:
      files: status of each object, by its name without the folder, sorted.
      folders: names, sorted.
    """

    files: Mapping[str, FileStatus]
    folders: tuple[str, ...]


class FileSystem(Protocol):
    """Whole objects below one root.  Names are relative; a missing one is a FileNotFoundError.

    What else the system refuses is a `StorageError`.

    Attributes:
      is_remote: whether each operation is a request to an object store, which keeps what it has
        taken, and has no disk of ours.
    """

    @property
    def is_remote(self) -> bool: ...  # noqa: D102

    def url(self, name: str = "") -> str:
        """Where an object lies, for messages and for other programs."""
        ...

    def below(self, folder: str) -> "FileSystem":
        """Return the file system whose root is a folder of this one; it need not exist yet."""
        ...

    def entries(self, folder: str) -> Listing:
        """Return what is directly in `folder`; nothing if it is missing."""
        ...

    def list_files(self, folder: str) -> list[str]:
        """Names, without the folder, of the objects directly in `folder`, sorted; [] if missing."""
        ...

    def list_folders(self, folder: str) -> list[str]:
        """Names of the folders directly in `folder`, sorted; [] if it is missing."""
        ...

    def exists(self, name: str) -> bool:
        """Whether there is an object of this name."""
        ...

    def status(self, name: str) -> FileStatus:
        """Return an object's size and version."""
        ...

    def read(self, name: str, limit: int | None = None) -> bytes:
        """Return the content of an object, of at most `limit` bytes."""
        ...

    def open(self, name: str) -> pa.NativeFile:
        """Open an object for random access; the caller closes it."""
        ...

    def read_footer(self, name: str) -> pq.FileMetaData:
        """Return the Parquet metadata at the end of an object."""
        ...

    def writing(self, name: str, durable: bool = True) -> AbstractContextManager[Path]:
        """Give a local path whose content becomes the object when the block ends well.

        Without `durable` a power failure may leave an empty object; a killed process may not.
        """
        ...

    def copy(self, source: str, target: str) -> None:
        """Give the content of `source` to `target` too; replaces `target` at once."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Give an object another name; an object of that name is replaced."""
        ...

    def delete(self, name: str) -> None:
        """Remove an object; nothing happens if it is missing."""
        ...

    def delete_folder(self, folder: str) -> None:
        """Remove everything below `folder`."""
        ...

    def lock(
        self, terms: LockTerms | None = None, on_lost: Callable[[str], None] | None = None
    ) -> AbstractContextManager[None]:
        """Hold the only writer's lock for the length of the block; `Locked` if it is taken.

        Args:
          terms: of a store's lock; None is the default.
          on_lost: told, from another thread, why the lock is another process's now.
        """
        ...

    def require_lock(self) -> None:
        """Refuse to go on, as `Locked`, if the lock that this process held is another one's now."""
        ...

    def staying(self) -> AbstractContextManager[None]:
        """Within the block refuse to go on if the root is removed, renamed or replaced."""
        ...

    def free_bytes(self) -> int | None:
        """Return how many bytes can still be written; None if that is not known."""
        ...

    def sweep(self, folders: tuple[str, ...], names: tuple[str, ...]) -> list[str]:
        """Remove what interrupted writes left below `folders` and of the objects `names`."""
        ...


def temporary_name(name: str) -> str:
    """Make a new name beside `name` that `FileSystem.sweep` recognises."""
    return f"{temporary_stem(name)}{MARK}{uuid4().hex}"


def temporary_stem(name: str) -> str:
    """Return what stands before the mark in temporary names of `name`: a hash of a long one.

    With mark and digits it fits where file names have at most 143 bytes, as on eCryptfs.

    >>> temporary_stem("samples/a.parquet"), temporary_stem("samples/" + "a" * 200)
    ('samples/a.parquet', 'samples/c2a908d98f5df987')
    """
    folder, slash, last = name.rpartition("/")
    if len(os.fsencode(last)) > _STEM_BYTES:
        last = sha256(os.fsencode(last)).hexdigest()[:16]
    return f"{folder}{slash}{last}"
