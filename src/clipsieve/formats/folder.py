"""Folders of pictures: what they hold in a fixed order, cut into ranges of their sorted rows."""

import csv
import hashlib
import io
import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, BinaryIO

from clipsieve.errors import UsageError
from clipsieve.formats.base import (
    Format,
    InputFormat,
    InputPlan,
    ReadOptions,
    RowBatch,
    Shard,
    SourceConfig,
    SourceFingerprint,
    WorkItem,
)
from clipsieve.formats.columns import NO_CAPTIONS
from clipsieve.formats.inputs import (
    NotAFileError,
    info_fingerprint,
    local_path,
    locate,
    open_binary,
)
from clipsieve.formats.names import escaped_path, fitted_name, join_uri, plural, safe_name, uri_path
from clipsieve.formats.samples import (
    MAX_JSON_BYTES,
    PICTURES,
    PROBED_SAMPLES,
    TEXT_FILE,
    Sample,
    SampleLimits,
    batch_samples,
    caption_note,
    learn_columns,
)

_METADATA_NAMES = ("metadata.csv", "metadata.jsonl")
_MAX_FILES_PER_GROUP = 256
# Of a field in metadata.csv.  A quote that is never closed takes the rest of the file, which must
# not pass for a caption.
_MAX_CSV_FIELD = 16 << 20


@dataclass(frozen=True, slots=True)
class FolderRow:
    """One row: a picture, or a line of metadata whose picture is missing.

    Attributes:
      path: of the picture, relative to the folder, with `/`.
      file: size and version of the picture, None if there is no such file.
      text: path of the caption file beside it, or None.
      json: path of the JSON file beside it, or None.
      fields: its line of metadata without `file_name`, empty if it has none.
    """

    path: str
    file: SourceFingerprint | None
    text: str | None = None
    json: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FolderListing:
    """The rows of a folder, sorted by path; several lines for one picture keep their order.

    Attributes:
      rows: see `FolderRow`.
      files: size and version of every file, by relative path.
      metadata: paths of the metadata files.
      ignored: number of files that are no picture, caption or metadata.
    """

    rows: tuple[FolderRow, ...]
    files: Mapping[str, SourceFingerprint]
    metadata: tuple[str, ...]
    ignored: int

    @classmethod
    def from_folder(
        cls, uri: str, files: Mapping[str, SourceFingerprint] | None = None
    ) -> "FolderListing":
        """List the rows of a folder of pictures, in the same order for the same content.

        A picture's caption is the `.txt` file of the same name beside it, its fields the `.json`
        file and the lines for it in a metadata file.  Two pictures that differ in extension only
        share them.  A line whose picture does not exist is a row without a file.

        Args:
          uri: the folder.
          files: `folder_files(uri)`, if it is at hand.

        Raises:
          UsageError: a metadata file has no `file_name`, is damaged, or exists in both forms.
          OSError: the folder cannot be read, or whatever else the store raises.
        """
        files = folder_files(uri) if files is None else files
        pictures = {name for name in files if is_picture(name)}
        metadata = tuple(name for name in files if is_metadata(name))
        lines: dict[str, list[dict[str, Any]]] = {}
        for name in metadata:
            for path, fields in _metadata_lines(uri, name, metadata):
                lines.setdefault(path, []).append(fields)
        sidecars = {
            (stem, extension.lower()): name
            for name in files
            for stem, _, extension in [name.rpartition(".")]
            if extension.lower() in ("txt", "json")
        }
        rows = []
        used = {*pictures, *metadata}
        for path in sorted({*pictures, *lines}):
            stem = path.rpartition(".")[0]
            text, details = sidecars.get((stem, "txt")), sidecars.get((stem, "json"))
            used |= {name for name in (text, details) if name}
            for line in lines.get(path, [{}]):
                rows.append(FolderRow(path, files.get(path), text, details, line))
        return cls(tuple(rows), files, metadata, len(files) - len(used))

    def fingerprint(self, first: int, last: int) -> SourceFingerprint:
        """Return the fingerprint of rows first..last-1: their files and the metadata files."""
        names = dict.fromkeys(self.metadata)
        for row in self.rows[first:last]:
            names |= dict.fromkeys(name for name in (row.path, row.text, row.json) if name)
        state, size = hashlib.sha256(), 0
        for name in names:
            file = self.files.get(name)
            size += max(file.size, 0) if file else 0
            entry = [name, file.size, file.version] if file else [name]
            state.update(json.dumps(entry).encode() + b"\n")
        return SourceFingerprint(size, state.hexdigest(), len(self.rows[first:last]))


