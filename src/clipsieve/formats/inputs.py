"""Paths, patterns and fsspec URLs: locate, expand, open, and tell whether a file has changed.

fsspec takes 80 ms to import, so only listing and URLs import it: opening a local file does not.
"""

import datetime
import errno
import os
import posixpath
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

from braceexpand import braceexpand

from clipsieve.errors import NoInput, UsageError
from clipsieve.formats.base import SourceFingerprint, WorkItem
from clipsieve.formats.names import ESCAPED, path_uri, uri_path
from clipsieve.formats.urls import check_url, protocol_of

#: Listing and probing wait on disks and servers, not on the processor.
THREADS = 16

_MAX_NAMES = 1_000_000  # names from one pattern: more is a typing error, and would fill memory
_BRACE_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?\}")
#: What stores call the thing that changes with the content, best first.
_VERSION_KEYS = (
    *("ETag", "etag", "generation", "md5", "mtime", "last_modified", "LastModified"),
    *("updated", "created"),
)


#: What is no file and no folder, by what tells.
_SPECIAL_KINDS = (
    (stat.S_ISFIFO, "named pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)


class NotAFileError(OSError):
    """What is to be read is a pipe, socket or device."""


@dataclass(frozen=True, slots=True)
class InputPath:
    """One existing file or folder.

    Attributes:
      uri: absolute path or URL; `percent://` and an escaped path where that is not UTF-8.
      relative: path below the common folder of all patterns; "" for that folder itself.
      folder: whether it is a folder.
      explicit: named in full, not matched by a wildcard.
      fingerprint: size and version when it was listed.
    """

    uri: str
    relative: str
    folder: bool
    explicit: bool
    fingerprint: SourceFingerprint


def local_path(uri: str) -> str | None:
    """Return the absolute path of a local file, None for a URL; `~` is the home folder."""
    if protocol_of(uri) != "file":
        return None
    if uri.startswith(ESCAPED):
        return os.path.abspath(uri_path(uri))
    path = uri.removeprefix("file://").removeprefix("local://")
    return os.path.abspath(os.path.expanduser(path))


def locate(uri: str) -> tuple[Any, str]:
    """Return the fsspec file system of a path or URL and the path in it.

    Raises:
      UsageError: the protocol is unknown or its package is not installed.
    """
    import fsspec

    local = local_path(uri)
    if local is not None:
        return fsspec.filesystem("file"), local
    check_url(uri)
    try:
        system, path = fsspec.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"cannot open {uri}: {error}; install the fsspec package for "
            f"{protocol_of(uri)}:// or use another address"
        ) from error
    return system, str(path)


def open_binary(uri: str) -> BinaryIO:
    """Open a file for reading; seekable where the store allows it.

    Raises:
      NotAFileError: it is a pipe, socket or device, which might never end.
      OSError: or whatever else the store raises.
    """
    local = local_path(uri)
    if local is not None:
        kind = _special_kind(os.stat(local).st_mode)
        if kind is not None:
            raise NotAFileError(errno.EINVAL, f"it is a {kind}, not a file", local)
        return open(local, "rb")
    system, path = locate(uri)
    handle: BinaryIO = system.open(path, "rb")
    return handle


def info_fingerprint(info: Mapping[str, Any]) -> SourceFingerprint:
    """Return the fingerprint in one fsspec `info` or listing entry; rows are None."""
    size = info.get("size")
    version = next((info[key] for key in _VERSION_KEYS if info.get(key)), "")
    if isinstance(version, datetime.datetime):  # some stores list times as floats
        version = version.timestamp()
    return SourceFingerprint(-1 if size is None else int(size), str(version), None)


def file_fingerprint(uri: str) -> SourceFingerprint:
    """Return the fingerprint of a file as it is now, past any cached listing; rows are None.

    Raises:
      OSError: there is no such file, or whatever else the store raises.
    """
    local = local_path(uri)
    if local is not None:
        status = os.stat(local)
        return SourceFingerprint(status.st_size, str(status.st_mtime_ns), None)
    system, path = locate(uri)
    system.invalidate_cache(system._parent(path))
    return info_fingerprint(system.info(path))


def require_unchanged(item: WorkItem, current: SourceFingerprint) -> None:
    """Raise `ValueError` if an item's source is not the planned one.

    Of a file in a store only sizes are compared: listing and opening may word versions in two ways.

    Args:
      item: as it was planned.
      current: fingerprint of its source now; rows are not compared.
    """
    planned = item.fingerprint
    other_size = min(planned.size, current.size) >= 0 and planned.size != current.size
    other_version = local_path(item.uri) is not None and planned.version != current.version
    if other_size or other_version:
        raise ValueError(
            f"it has changed since it was planned ({planned.size:,} bytes then, "
            f"{current.size:,} now); plan again"
        )


def is_present(uri: str) -> bool:
    """Return whether there is something at `uri`, past any cached listing.

    Raises:
      OSError: or whatever else the system or the store raises if it cannot tell.
      UsageError: see `locate`.
    """
    local = local_path(uri)
    try:
        if local is not None:  # `exists` of fsspec is False for every error
            os.stat(local)
            return True
        system, path = locate(uri)
        system.invalidate_cache(system._parent(path))
        system.info(path)
    except FileNotFoundError as error:
        # fsspec's HTTP says so for every error; only these two answers mean it.
        if protocol_of(uri) in ("http", "https") and error.__cause__ is not None:
            if getattr(error.__cause__, "status", None) not in (404, 410):
                raise ConnectionError(f"cannot reach {uri}: {error.__cause__!r}") from error
        return False
    except NotADirectoryError:
        return False
    return True


def source_exists(uri: str) -> bool:
    """Return whether there is something at `uri`; what cannot be asked or reached counts as yes."""
    try:
        return is_present(uri)
    except Exception:  # stores raise what they like; not knowing is the careful answer
        return True


def pattern_matcher(pattern: str) -> Callable[[str], bool]:
    """Return the function that tells whether a pattern of `find_inputs` names a uri.

    A pattern that names a folder names what is in it.

    >>> is_named = pattern_matcher("/data/{a,b}-*.tar")
    >>> is_named("/data/b-0.tar"), is_named("/data/c-0.tar")
    (True, False)
    >>> pattern_matcher("/data/a*")("/data/a1/x.jpg")
    True
    """
    from fsspec.utils import glob_translate

    protocol = protocol_of(pattern)
    literal: set[str] = set()
    wildcards: list[re.Pattern[str]] = []
    for name in (pattern, *expand_braces(pattern)):
        path = _rooted(name)
        literal.add(path)
        if _has_wildcard(name):
            wildcards.append(re.compile(glob_translate(path)))

    def is_named(uri: str) -> bool:
        if protocol_of(uri) != protocol:
            return False
        path = _rooted(uri)
        places = [path, *(path[: slash.start()] for slash in re.finditer("/", path))]
        return not literal.isdisjoint(places) or any(
            regex.match(place) for regex in wildcards for place in places
        )

    return is_named


def _rooted(uri: str) -> str:
    return "/" + locate(uri)[1].strip("/")


def find_inputs(patterns: str | Sequence[str]) -> tuple[InputPath, ...]:
    """Return what the patterns name, each once, sorted by uri.

    Patterns are paths or fsspec URLs with `*`, `**`, `?`, `[..]`, brace ranges and lists and `~`.
    A path that exists as written is taken as it is.  Wildcards match neither names that begin
    with a dot, nor folders if they match any file.

    Raises:
      UsageError: nothing matches, a file named in full does not exist, a match is a pipe, socket
        or device, the patterns are on different file systems, or the store cannot be listed.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if not patterns or not all(patterns):
        raise UsageError("no input was named; give at least one path, pattern or URL")
    protocols = {protocol_of(pattern) for pattern in patterns}
    if len(protocols) > 1:
        raise UsageError(
            f"inputs are on different file systems ({', '.join(sorted(protocols))}); "
            "plan each file system on its own"
        )
    matches: dict[str, tuple[bool, dict[str, Any]]] = {}
    roots: list[str] = []
    system = locate(patterns[0])[0]
    for pattern in patterns:
        matched, literal_folders = _match(pattern)
        matches |= matched
        roots += literal_folders
    root = posixpath.commonpath(roots) if len(set(roots)) > 1 else roots[0]
    local = protocols == {"file"}
    return tuple(
        InputPath(
            uri=path_uri(path) if local else str(system.unstrip_protocol(path)),
            relative=path[len(root) :].strip("/") if path.startswith(root) else path,
            folder=info["type"] == "directory",
            explicit=explicit,
            fingerprint=_listed_fingerprint(system, path, info, local),
        )
        for path, (explicit, info) in sorted(matches.items(), key=lambda match: match[0])
    )


def expand_braces(pattern: str) -> list[str]:
    """Return every name a pattern stands for, in order; one without braces is itself.

    Ranges count up or down, `{0..8..2}` by a step, padded with zeros to the wider end if either
    end is; letters range too; lists may nest.  Braces that hold neither a range nor a comma stand
    for themselves, and so does a pattern whose braces do not pair up.

    >>> expand_braces("{08..10}.tar")
    ['08.tar', '09.tar', '10.tar']
    >>> expand_braces("{train,val-{a..b}}/x{y}")
    ['train/x{y}', 'val-a/x{y}', 'val-b/x{y}']

    Raises:
      UsageError: the pattern stands for more than a million names, or a step is 0.
    """
    # `braceexpand` takes step 0 for 1, and holds every range in memory before it gives a name.
    most = 0
    for first, last, step in _BRACE_RANGE.findall(pattern):
        if step and not int(step):
            raise UsageError(
                f"step 0 in the brace range {{{first}..{last}..{step}}} never ends; use 1 or more"
            )
        most = max(most, abs(int(last) - int(first)) // abs(int(step or 1)) + 1)
    names: list[str] = []
    try:
        if most <= _MAX_NAMES:
            names = list(islice(braceexpand(pattern, escape=False), _MAX_NAMES + 1))
    except ValueError:  # braces that do not pair up
        return [pattern]
    if max(most, len(names)) > _MAX_NAMES:
        raise UsageError(
            f"pattern {pattern!r} stands for more than {_MAX_NAMES:,} names; narrow its braces, "
            "or use * instead"
        )
    return names


def _match(pattern: str) -> tuple[dict[str, tuple[bool, dict[str, Any]]], list[str]]:
    """Return path -> (explicit, info), and the wildcard-free folders."""
    system, whole = locate(pattern)
    info = _info(system, whole)  # a name that holds brackets or braces may really exist
    if info is not None:
        return {whole: (True, info)}, [_folder_of(whole, info)]
    names = expand_braces(pattern)
    literal = [locate(name)[1] for name in names if not _has_wildcard(name)]
    with ThreadPoolExecutor(THREADS) as pool:
        infos = dict(zip(literal, pool.map(lambda path: _info(system, path), literal), strict=True))
    missing = [path for path, info in infos.items() if info is None]
    if missing:
        raise NoInput(_missing_message(pattern, len(names), missing))
    matches = {path: (True, info) for path, info in infos.items() if info is not None}
    roots = {_folder_of(path, info) for path, (_, info) in matches.items()}
    for name in filter(_has_wildcard, names):
        path = locate(name)[1]
        globbed = _glob(system, path, name)
        if not globbed:
            raise NoInput(
                f"no input matches {name!r}; check the path, and quote the pattern so that the "
                "shell leaves it alone"
            )
        matches |= {match: (False, info) for match, info in globbed.items()}
        roots.add(_literal_folder(path))
    return matches, sorted(roots)


def _folder_of(path: str, info: Mapping[str, Any]) -> str:
    return path if info["type"] == "directory" else posixpath.dirname(path)


def _has_wildcard(name: str) -> bool:
    if protocol_of(name) in ("http", "https"):  # ? begins the query, brackets may be in it
        return "*" in name
    return any(letter in name for letter in "*?[")


def _literal_folder(path: str) -> str:
    parts = path.split("/")
    keep = next(i for i, part in enumerate(parts) if _has_wildcard(part))
    return "/".join(parts[:keep]) or "/"


def _glob(system: Any, path: str, name: str) -> dict[str, dict[str, Any]]:
    try:
        matches: dict[str, dict[str, Any]] = system.glob(path, detail=True)
    except Exception as error:
        raise UsageError(
            f"cannot list {name!r}: {error}; check the address and your access to it"
        ) from error
    literal = len(_literal_folder(path))
    if "/." not in path[literal:]:
        matches = {match: info for match, info in matches.items() if "/." not in match[literal:]}
    files = {match: info for match, info in matches.items() if info["type"] != "directory"}
    return files or matches


def _info(system: Any, path: str) -> dict[str, Any] | None:
    """Return the entry of an existing file or folder, None if there is no such thing."""
    try:
        info: dict[str, Any] = system.info(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if _has_wildcard(path) or "{" in path:  # brackets are not even valid names in some stores
            return None
        raise UsageError(
            f"cannot open {path!r}: {error}; check the address and your access to it"
        ) from error
    return info


def _missing_message(pattern: str, names: int, missing: Sequence[str]) -> str:
    if names == 1:
        return f"no input matches {pattern!r}; check the path, there is no such file or folder"
    shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    return (
        f"{len(missing):,} of the {names:,} files that {pattern!r} names do not exist, first "
        f"{shown}; correct the range, or use * to take what is there"
    )


def _listed_fingerprint(
    system: Any, path: str, info: Mapping[str, Any], local: bool
) -> SourceFingerprint:
    if info["type"] == "directory":
        return info_fingerprint(info)
    if local:
        try:
            kind = _special_kind(os.stat(path).st_mode)
            if kind is not None:
                raise UsageError(
                    f"input {path} is a {kind}, not a file; save what it gives in a file, or leave "
                    "it out of the pattern"
                )
            return file_fingerprint(path)
        except OSError:  # a dangling link: opening it will say so
            return SourceFingerprint(-1, "", None)
    if info.get("size") is None:  # listings of web pages know names alone
        info = system.info(path)
    return info_fingerprint(info)


def _special_kind(mode: int) -> str | None:
    """Return what a file's mode says it is if it is neither a file nor a folder."""
    return next((kind for is_kind, kind in _SPECIAL_KINDS if is_kind(mode)), None)
