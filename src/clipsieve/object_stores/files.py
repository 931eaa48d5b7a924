"""The folder of an object store as the file system of an output folder.

Objects are written whole: to a local temporary file, then by one request (or one multi-part
upload, which the store shows when it is complete).  A stream would not do: both pyarrow and s3fs
commit the half-written object when its `with` block raises.
"""

import io
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from clipsieve.formats.inputs import info_fingerprint
from clipsieve.object_stores.address import canonical_url, connect
from clipsieve.object_stores.errors import refusal, store_errors
from clipsieve.object_stores.lock import NumberedLock, held_lock
from clipsieve.store.file_system import LISTERS, TEMPORARY, FileStatus, Listing, temporary_stem
from clipsieve.store.lock_terms import LockTerms
from clipsieve.store.storage_errors import write_errors
from clipsieve.terminal import escaped

#: Bytes at an object's end that are read for a footer.
TAIL_BYTES = 1 << 16
#: Objects up to this size are read by one request when they are opened, larger ones in parts.
WHOLE_BYTES = 64 << 20
#: Of the parts of larger ones.
_BLOCK_BYTES = 8 << 20
#: For how long queries may use a listing.
_LISTINGS_SECONDS = 5.0
#: Where the numbered locks are.
LOCK_FOLDER = ".lock"
#: Ends a Parquet file: four bytes of length, then its magic.
_PARQUET_END = 8


