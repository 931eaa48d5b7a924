"""Which of the found files and folders are shards, and of which format they all are."""

import os
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from clipsieve.errors import UsageError
from clipsieve.read.folder import METADATA_NAMES, folder_files, is_picture
from clipsieve.read.inputs import THREADS, FoundInput
from clipsieve.read.items import InputFormat, SourceFingerprint
from clipsieve.read.options import AUTO
from clipsieve.read.parquet_scan import scan_parquet
from clipsieve.read.sniff import by_name, sniff
from clipsieve.read.storage import file_fingerprint, is_local, locate, open_binary


@dataclass(frozen=True, slots=True)
class Shard:
    """One source file or folder.

    Attributes:
      uri: absolute path or URL.
      relative: path below the inputs' common folder; "" for that folder itself.
      fingerprint: when it was found; rows are None.
      files: for folders, `folder_files(uri)`.
      problem: why it cannot be read, or None.
    """

    uri: str
    relative: str
    fingerprint: SourceFingerprint
    files: Mapping[str, SourceFingerprint] | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Shards:
    """All shards of a plan, of one format, and what else is worth saying about them."""

    format: InputFormat
    shards: tuple[Shard, ...]
    notes: tuple[str, ...]


def find_shards(inputs: Sequence[FoundInput], wanted: str) -> Shards:
    """Return the shards among the inputs; folders are looked into, files by their first bytes.

    A folder with tars is these tars (Parquet files beside them are img2dataset's sidecars), else
    its Parquet files, else its pictures.  Damaged files whose name claims a format are shards
    with a problem; other files are refused if they were named in full, else left out and counted.

    Args:
      inputs: from `find_inputs`.
      wanted: a format, or "auto".

    Raises:
      UsageError: no shard is there, formats are mixed, or they are not the one wanted.
    """
    notes: list[str] = []
    folders: list[Shard] = []
    files: list[tuple[Shard, bool]] = []
    for found in inputs:
        if not found.folder:
            files.append((Shard(found.uri, found.relative, found.fingerprint), found.explicit))
            continue
        folder, inside = _look_into(found, wanted, notes)
        folders += [folder] if folder else []
        files += [(shard, False) for shard in inside]
    sniffed = _sniff_all(shard for shard, _ in files)
    kept: list[tuple[InputFormat | None, Shard]] = [(InputFormat.FOLDER, s) for s in folders]
    other = 0
    for (shard, explicit), (kind, words) in zip(files, sniffed, strict=True):
        if kind is not None:
            _require_wanted(kind, words, shard, wanted)
            kept.append((kind, shard))
        elif by_name(shard.uri) is not None:
            kept.append((None, replace(shard, problem=f"it is {words}")))
        elif explicit:
            raise UsageError(
                f"{shard.uri} is {words}; inputs are Parquet files, webdataset tars or folders"
            )
        else:
            other += 1
    if not kept:
        words = f", such as {files[0][0].uri}, which is {sniffed[0][1]}" if files else ""
        raise UsageError(
            f"none of the {len(files):,} files found is a Parquet file or tar{words}; check the "
            "pattern"
        )
    if other:
        notes.append(f"{_count(other, 'other file')} ignored")
    return Shards(_one_format(kept, wanted), tuple(shard for _, shard in kept), tuple(notes))