class Folder(Format):
    """Image files, captions beside them or in metadata files."""

    name = InputFormat.FOLDER
    label = "a folder of pictures"

    def sniff(self, file: BinaryIO) -> bool:
        """No single file is a folder."""
        return False

    def plan(self, shards: Sequence[Shard], options: ReadOptions) -> InputPlan:
        """List the folders, learn fields from metadata and the first JSON files."""
        if options.image_col is not None:
            raise UsageError(
                f"image_col {options.image_col!r} has no meaning for folders of pictures; leave "
                "it out"
            )
        listings = [(shard, FolderListing.from_folder(shard.uri, shard.files)) for shard in shards]
        samples = _first_samples(listings, SampleLimits.from_options(options))
        columns = learn_columns(samples, shards[0].uri, InputFormat.FOLDER, options)
        rows = [row for _, listing in listings for row in listing.rows]
        texts = sum(row.text is not None for row in rows)
        caption = columns.caption
        if texts and caption is None and options.caption_col != NO_CAPTIONS:
            caption = TEXT_FILE
        has_metadata = any(listing.metadata for _, listing in listings)
        flavour = "imagefolder" if has_metadata else "folder"
        source = columns.source(self.name, flavour, options, None, caption)
        parts = [
            f"folder of pictures ({source.flavour})",
            plural(len(listings), "folder"),
            plural(len(rows), "row"),
            caption_note(caption) + (f" ({texts:,} files)" if caption == TEXT_FILE else ""),
            columns.uid_note(),
        ]
        text = ", ".join(parts)
        missing = sum(row.file is None for row in rows)
        if missing:
            text += f"; {missing:,} named in metadata but missing"
        ignored = sum(listing.ignored for _, listing in listings)
        if ignored:
            text += f"; {plural(ignored, 'other file')} ignored"
        items = tuple(
            item for shard, listing in listings for item in _items(shard, listing, options)
        )
        return InputPlan(items, source, text + columns.carried.renaming_note())

    def read(self, item: WorkItem, source: SourceConfig) -> Iterator[RowBatch]:
        """Read the files of an item's rows."""
        listing = FolderListing.from_folder(item.uri)
        first, last = item.files or (0, len(listing.rows))
        if listing.fingerprint(first, last) != item.fingerprint:
            raise ValueError("the folder has changed since it was planned; plan again")
        limits = SampleLimits.from_source(source)
        samples = folder_samples(
            item.uri, listing.rows[first:last], listing.files, limits, source.byte_budget
        )
        yield from batch_samples(samples, source, item.start)

    def count(self, item: WorkItem) -> int:
        """Count the rows that the range of the item has in a new listing."""
        rows = FolderListing.from_folder(item.uri).rows
        return len(rows[slice(*(item.files or (0, len(rows))))])

    def fingerprint(self, item: WorkItem) -> SourceFingerprint:
        """Return the fingerprint of the item's files in a new listing."""
        return FolderListing.from_folder(item.uri).fingerprint(*(item.files or (0, 0)))


def folder_files(uri: str) -> dict[str, SourceFingerprint]:
    """Return relative path -> size and version of the files in a folder, at any depth, sorted.

    Names that begin with a dot, and what lies in folders of such names, are left out.

    Raises:
      OSError: the folder cannot be listed, or whatever else the store raises.
    """
    system, path = locate(uri)
    system.invalidate_cache(path)
    base = len(path.rstrip("/"))
    infos = {name[base:].strip("/"): info for name, info in system.find(path, detail=True).items()}
    return {
        name: info_fingerprint(infos[name])
        for name in sorted(infos)
        if not any(part.startswith(".") for part in name.split("/"))
    }


def is_picture(path: str) -> bool:
    """Return whether a file is called like a picture."""
    return path.rpartition(".")[2].lower() in PICTURES


def is_metadata(path: str) -> bool:
    """Return whether a file has one line per picture, as Hugging Face `datasets` reads them."""
    return posixpath.basename(path) in _METADATA_NAMES


