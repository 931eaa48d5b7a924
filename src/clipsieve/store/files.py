"""The few operations on files that an output folder is made of.

Objects are written whole or not at all, and named by paths relative to the folder with `/` between
parts.  Everything above this module works through `FileSystem`, so that another store needs nothing
but another implementation.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from clipsieve.errors import Locked, UsageError
from clipsieve.store import names
from clipsieve.store.in_place import require_in_place, staying_in_place
from clipsieve.store.lock_terms import LockTerms
from clipsieve.store.name_limits import check_folder_name
from clipsieve.store.storage_errors import free_bytes, read_errors, write_error, write_errors

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


class LocalFiles:
    """A folder of this machine, or mounted on it.

    A file is written under a temporary name, forced to disk, then renamed: a kill at any instant
    leaves the old file, the new file, or a temporary one that `sweep` removes.
    """

    is_remote = False

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """Name the folder; it need not exist yet.

        Raises:
          UsageError: if `root` is empty, a URL, too long or not UTF-8.
        """
        text = os.fspath(root)
        if not text:
            raise UsageError("output folder '' is empty; name a folder, '.' for this one")
        text = text.removeprefix("file://")
        if "://" in text:
            raise UsageError(f"output folder {text} is a URL, not a path of this machine")
        self.root = Path(os.path.abspath(os.path.expanduser(text)))
        check_folder_name(str(self.root))

    def path(self, name: str) -> Path:
        """Return the path of an object."""
        return self.root / name

    def url(self, name: str = "") -> str:
        """Return the absolute path."""
        return str(self.root / name)

    def entries(self, folder: str) -> Listing:
        """Return what is directly in `folder`; nothing if it is missing."""
        files: dict[str, FileStatus] = {}
        folders: list[str] = []
        for entry in sorted(self._entries(folder), key=lambda entry: entry.name):
            if _is(entry.is_dir):
                folders.append(entry.name)
            elif _is(entry.is_file):
                with suppress(FileNotFoundError), self._reading(f"{folder}/{entry.name}"):
                    status = entry.stat()
                    files[entry.name] = FileStatus(status.st_size, status.st_mtime_ns)
        return Listing(files, tuple(folders))

    def list_files(self, folder: str) -> list[str]:
        """Names of the files directly in `folder`, sorted; [] if it is missing."""
        return sorted(entry.name for entry in self._entries(folder) if _is(entry.is_file))

    def list_folders(self, folder: str) -> list[str]:
        """Names of the folders directly in `folder`, sorted; [] if it is missing."""
        return sorted(entry.name for entry in self._entries(folder) if _is(entry.is_dir))

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        with self._reading(name):
            return self.path(name).is_file()

    def status(self, name: str) -> FileStatus:
        """Return a file's size, and its time in nanoseconds since the epoch."""
        with self._reading(name):
            found = os.stat(self.path(name))
        return FileStatus(found.st_size, found.st_mtime_ns)

    def read(self, name: str, limit: int | None = None) -> bytes:
        """Return the bytes of a file, at most `limit` of them."""
        with self._reading(name), open(self.path(name), "rb") as file:
            return file.read(-1 if limit is None else limit)

    def open(self, name: str) -> pa.NativeFile:
        """Open a file for random access."""
        with self._reading(name):
            return pa.OSFile(os.fsencode(self.path(name)), "rb")

    def read_footer(self, name: str) -> pq.FileMetaData:
        """Return the Parquet metadata of a file."""
        with self._reading(name):
            return pq.read_metadata(self.path(name))

    @contextmanager
    def writing(self, name: str, durable: bool = True) -> Iterator[Path]:
        """Give a temporary path that becomes `name` when the block ends without an exception.

        On an exception the temporary file is removed and `name` stays as it was.  Of two writers of
        one name the last to finish wins.
        """
        path = self.path(name)
        temporary = path.with_name(temporary_name(path.name))
        require_in_place(self.root)
        with write_errors(path, self.root):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                yield temporary
                if durable:
                    with open(temporary, "rb+") as file:
                        os.fsync(file.fileno())
                os.replace(temporary, path)
            except FileNotFoundError:
                require_in_place(self.root)
                raise
            finally:
                _remove(temporary)
            if durable:
                _sync_folder(path.parent)

    def copy(self, source: str, target: str) -> None:
        """Give a file a second name; copies where the file system has no hard links."""
        with self.writing(target) as temporary:
            try:
                os.link(self.path(source), temporary)
            except OSError:
                shutil.copyfile(self.path(source), temporary)

    def rename(self, source: str, target: str) -> None:
        """Give a file another name; a file of that name is replaced."""
        with write_errors(self.path(target), self.root):
            os.replace(self.path(source), self.path(target))

    def delete(self, name: str) -> None:
        """Remove a file; nothing happens if it is missing."""
        with write_errors(self.path(name), self.root):
            self.path(name).unlink(missing_ok=True)

    def delete_folder(self, folder: str) -> None:
        """Remove a folder and everything in it."""
        if self.path(folder).is_dir():
            with write_errors(self.path(folder), self.root):
                shutil.rmtree(self.path(folder))

    @contextmanager
    def lock(
        self, terms: LockTerms | None = None, on_lost: Callable[[str], None] | None = None
    ) -> Iterator[None]:
        """Hold the folder's lock.  The kernel frees it when the holder dies: none is ever stale.

        It cannot be lost, so that terms are not needed and `on_lost` is never called.

        If the block ends with an exception and nothing was written, the folder is removed again if
        this made it.

        Raises:
          Locked: at once, if another process holds it; the message names that process.
          UsageError: if there cannot be a folder of that name.
          StorageError: if it cannot be made or written to, or is gone when something is written.
        """
        holder = self.root / ".lock-holder"
        lock = FileLock(self.root / ".lock", timeout=0, is_singleton=False)
        made = [path for path in (self.root, *self.root.parents) if not path.exists()]
        is_new = not (self.root / ".lock").exists()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise Locked(
                f"{self.root} is being written by process {_process(holder)}; wait for it to end, "
                "or write to another output folder"
            ) from error
        except (NotADirectoryError, FileExistsError) as error:
            raise UsageError(
                f"output folder {self.root} cannot be written to ({error.strerror}); "
                "choose another, or change its permissions"
            ) from error
        except OSError as error:
            _remove_empty(made)
            raise write_error(error, self.root) from error
        try:
            with self.staying():
                with suppress(OSError):  # a full disk: the lock holds without its holder's name
                    holder.write_text(str(os.getpid()), encoding="utf-8")
                yield
        except BaseException:
            if is_new:
                self._withdraw(made)
            raise
        finally:
            _remove(holder)
            lock.release()

    def require_lock(self) -> None:
        """Nothing to refuse: the kernel gives the lock to nobody else while this process lives."""

    def _withdraw(self, made: list[Path]) -> None:
        """Remove a folder's new lock and the folders that were `made`, if nothing was written.

        In a folder that was there before, a user's own files stay, and so do empty folders.
        """
        inside = list(self.root.rglob("*"))
        own = {self.root / ".lock", self.root / ".lock-holder"}
        is_empty = all(path.is_dir() or path in own for path in inside)
        if is_empty or not (made or (self.root / names.MANIFEST).exists()):
            for path in own:
                _remove(path)
            if is_empty and made:
                for path in sorted(inside, reverse=True):
                    _remove_empty([path])
                _remove_empty(made)

    def staying(self) -> AbstractContextManager[None]:
        """Within the block a missing file is a `StorageError` if the folder itself is gone."""
        return staying_in_place(self.root)

    def free_bytes(self) -> int | None:
        """Return how many bytes are free on the disk of the folder; None if that is not known."""
        return free_bytes(self.root)

    def sweep(self, folders: tuple[str, ...], names: tuple[str, ...]) -> list[str]:
        """Remove files whose names end in the mark and 32 hexadecimal digits; their names, sorted.

        Only the holder of the lock may call this: it would remove a live writer's file too.
        """
        # A folder that vanishes meanwhile is passed over, where rglob raises; so are links.
        candidates = [
            Path(place, file)
            for name in folders
            if not self.path(name).is_symlink()
            for place, _, files in os.walk(self.path(name))
            for file in files
            if MARK in file
        ]
        candidates += [path for name in names for path in self.root.glob(f"{name}{MARK}*")]
        left = sorted(path for path in candidates if TEMPORARY.search(path.name) and path.is_file())
        for path in left:
            with write_errors(path, self.root):
                path.unlink()
        return [str(path.relative_to(self.root)) for path in left]

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with self._reading(folder), os.scandir(self.path(folder)) as entries:
                return list(entries)
        except (FileNotFoundError, NotADirectoryError):
            return []

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Within the block raise what the system refuses as `StorageError`, but a missing file."""
        with read_errors(self.path(name)):
            try:
                yield
            except FileNotFoundError:
                require_in_place(self.root)
                raise


def _is(kind: Callable[[], bool]) -> bool:
    """Whether an entry is of a kind; a link that leads nowhere or to itself is of none."""
    try:
        return kind()
    except OSError:
        return False


def _process(holder: Path) -> str:
    """Return what the lock's holder wrote; it may just be writing or removing the file."""
    try:
        return holder.read_text(encoding="utf-8") or "unknown"
    except OSError:
        return "unknown"


def _remove(path: Path) -> None:
    """Remove a file on the way out, where an error that is on its way already says more."""
    with suppress(OSError):
        path.unlink()


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, innermost first, up to the first that is not empty."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _sync_folder(folder: Path) -> None:
    """Force a rename in `folder` to disk, where the system lets folders be opened."""
    if os.name == "nt":  # Windows has no handle for this and orders renames itself.
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
