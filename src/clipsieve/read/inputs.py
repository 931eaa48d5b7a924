"""From the patterns a user gives to the files and folders that exist."""

import posixpath
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from clipsieve.errors import UsageError
from clipsieve.read.braces import expand_braces
from clipsieve.read.items import SourceFingerprint
from clipsieve.read.storage import (
    file_fingerprint,
    fingerprint_of,
    is_local,
    locate,
    protocol_of,
    uri_of,
)

#: Listing and probing wait on disks and servers, not on the processor.
THREADS = 16


@dataclass(frozen=True, slots=True)
class FoundInput:
    """One existing file or folder.

    Attributes:
      uri: absolute path or URL.
      relative: path below the common folder of all patterns; "" for that folder itself.
      folder: whether it is a folder.
      explicit: named in full, not matched by a wildcard.
      fingerprint: size and version when it was found.
    """

    uri: str
    relative: str
    folder: bool
    explicit: bool
    fingerprint: SourceFingerprint


def find_inputs(patterns: str | Sequence[str]) -> tuple[FoundInput, ...]:
    """Return what the patterns name, each once, sorted by uri.

    Patterns are paths or fsspec URLs with `*`, `**`, `?`, `[..]`, brace ranges and lists and `~`.
    A path that exists as written is taken as it is.  Wildcards match neither names that begin
    with a dot, nor folders if they match any file.

    Raises:
      UsageError: nothing matches, a file named in full does not exist, the patterns are on
        different file systems, or the store cannot be listed.
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
    found: dict[str, tuple[bool, dict[str, Any]]] = {}
    roots = []
    system: Any = None
    for pattern in patterns:
        system, matches, literal_folders = _match(pattern)
        found |= matches
        roots += literal_folders
    root = posixpath.commonpath(roots) if len(set(roots)) > 1 else roots[0]
    inputs = []
    for path in sorted(found):
        explicit, info = found[path]
        inputs.append(
            FoundInput(
                uri=uri_of(system, path),
                relative=path[len(root) :].strip("/") if path.startswith(root) else path,
                folder=info["type"] == "directory",
                explicit=explicit,
                fingerprint=_fingerprint(system, path, info),
            )
        )
    return tuple(inputs)


def _match(pattern: str) -> tuple[Any, dict[str, tuple[bool, dict[str, Any]]], list[str]]:
    """Return the file system, path -> (explicit, info), and the wildcard-free folders."""
    system, whole = locate(pattern)
    info = _info(system, whole)  # a name that holds brackets or braces may really exist
    if info is not None:
        folder = whole if info["type"] == "directory" else posixpath.dirname(whole)
        return system, {whole: (True, info)}, [folder]
    names = expand_braces(pattern)
    plain = [locate(name)[1] for name in names if not _wild(name)]
    with ThreadPoolExecutor(THREADS) as pool:
        infos = list(pool.map(lambda path: _info(system, path), plain))
    missing = [path for path, info in zip(plain, infos, strict=True) if info is None]
    if missing:
        raise UsageError(_missing(pattern, len(names), missing))
    matches = {path: (True, info) for path, info in zip(plain, infos, strict=True) if info}
    roots = [
        path if info["type"] == "directory" else posixpath.dirname(path)
        for path, (_, info) in matches.items()
    ]
    for name in filter(_wild, names):
        path = locate(name)[1]
        globbed = _glob(system, path, name)
        if not globbed:
            raise UsageError(
                f"no input matches {name!r}; check the path, and quote the pattern so that the "
                "shell leaves it alone"
            )
        matches |= {match: (False, info) for match, info in globbed.items()}
        roots.append(_literal_folder(path, name))
    return system, matches, sorted(set(roots))


def _wild(name: str) -> bool:
    if protocol_of(name) in ("http", "https"):  # ? begins the query, brackets may be in it
        return "*" in name
    return any(letter in name for letter in "*?[")


def _literal_folder(path: str, name: str) -> str:
    parts = path.split("/")
    keep = next(i for i, part in enumerate(parts) if _wild(part) or part == "**")
    return "/".join(parts[:keep]) or "/"


def _glob(system: Any, path: str, name: str) -> dict[str, dict[str, Any]]:
    try:
        matches: dict[str, dict[str, Any]] = system.glob(path, detail=True)
    except Exception as error:
        raise UsageError(
            f"cannot list {name!r}: {error}; check the address and your access to it"
        ) from error
    literal = _literal_folder(path, name)
    hidden_wanted = "/." in path[len(literal) :]
    visible = {
        match: info
        for match, info in matches.items()
        if hidden_wanted or "/." not in match[len(literal) :]
    }
    files = {match: info for match, info in visible.items() if info["type"] != "directory"}
    return files or visible


def _info(system: Any, path: str) -> dict[str, Any] | None:
    """Return the entry of an existing file or folder, None if there is no such thing."""
    try:
        info: dict[str, Any] = system.info(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if _wild(path) or "{" in path:  # brackets are not even valid names in some stores
            return None
        raise UsageError(
            f"cannot open {path!r}: {error}; check the address and your access to it"
        ) from error
    return info


def _missing(pattern: str, names: int, missing: Sequence[str]) -> str:
    if names == 1:
        return f"no input matches {pattern!r}; check the path, there is no such file or folder"
    shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    return (
        f"{len(missing):,} of the {names:,} files that {pattern!r} names do not exist, first "
        f"{shown}; correct the range, or use * to take what is there"
    )


def _fingerprint(system: Any, path: str, info: dict[str, Any]) -> SourceFingerprint:
    if info["type"] == "directory":
        return fingerprint_of(info)
    if is_local(system):
        try:
            return file_fingerprint(path)
        except OSError:  # a dangling link: opening it will say so
            return SourceFingerprint(-1, "", None)
    if info.get("size") is None:  # listings of web pages know names alone
        info = system.info(path)
    return fingerprint_of(info)