def folder_samples(
    uri: str,
    rows: Iterable[FolderRow],
    files: Mapping[str, SourceFingerprint],
    limits: SampleLimits,
    byte_budget: int,
) -> Iterator[Sample]:
    """Yield the samples of rows, reading at most about half of `byte_budget` ahead.

    A picture that is missing or that may not be read is a sample without image, and says why.
    """
    sizes = {name: max(file.size, 0) for name, file in files.items()}
    for group in _groups(rows, byte_budget // 2):
        reading: dict[str, int] = {}
        for row in group:
            if row.file is not None and sizes[row.path] <= limits.image:
                reading[row.path] = sizes[row.path]
            if row.text is not None:
                reading[row.text] = min(sizes[row.text], limits.text)
            if row.json is not None and sizes[row.json] <= MAX_JSON_BYTES:
                reading[row.json] = sizes[row.json]
        contents = _read_files(uri, reading, sizes)
        for row in group:
            image, missing = None, f"there is no file {escaped_path(row.path)}"
            if row.file is not None:
                image, missing = contents.get(row.path, (None, "it is too large"))
            yield Sample(
                key=escaped_path(row.path),
                image=image,
                text=contents[row.text][0] if row.text else None,
                json=contents[row.json][0] if row.json in contents else None,
                fields=dict(row.fields),
                missing=missing if image is None else None,
                image_bytes=sizes[row.path] if row.file else 0,
                text_bytes=sizes[row.text] if row.text else 0,
                json_bytes=sizes[row.json] if row.json else 0,
            )


def _items(shard: Shard, listing: FolderListing, options: ReadOptions) -> Iterator[WorkItem]:
    folder = shard.relative or uri_path(shard.uri).rstrip("/").rpartition("/")[2]
    name = options.shard_prefix + safe_name(folder.replace("/", "__"))
    step = options.rows_per_item
    for number, first in enumerate(range(0, len(listing.rows), step)):
        last = min(first + step, len(listing.rows))
        yield WorkItem(
            shard=fitted_name(name, f"-{number:05d}"),
            uri=shard.uri,
            format=InputFormat.FOLDER,
            start=first,
            row_groups=None,
            fingerprint=listing.fingerprint(first, last),
            files=(first, last),
        )


def _first_samples(
    listings: Sequence[tuple[Shard, FolderListing]], limits: SampleLimits
) -> Iterator[Sample]:
    """Yield what shows the columns: all lines of metadata, the first caption and JSON files."""
    for shard, listing in listings:
        rows = (replace(row, file=None) for row in listing.rows if row.json or row.text)
        probed = islice(rows, PROBED_SAMPLES)
        yield from folder_samples(shard.uri, probed, listing.files, limits, 1 << 20)
        for row in listing.rows:
            if row.fields:
                yield Sample(escaped_path(row.path), fields=dict(row.fields))


def _metadata_lines(
    uri: str, name: str, metadata: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (path of the picture, other fields) of each line of a metadata file."""
    folder = posixpath.dirname(name)
    other = name[: -len("csv")] + "jsonl"
    if name.endswith(".csv") and other in metadata:
        raise UsageError(f"both {name} and {other} are in {uri}; keep one of them")
    with open_binary(join_uri(uri, name)) as handle:
        text = handle.read().decode("utf-8-sig", "replace")
    try:
        lines = _csv_lines(text) if name.endswith(".csv") else _json_lines(text)
        for number, fields in lines:
            file_name = fields.pop("file_name", None)
            if not isinstance(file_name, str) or not file_name:
                raise UsageError(
                    f"no file_name in line {number} of {name} in {uri}; each line must name its "
                    "picture, relative to the metadata file"
                )
            yield posixpath.normpath(posixpath.join(folder, file_name)), fields
    except (ValueError, RecursionError, csv.Error) as error:
        raise UsageError(f"cannot read {name} in {uri}: {error}; mend or remove it") from error


def _csv_lines(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_CSV_FIELD))  # of the whole process
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="rest_of_line")
    for fields in reader:
        yield reader.line_num, fields


def _json_lines(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            fields = json.loads(line)
            if not isinstance(fields, dict):
                raise ValueError(f"line {number} is no JSON object")
            yield number, fields


def _groups(rows: Iterable[FolderRow], budget: int) -> Iterator[list[FolderRow]]:
    """Yield runs of rows whose pictures take at most `budget` bytes, or of one larger picture."""
    group: list[FolderRow] = []
    size = 0
    for row in rows:
        row_size = max(row.file.size, 0) if row.file else 0
        if group and (size + row_size > budget or len(group) >= _MAX_FILES_PER_GROUP):
            yield group
            group, size = [], 0
        group.append(row)
        size += row_size
    if group:
        yield group


def _read_files(
    uri: str, reading: Mapping[str, int], sizes: Mapping[str, int]
) -> dict[str, tuple[bytes | None, str]]:
    """Return name -> (bytes, "") or (None, why they cannot be read).

    Args:
      uri: the folder.
      reading: how many bytes to read of each file; one of unknown size is read whole.
      sizes: how many each file has.
    """
    if not reading:
        return {}
    if local_path(uri) is None:  # one call, so that the store can answer many at once
        system, base = locate(uri)
        paths = {name: f"{base.rstrip('/')}/{name}" for name in reading}
        whole = [paths[name] for name, size in reading.items() if size == sizes[name]]
        contents = system.cat(whole) if whole else {}
        for name, size in reading.items():
            if size < sizes[name]:
                contents[paths[name]] = system.cat_file(paths[name], end=size)
        return {name: (contents[path], "") for name, path in paths.items()}
    files: dict[str, tuple[bytes | None, str]] = {}
    for name, size in reading.items():
        try:
            with open_binary(join_uri(uri, name)) as handle:
                files[name] = handle.read(size), ""
        except (FileNotFoundError, PermissionError, IsADirectoryError, NotAFileError) as error:
            files[name] = None, f"cannot read {escaped_path(name)}: {error.strerror}"
    return files