def _look_into(
    found: FoundInput, wanted: str, notes: list[str]
) -> tuple[Shard | None, list[Shard]]:
    """Return the folder itself if it is a folder of pictures, else the shard files in it."""
    try:
        files = folder_files(found.uri)
    except OSError as error:
        raise UsageError(f"cannot list {found.uri}: {error}; check your access to it") from error
    visible = [name for name in files if not any(p.startswith("_") for p in name.split("/"))]
    tars = [name for name in visible if by_name(name) is InputFormat.WEBDATASET]
    tables = [name for name in visible if by_name(name) is InputFormat.PARQUET]
    pictures = [name for name in files if is_picture(name)]
    metadata = [name for name in files if posixpath.basename(name) in METADATA_NAMES]
    kind = InputFormat(wanted) if wanted != AUTO else _folder_kind(tars, tables, pictures, metadata)
    chosen = {InputFormat.WEBDATASET: tars, InputFormat.PARQUET: tables}
    if kind is InputFormat.FOLDER and (pictures or metadata):
        if wanted == AUTO and tables:
            notes.append(f"{_count(len(tables), 'Parquet file')} beside the pictures not read")
        shard = Shard(found.uri, found.relative, found.fingerprint, files)
        return shard, []
    if kind is None or not chosen.get(kind):
        holds = ", ".join(
            _count(len(names), word)
            for names, word in ((tables, "Parquet file"), (tars, "tar"), (pictures, "picture"))
            if names
        )
        raise UsageError(
            f"folder {found.uri} holds {holds or 'no Parquet files, tars or pictures'}"
            + (f", but input_format is {wanted}; leave it out" if wanted != AUTO else "")
            + ("" if holds else "; check the path")
        )
    if wanted == AUTO and kind is InputFormat.WEBDATASET and tables:
        notes.append(f"{_count(len(tables), 'Parquet file')} beside the tars taken as sidecars")
    elif wanted == AUTO and pictures:
        notes.append(f"{_count(len(pictures), 'picture')} beside the shards not read")
    local = is_local(locate(found.uri)[0])
    shards = []
    for name in chosen[kind]:
        uri = f"{found.uri.rstrip('/')}/{name}"
        relative = f"{found.relative}/{name}".strip("/")
        version = file_fingerprint(uri) if local and os.path.exists(uri) else files[name]
        shards.append(Shard(uri, relative, version))
    return None, shards


def _folder_kind(
    tars: Sequence[str], tables: Sequence[str], pictures: Sequence[str], metadata: Sequence[str]
) -> InputFormat | None:
    if tars:
        return InputFormat.WEBDATASET
    if tables:
        # img2dataset's "files" output: 00000.parquet describes the pictures in 00000/.
        folders = {name.partition("/")[0] for name in pictures if "/" in name}
        sidecars = all(name[: -len(".parquet")] in folders for name in tables)
        return InputFormat.FOLDER if sidecars else InputFormat.PARQUET
    return InputFormat.FOLDER if pictures or metadata else None


def _sniff_all(shards: Iterable[Shard]) -> list[tuple[InputFormat | None, str]]:
    def look(shard: Shard) -> tuple[InputFormat | None, str]:
        try:
            with open_binary(shard.uri) as handle:
                return sniff(handle)
        except Exception as error:  # one shard that cannot be opened must not stop the plan
            return None, f"not readable: {error}"

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(look, shards))


def _require_wanted(kind: InputFormat, words: str, shard: Shard, wanted: str) -> None:
    if wanted in (AUTO, kind):
        return
    if kind is InputFormat.PARQUET and scan_parquet(shard.uri).huggingface:
        words = "a Parquet file of Hugging Face datasets"
    raise UsageError(
        f"{shard.uri} is {words}, but input_format is {wanted}; leave input_format out, or make "
        f"it {kind}"
    )


def _one_format(kept: Sequence[tuple[InputFormat | None, Shard]], wanted: str) -> InputFormat:
    examples = {kind: shard.uri for kind, shard in reversed(kept) if kind is not None}
    if len(examples) > 1:
        listed = ", ".join(f"{uri} ({kind})" for kind, uri in sorted(examples.items()))
        raise UsageError(f"inputs of different formats: {listed}; plan each format on its own")
    if examples:
        return next(iter(examples))
    reasons = f"{kept[0][1].uri}: {kept[0][1].problem}"
    raise UsageError(
        f"none of the {_count(len(kept), 'file')} can be read, first {reasons}; replace the files "
        "or check the path"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