class ObjectStoreFiles:
    """Objects below one URL.  See `clipsieve.store.file_system.FileSystem`.

    Attributes:
      root: the URL, without a slash at its end.
      system: the fsspec file system.
    """

    is_remote = True

    def __init__(self, root: str) -> None:
        """Name the folder; nothing is asked of the store yet.

        Raises:
          UsageError: see `canonical_url` and `connect`.
        """
        self.root = canonical_url(root)
        self.system, self._path = connect(self.root)

    def url(self, name: str = "") -> str:
        """Return the URL of an object."""
        return f"{self.root}/{name}" if name else self.root

    def below(self, folder: str) -> "ObjectStoreFiles":
        """Return the file system of a folder below."""
        return ObjectStoreFiles(self.url(folder))

    # Listings

    def entries(self, folder: str) -> Listing:
        """Return what is directly in a folder, by one request for each 1,000 objects."""
        path = self._key(folder)
        try:
            with store_errors("list", self.url(folder)):
                # Not every store heeds `use_listings_cache`.
                self.system.invalidate_cache()
                found = self.system.ls(path, detail=True)
        except FileNotFoundError:
            return Listing({}, ())
        files: dict[str, FileStatus] = {}
        folders: list[str] = []
        for info in found:
            name = str(info["name"]).rstrip("/")
            if name == path:  # the placeholder by which consoles make folders
                continue
            last = name.rpartition("/")[2]
            if info["type"] == "directory":
                folders.append(last)
            else:
                files[last] = _status(info)
        return Listing(dict(sorted(files.items())), tuple(sorted(folders)))

    def list_files(self, folder: str) -> list[str]:
        """Names of the objects directly in `folder`, sorted; [] if there is none."""
        return list(self.entries(folder).files)

    def list_folders(self, folder: str) -> list[str]:
        """Names of the folders directly in `folder`, sorted; [] if there is none."""
        return list(self.entries(folder).folders)

    def exists(self, name: str) -> bool:
        """Whether there is an object of this name.

        By its first byte: s3fs asks twice for the status of an object that is missing.
        """
        try:
            with store_errors("read", self.url(name)):
                self._first(name, 1)
        except FileNotFoundError:
            return False
        return True

    def status(self, name: str) -> FileStatus:
        """Return an object's size, and a number that changes with its content."""
        with store_errors("read", self.url(name)):
            info = self.system.info(self._key(name))
        if info["type"] == "directory":
            raise FileNotFoundError(self.url(name))
        return _status(info)

    def query_system(self) -> Any:
        """Return a file system that may keep listings for some seconds, for one who only reads.

        DuckDB asks for the size and time of each file of a glob, one by one.
        """
        return connect(self.root, listings_seconds=_LISTINGS_SECONDS)[0]

    # Reading

    def read(self, name: str, limit: int | None = None) -> bytes:
        """Return the content of an object, of at most `limit` bytes."""
        with store_errors("read", self.url(name)):
            content = self._first(name, limit or WHOLE_BYTES)
            if limit is not None or len(content) < WHOLE_BYTES:
                return content
            whole: bytes = self.system.cat_file(self._key(name))  # in parts
            return whole

    def open(self, name: str) -> pa.NativeFile:
        """Open an object for random access; all but large ones are read by one request."""
        with store_errors("read", self.url(name)):
            content = self._first(name, WHOLE_BYTES)
            if len(content) < WHOLE_BYTES:
                return pa.BufferReader(content)
            return pa.PythonFile(
                self.system.open(self._key(name), "rb", block_size=_BLOCK_BYTES), mode="r"
            )

    def read_footer(self, name: str) -> pq.FileMetaData:
        """Return the Parquet metadata of an object, by one request if it has less than 64 KiB."""
        with store_errors("read", self.url(name)):
            tail = self._last(name, TAIL_BYTES)
            length = int.from_bytes(tail[-_PARQUET_END:-4], "little") + _PARQUET_END
            if len(tail) == TAIL_BYTES and tail.endswith(b"PAR1") and length > TAIL_BYTES:
                tail = self._last(name, length)
        return pq.read_metadata(io.BytesIO(tail))

    def _first(self, name: str, count: int) -> bytes:
        """Return the first `count` bytes of an object, all of one that is shorter: one request."""
        try:
            first: bytes = self.system.cat_file(self._key(name), start=0, end=count)
        except FileNotFoundError:
            raise
        except Exception:
            # Stores refuse a range of an empty object, each with another exception.
            if self.status(name).bytes:
                raise
            return b""
        return first

    def _last(self, name: str, count: int) -> bytes:
        """Return the last `count` bytes of an object, all of one that is shorter."""
        start = -count
        if "abfs" in self.system.protocol:  # Azure has no ranges that count from the end
            start = max(self.status(name).bytes - count, 0)
        last: bytes = self.system.cat_file(self._key(name), start=start)
        return last

    # Writing

    @contextmanager
    def writing(self, name: str, durable: bool = True) -> Iterator[Path]:
        """Give a local temporary path whose content becomes the object when the block ends well.

        Of two writers of one name the last to finish wins.  Every object is durable.
        """
        with TemporaryDirectory(prefix="clipsieve-") as scratch:
            path = Path(scratch) / os.path.basename(temporary_stem(name))
            with write_errors(path, Path(scratch)):
                yield path
            lock = held_lock(self.root)
            if lock is not None:
                lock.require(ask=False)
            with self._writing(name):
                self.system.put_file(os.fspath(path), self._key(name))

    def copy(self, source: str, target: str) -> None:
        """Give the content of `source` to `target` too, within the store."""
        with self._writing(target):
            self.system.cp_file(self._key(source), self._key(target))

    def rename(self, source: str, target: str) -> None:
        """Give an object another name: copied, then removed."""
        self.require_lock()
        self.copy(source, target)
        self.delete(source)

    def delete(self, name: str) -> None:
        """Remove an object; nothing happens if it is missing."""
        try:
            with store_errors("delete", self.url(name)):
                self.system.rm_file(self._key(name))
        except FileNotFoundError:
            pass

    def delete_folder(self, folder: str) -> None:
        """Remove everything below `folder`."""
        self.require_lock()
        try:
            with store_errors("delete", self.url(folder)):
                self.system.invalidate_cache()
                self.system.rm(self._key(folder), recursive=True)
        except FileNotFoundError:
            pass

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """Within the block also a missing bucket is a `StorageError`."""
        with store_errors("write to", self.url(name)):
            try:
                yield
            except FileNotFoundError as error:
                raise refusal("write to", self.url(name), error) from error

    # The lock

    @contextmanager
    def lock(
        self, terms: LockTerms | None = None, on_lost: Callable[[str], None] | None = None
    ) -> Iterator[None]:
        """Hold the folder's lock; see `NumberedLock`.

        If the block ends with an exception and nothing was written, the lock's object is removed
        again if it was the folder's first.

        Raises:
          Locked: at once, if another process holds it, and at the end, if one has taken it over.
          UsageError: if the store has no conditional writes, and the terms require a lock.
          StorageError: if it refuses to be written to.
        """
        terms = terms or LockTerms()
        lock = NumberedLock(self.system, self._key(LOCK_FOLDER), self.root, terms, on_lost)
        with self._writing(f"{LOCK_FOLDER}/"):
            is_locked = lock.acquire()
        if not is_locked:
            yield
            return
        try:
            yield
            self.require_lock()
        except BaseException:
            is_empty = lock.number == 1 and not self._is_used()
            lock.release(forget=is_empty)
            raise
        lock.release()

    def _is_used(self) -> bool:
        """Whether there is anything beside the lock; yes if the store does not say."""
        try:
            found = self.entries("")
        except Exception:  # the error that is on its way says more
            return True
        return bool(found.files) or any(folder != LOCK_FOLDER for folder in found.folders)

    def require_lock(self) -> None:
        """Refuse to go on if this process held the lock and another one has taken it over.

        Raises:
          Locked: says so.
        """
        lock = held_lock(self.root)
        if lock is not None:
            lock.require()

    def staying(self) -> AbstractContextManager[None]:
        """Nothing to watch: objects have no folder that could be moved away."""
        return nullcontext()

    def free_bytes(self) -> int | None:
        """Return None: stores do not say."""
        return None

    def sweep(self, folders: tuple[str, ...], names: tuple[str, ...]) -> list[str]:
        """Remove what interrupted work left: objects with temporary names, and parts of uploads.

        Temporary names are only given directly in a folder of `folders`, as interrupted writes
        leave no object.  Parts of interrupted uploads, which stores keep and charge for, are
        removed where the protocol is S3's.
        """
        self.require_lock()
        with ThreadPoolExecutor(LISTERS, "clipsieve-sweep") as pool:
            listed = list(pool.map(self.list_files, folders))
        found = [
            f"{folder}/{name}"
            for folder, files in zip(folders, listed, strict=True)
            for name in files
            if TEMPORARY.search(name)
        ]
        for name in found:
            self.delete(name)
        self._abort_uploads()
        return sorted(found)

    def _abort_uploads(self) -> None:
        """Abort the multi-part uploads below the folder that were begun and not completed.

        Where the rights for that are missing, a line on standard error says so; nothing depends on
        it.
        """
        if not hasattr(self.system, "call_s3"):
            return
        try:
            self._abort_each()
        except PermissionError as error:
            text = (
                f"clipsieve: interrupted uploads to {self.root}, if there are any, stay: {error}; "
                "allow s3:ListBucketMultipartUploads and s3:AbortMultipartUpload, or give the "
                "bucket a life-cycle rule"
            )
            print(escaped(text), file=sys.stderr)

    def _abort_each(self) -> None:
        bucket, _, prefix = self._path.partition("/")
        with store_errors("list uploads to", self.root, passing=(PermissionError,)):
            found: dict[str, Any] = self.system.call_s3(
                "list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/" if prefix else ""
            )
            for upload in found.get("Uploads", []):
                self.system.call_s3(
                    "abort_multipart_upload",
                    Bucket=bucket,
                    Key=upload["Key"],
                    UploadId=upload["UploadId"],
                )

    def _key(self, name: str) -> str:
        return f"{self._path}/{name}" if name else self._path


def _status(info: dict[str, Any]) -> FileStatus:
    """Return size and version of a listing's entry; a version that never was if it has none."""
    listed = info_fingerprint(info)
    if not listed.version:
        return FileStatus(listed.size, uuid4().int >> 68)
    # Azure quotes the ETag in one answer and not in another.
    digest = sha256(listed.version.strip('"').encode()).hexdigest()
    return FileStatus(listed.size, int(digest[:15], 16))
