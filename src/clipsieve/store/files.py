"""A folder of this machine as the file system of an output folder."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from clipsieve.errors import Locked, UsageError
from clipsieve.store import names
from clipsieve.store.file_system import MARK, TEMPORARY, FileStatus, Listing, temporary_name
from clipsieve.store.in_place import require_in_place, staying_in_place
from clipsieve.store.lock_terms import LockTerms
from clipsieve.store.name_limits import check_folder_name
from clipsieve.store.storage_errors import free_bytes, read_errors, write_error, write_errors


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

    def below(self, folder: str) -> "LocalFiles":
        """Return the file system of a folder below."""
        return LocalFiles(self.root / folder)

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
