"""An output folder that is looked at once: for a reader that asks the same again and again."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, cast

import pyarrow.parquet as pq

from clipsieve.store.file_system import LISTERS, FileStatus, FileSystem, Listing
from clipsieve.store.folder import OutputFolder


def frozen(folder: OutputFolder, ahead: Collection[str] = ()) -> OutputFolder:
    """Return the same folder, whose listings and footers stay as they are when first asked for.

    To write SQL, some sixty questions are asked of the same few files, each of which is a request
    in an object store.  For reading only, and for as long as nothing changes.

    Args:
      folder: the output folder.
      ahead: folders that will be listed; in an object store all of them are listed at once.
    """
    files = _FrozenFiles(folder.files)
    if ahead and folder.files.is_remote:
        with ThreadPoolExecutor(LISTERS, "clipsieve-list") as pool:
            list(pool.map(files.entries, dict.fromkeys(ahead)))
    return OutputFolder(cast(FileSystem, files))


class _FrozenFiles:
    """Remembers what a file system has answered; everything else goes to it."""

    def __init__(self, files: FileSystem) -> None:
        self._files = files
        self._entries = cache(files.entries)
        self._footer = cache(files.read_footer)

    def entries(self, folder: str) -> Listing:
        return self._entries(folder)

    def list_files(self, folder: str) -> list[str]:
        return list(self._entries(folder).files)

    def list_folders(self, folder: str) -> list[str]:
        return list(self._entries(folder).folders)

    def status(self, name: str) -> FileStatus:
        folder, _, last = name.rpartition("/")
        try:
            return self._entries(folder).files[last]
        except KeyError:
            raise FileNotFoundError(self._files.url(name)) from None

    def exists(self, name: str) -> bool:
        folder, _, last = name.rpartition("/")
        return last in self._entries(folder).files

    def read_footer(self, name: str) -> pq.FileMetaData:
        return self._footer(name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)
