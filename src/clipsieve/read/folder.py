"""A folder of pictures as rows: what it holds, in a fixed order."""

import csv
import hashlib
import io
import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clipsieve.errors import UsageError
from clipsieve.read.items import SourceFingerprint
from clipsieve.read.sniff import PICTURES
from clipsieve.read.storage import fingerprint_of, locate, open_binary

#: Files of one line per picture, as Hugging Face `datasets` reads them, in any subfolder.
METADATA_NAMES = ("metadata.csv", "metadata.jsonl")


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

    def fingerprint(self, first: int, last: int) -> SourceFingerprint:
        """Return the fingerprint of rows first..last-1: their files and the metadata files."""
        names = dict.fromkeys(self.metadata)
        for row in self.rows[first:last]:
            names |= dict.fromkeys(name for name in (row.path, row.text, row.json) if name)
        state, size = hashlib.sha256(), 0
        for name in names:
            known = self.files.get(name)
            size += max(known.size, 0) if known else 0
            entry = [name, known.size, known.version] if known else [name]
            state.update(json.dumps(entry).encode() + b"\n")
        return SourceFingerprint(size, state.hexdigest(), len(self.rows[first:last]))


def folder_files(uri: str) -> dict[str, SourceFingerprint]:
    """Return relative path -> size and version of the files in a folder, at any depth, sorted.

    Names that begin with a dot, and what lies in folders of such names, are left out.

    Raises:
      OSError: the folder cannot be listed, or whatever else the store raises.
    """
    system, path = locate(uri)
    system.invalidate_cache(path)
    found = system.find(path, detail=True)
    base = path.rstrip("/")
    relative = {name[len(base) :].strip("/"): info for name, info in found.items()}
    return {
        name: fingerprint_of(relative[name])
        for name in sorted(relative)
        if not any(part.startswith(".") for part in name.split("/"))
    }


def is_picture(path: str) -> bool:
    """Return whether a file is called like a picture."""
    return path.rpartition(".")[2].lower() in PICTURES


def list_folder(uri: str, files: Mapping[str, SourceFingerprint] | None = None) -> FolderListing:
    """Return the rows of a folder of pictures, in the same order for the same content.

    A picture's caption is the `.txt` file of the same name beside it, its fields the `.json` file
    and the lines for it in a metadata file.  Two pictures that differ in extension only share
    them.  A line whose picture does not exist is a row without a file.

    Args:
      uri: the folder.
      files: `folder_files(uri)`, if it is at hand.

    Raises:
      UsageError: a metadata file has no `file_name`, is damaged, or is there in both forms.
      OSError: the folder cannot be read, or whatever else the store raises.
    """
    files = folder_files(uri) if files is None else files
    pictures = [name for name in files if is_picture(name)]
    metadata = tuple(name for name in files if posixpath.basename(name) in METADATA_NAMES)
    lines: dict[str, list[dict[str, Any]]] = {}
    for name in metadata:
        for path, fields in _metadata_lines(uri, name, metadata):
            lines.setdefault(path, []).append(fields)
    beside = {
        (stem, extension.lower()): name
        for name in files
        for stem, _, extension in [name.rpartition(".")]
        if extension.lower() in ("txt", "json")
    }
    rows = []
    used = {*pictures, *metadata}
    for path in sorted({*pictures, *lines}):
        stem = path.rpartition(".")[0]
        text, details = beside.get((stem, "txt")), beside.get((stem, "json"))
        used |= {name for name in (text, details) if name}
        for line in lines.get(path, [{}]):
            rows.append(FolderRow(path, files.get(path), text, details, line))
    return FolderListing(tuple(rows), files, metadata, len(files) - len(used))


def _metadata_lines(
    uri: str, name: str, metadata: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (path of the picture, other fields) of each line of a metadata file."""
    folder = posixpath.dirname(name)
    other = name[: -len("csv")] + "jsonl"
    if name.endswith(".csv") and other in metadata:
        raise UsageError(f"both {name} and {other} are in {uri}; keep one of them")
    with open_binary(f"{uri.rstrip('/')}/{name}") as handle:
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
    except (ValueError, csv.Error) as error:
        raise UsageError(f"cannot read {name} in {uri}: {error}; mend or remove it") from error


def _csv_lines(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
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
