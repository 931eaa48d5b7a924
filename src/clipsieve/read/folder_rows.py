"""Rows of a folder of pictures, read file by file or, from object stores, many at once."""

from collections.abc import Iterable, Iterator, Sequence

from clipsieve.read.batch import RowBatch
from clipsieve.read.folder import FolderRow, list_folder
from clipsieve.read.items import WorkItem
from clipsieve.read.samples import Sample, batches_of
from clipsieve.read.source import SourceConfig
from clipsieve.read.storage import is_local, locate

_FILES_AT_ONCE = 256


def read_folder(item: WorkItem, source: SourceConfig) -> Iterator[RowBatch]:
    """Yield the rows of an item in order, about `source.byte_budget` bytes a batch.

    Raises:
      ValueError: the folder is no longer as it was planned.
      OSError: the folder cannot be listed, or whatever else the store raises.
    """
    listing = list_folder(item.uri)
    first, last = item.files or (0, len(listing.rows))
    if listing.fingerprint(first, last) != item.fingerprint:
        raise ValueError("the folder has changed since it was planned; plan again")
    rows = listing.rows[first:last]
    yield from batches_of(folder_samples(item.uri, rows, source.byte_budget), source, item.start)


def count_folder(item: WorkItem) -> int:
    """Return the number of rows that the range of the item has now."""
    rows = list_folder(item.uri).rows
    first, last = item.files or (0, len(rows))
    return len(rows[first:last])


def folder_samples(uri: str, rows: Iterable[FolderRow], byte_budget: int) -> Iterator[Sample]:
    """Yield the samples of rows, reading at most about half of `byte_budget` ahead.

    A picture that is missing or that may not be read is a sample without image, and says why.
    """
    for group in _groups(rows, byte_budget // 2):
        pictures = [row.path for row in group if row.file is not None]
        others = [name for row in group for name in (row.text, row.json) if name is not None]
        content = _contents(uri, list(dict.fromkeys([*pictures, *others])))
        for row in group:
            image, missing = None, f"there is no file {row.path}"
            if row.file is not None:
                image, missing = content[row.path]
            yield Sample(
                key=row.path,
                image=image,
                text=content[row.text][0] if row.text else None,
                json=content[row.json][0] if row.json else None,
                fields=dict(row.fields),
                missing=missing if image is None else None,
            )


def _groups(rows: Iterable[FolderRow], budget: int) -> Iterator[list[FolderRow]]:
    group: list[FolderRow] = []
    size = 0
    for row in rows:
        grown = max(row.file.size, 0) if row.file else 0
        if group and (size + grown > budget or len(group) >= _FILES_AT_ONCE):
            yield group
            group, size = [], 0
        group.append(row)
        size += grown
    if group:
        yield group


def _contents(uri: str, names: Sequence[str]) -> dict[str, tuple[bytes | None, str]]:
    """Return name -> (bytes, "") or (None, why they cannot be read)."""
    system, base = locate(uri)
    paths = {name: f"{base.rstrip('/')}/{name}" for name in names}
    if not is_local(system):  # one call, so that the store can answer many at once
        found = system.cat(list(paths.values())) if paths else {}
        return {name: (found[path], "") for name, path in paths.items()}
    contents: dict[str, tuple[bytes | None, str]] = {}
    for name, path in paths.items():
        try:
            with open(path, "rb") as handle:
                contents[name] = handle.read(), ""
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            contents[name] = None, f"cannot read {name}: {error.strerror}"
    return contents
