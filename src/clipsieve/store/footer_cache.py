"""Footers of a folder in an object store, each read once as long as the object is the same.

A request for a footer takes as long as one for a thousand names.  So names are listed, and a footer
is asked for only if its object has not been seen in this version, by this process or by an earlier
run, which left what it knew in the folder.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping

import pyarrow as pa

from clipsieve.schemas.files import FOOTERS_SCHEMA
from clipsieve.store.file_system import FileStatus
from clipsieve.store.parquet import Footer


class FooterCache:
    """Footers by name and version."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._known: dict[str, tuple[FileStatus, Footer]] = {}
        self._is_changed = False
        self._is_loaded = False
        self._lock = threading.Lock()

    def load(self, read: Callable[[], pa.Table | None]) -> None:
        """Take over what an earlier run left, once.

        Args:
          read: returns its table; None if there is none.
        """
        with self._lock:
            if self._is_loaded:
                return
            self._is_loaded = True
            table = read()
            if table is None:
                return
            rows = table.to_pylist()
            known = {
                row["name"]: (FileStatus(row["bytes"], row["version"]), dict(row["footer"]))
                for row in rows
            }
            self._known = {**known, **self._known}

    def find(self, name: str, status: FileStatus) -> Footer | None:
        """Return the footer of an object in this version; None if it was never read."""
        known = self._known.get(name)
        return known[1] if known is not None and known[0] == status else None

    def add(self, name: str, status: FileStatus, footer: Footer) -> None:
        """Keep a footer that was read of an object that was listed in this version before."""
        if footer:
            with self._lock:
                self._known[name] = (status, footer)
                self._is_changed = True

    def table(self, present: Collection[str]) -> pa.Table | None:
        """Return what is known of the objects that are `present`; None if that is nothing new."""
        there = frozenset(present)
        with self._lock:
            if not self._is_changed:
                return None
            self._is_changed = False
            rows = [
                {"name": name, "bytes": s.bytes, "version": s.version, "footer": list(f.items())}
                for name, (s, f) in sorted(self._known.items())
                if name in there
            ]
        return pa.Table.from_pylist(rows, schema=FOOTERS_SCHEMA)


def by_folder(names: Iterable[str]) -> Mapping[str, list[str]]:
    """Return the names, each with its folder before it, by that folder."""
    folders: dict[str, list[str]] = {}
    for name in names:
        folders.setdefault(name.rpartition("/")[0], []).append(name)
    return folders


_caches: dict[str, FooterCache] = {}


def footer_cache(url: str) -> FooterCache:
    """Return the cache of the folder at a URL, one in this process."""
    return _caches.setdefault(url, FooterCache())
