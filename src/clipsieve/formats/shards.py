"""Which of the listed files and folders are shards, and of which format they all are."""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from clipsieve.errors import NoInput, UsageError
from clipsieve.formats.base import AUTO, Format, InputFormat, Shard
from clipsieve.formats.folder import folder_files, is_metadata, is_picture
from clipsieve.formats.inputs import (
    THREADS,
    InputPath,
    file_fingerprint,
    local_path,
    open_binary,
)
from clipsieve.formats.names import join_uri, plural
from clipsieve.formats.sidecar import sidecar_uri

Formats = Mapping[InputFormat, Format]

_HEAD = 16
_OTHER_FILES = (
    (b"\xff\xd8\xff", "a JPEG picture; name the folder it is in"),
    (b"\x89PNG", "a PNG picture; name the folder it is in"),
    (b"PARE", "an encrypted Parquet file; decrypt it first"),
    (b"ARROW1", "an Arrow file; convert it to Parquet"),
    (b"PK\x03\x04", "a zip archive; unpack it and name the folder"),
)


def find_shards(
    inputs: Sequence[InputPath], input_format: str, formats: Formats
) -> tuple[Format, tuple[Shard, ...], tuple[str, ...]]:
    """Return the format of the inputs, the shards among them, and notes for the description.

    Folders are looked into, files are recognized by their first bytes.  A folder with tars is
    these tars, else its Parquet files, else its pictures.  A Parquet file with the name of a tar
    beside it is no shard: it may be img2dataset's sidecar, which planning of the tar looks at.
    Damaged files whose name claims a format are shards with a problem; other files are refused if
    they were named in full, else left out and counted.

    Args:
      inputs: from `find_inputs`.
      input_format: a format, or "auto".
      formats: the formats to recognize.

    Raises:
      UsageError: there is no shard, formats are mixed, or they are not the one asked for.
    """
    notes: list[str] = []
    shards: list[tuple[InputFormat | None, Shard]] = []
    files: list[tuple[Shard, bool]] = []
    for path in inputs:
        if not path.folder:
            files.append((Shard(path.uri, path.relative, path.fingerprint), path.explicit))
            continue
        for inside in _look_into(path, input_format, formats, notes):
            if inside.files is not None:
                shards.append((InputFormat.FOLDER, inside))
            else:
                files.append((inside, False))
    if input_format != InputFormat.PARQUET:
        files = _without_sidecars(files, formats)
    sniffed = _sniff_all((shard for shard, _ in files), formats)
    ignored = 0
    for (shard, explicit), (format, words) in zip(files, sniffed, strict=True):
        if format is not None:
            if input_format not in (AUTO, format):
                raise UsageError(
                    f"{shard.uri} is {formats[format].describe(shard.uri)}, but input_format is "
                    f"{input_format}; leave input_format out, or make it {format}"
                )
            shards.append((format, shard))
        elif any(format.claims(shard.uri) for format in formats.values()):
            shards.append((None, replace(shard, problem=f"it is {words}")))
        elif explicit:
            raise UsageError(
                f"{shard.uri} is {words}; inputs are Parquet files, webdataset tars or folders"
            )
        else:
            ignored += 1
    if not shards:
        example = f", such as {files[0][0].uri}, which is {sniffed[0][1]}" if files else ""
        raise UsageError(
            f"none of the {len(files):,} files found is a Parquet file or tar{example}; check the "
            "pattern"
        )
    if ignored:
        notes.append(f"{plural(ignored, 'other file')} ignored")
    return formats[_one_format(shards)], tuple(shard for _, shard in shards), tuple(notes)


def _look_into(
    path: InputPath, input_format: str, formats: Formats, notes: list[str]
) -> list[Shard]:
    """Return the folder itself if it is a folder of pictures, else the shard files in it."""
    try:
        files = folder_files(path.uri)
    except OSError as error:
        raise UsageError(f"cannot list {path.uri}: {error}; check your access to it") from error
    visible = [name for name in files if not any(p.startswith("_") for p in name.split("/"))]
    tars = [name for name in visible if formats[InputFormat.WEBDATASET].claims(name)]
    tables = [name for name in visible if formats[InputFormat.PARQUET].claims(name)]
    pictures = [name for name in files if is_picture(name)]
    members = {
        InputFormat.WEBDATASET: tars,
        InputFormat.PARQUET: tables,
        InputFormat.FOLDER: pictures or [name for name in files if is_metadata(name)],
    }
    if input_format != AUTO:
        format = InputFormat(input_format)
    elif tables and not tars and _describe_pictures(tables, pictures):
        format = InputFormat.FOLDER
    else:
        format = next((format for format, names in members.items() if names), InputFormat.FOLDER)
    if not members[format]:
        counts = ", ".join(
            plural(len(names), word)
            for names, word in ((tables, "Parquet file"), (tars, "tar"), (pictures, "picture"))
            if names
        )
        raise (UsageError if counts else NoInput)(
            f"folder {path.uri} holds {counts or 'no Parquet files, tars or pictures'}"
            + (f", but input_format is {input_format}; leave it out" * (input_format != AUTO))
            + ("" if counts else "; check the path")
        )
    if format is InputFormat.WEBDATASET:
        sidecars = {sidecar_uri(name, formats[format].suffixes) for name in tars}
        tables = [name for name in tables if name not in sidecars]
    if input_format == AUTO and format is not InputFormat.PARQUET and tables:
        tail = "pictures" if format is InputFormat.FOLDER else "tars"
        notes.append(f"{plural(len(tables), 'Parquet file')} beside the {tail} not read")
    elif input_format == AUTO and format is not InputFormat.FOLDER and pictures:
        notes.append(f"{plural(len(pictures), 'picture')} beside the shards not read")
    if format is InputFormat.FOLDER:
        return [Shard(path.uri, path.relative, path.fingerprint, files)]
    shards = []
    for name in members[format]:
        uri = join_uri(path.uri, name)
        local = local_path(uri)
        exists = local is not None and os.path.exists(local)
        version = file_fingerprint(uri) if exists else files[name]
        shards.append(Shard(uri, f"{path.relative}/{name}".strip("/"), version))
    return shards


def _without_sidecars(
    files: Sequence[tuple[Shard, bool]], formats: Formats
) -> list[tuple[Shard, bool]]:
    """Return the files without those that have the place of a tar's sidecar."""
    webdataset = formats[InputFormat.WEBDATASET]
    tars = [shard.uri for shard, _ in files if webdataset.claims(shard.uri)]
    sidecars = {sidecar_uri(uri, webdataset.suffixes) for uri in tars}
    return [(shard, explicit) for shard, explicit in files if shard.uri not in sidecars]


def _describe_pictures(tables: Sequence[str], pictures: Sequence[str]) -> bool:
    """Return whether all is img2dataset's "files" output: 00000.parquet describes 00000/."""
    folders = {name.partition("/")[0] for name in pictures if "/" in name}
    return all(name[: -len(".parquet")] in folders for name in tables)


def _sniff_all(shards: Iterable[Shard], formats: Formats) -> list[tuple[InputFormat | None, str]]:
    """Return the format of each shard, None if unknown, and what the file is in words."""

    def sniff(shard: Shard) -> tuple[InputFormat | None, str]:
        try:
            with open_binary(shard.uri) as file:
                head = file.read(_HEAD)
                if not head:
                    return None, "empty (0 bytes)"
                for format in formats.values():
                    file.seek(0)
                    if format.sniff(file):
                        return format.name, format.label
        except Exception as error:  # one shard that cannot be opened must not stop the plan
            return None, f"not readable: {error}"
        known = (words for magic, words in _OTHER_FILES if head.startswith(magic))
        return None, next(known, "neither Parquet nor tar")

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(sniff, shards))


def _one_format(shards: Sequence[tuple[InputFormat | None, Shard]]) -> InputFormat:
    examples = {format: shard.uri for format, shard in reversed(shards) if format is not None}
    if len(examples) > 1:
        listed = ", ".join(f"{uri} ({format})" for format, uri in sorted(examples.items()))
        raise UsageError(f"inputs of different formats: {listed}; plan each format on its own")
    if examples:
        return next(iter(examples))
    first = shards[0][1]
    raise UsageError(
        f"none of the {plural(len(shards), 'file')} can be read, first {first.uri}: "
        f"{first.problem}; replace the files or check the path"
    )
