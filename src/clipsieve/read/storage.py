"""Local paths and fsspec URLs: locate, list, open, and tell whether a file has changed."""

import datetime
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

import fsspec
from fsspec.core import split_protocol, url_to_fs

from clipsieve.errors import UsageError
from clipsieve.read.items import SourceFingerprint

#: What stores call the thing that changes with the content, best first.
_VERSION_KEYS = (
    *("ETag", "etag", "generation", "md5", "mtime", "last_modified", "LastModified"),
    *("updated", "created"),
)


def protocol_of(uri: str) -> str:
    """Return the protocol of a URL, "file" for paths.

    >>> protocol_of("s3://bucket/a.tar"), protocol_of("shards/a.tar")
    ('s3', 'file')
    """
    protocol, _ = split_protocol(uri)
    return "file" if protocol in (None, "local") else str(protocol)


def locate(uri: str) -> tuple[Any, str]:
    """Return the file system of a path or URL and the path in it; `~` is the home folder.

    Raises:
      UsageError: the protocol is unknown or its package is not installed.
    """
    if protocol_of(uri) == "file":
        path = split_protocol(uri)[1]
        return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(path))
    try:
        system, path = url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"cannot open {uri}: {error}; install the fsspec package for "
            f"{protocol_of(uri)}:// or use another address"
        ) from error
    return system, str(path)


def uri_of(system: Any, path: str) -> str:
    """Return the absolute path of a local file, or the full URL of another."""
    return path if is_local(system) else str(system.unstrip_protocol(path))


def is_local(system: Any) -> bool:
    """Return whether a file system is this machine's own."""
    protocols = (system.protocol,) if isinstance(system.protocol, str) else system.protocol
    return "file" in protocols


def open_binary(uri: str) -> BinaryIO:
    """Open a file for reading; seekable where the store allows it.

    Raises:
      OSError: or whatever else the store raises.
    """
    system, path = locate(uri)
    if is_local(system):
        return open(path, "rb")
    handle: BinaryIO = system.open(path, "rb")
    return handle


def fingerprint_of(info: Mapping[str, Any]) -> SourceFingerprint:
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
    system, path = locate(uri)
    if is_local(system):
        status = os.stat(path)
        return SourceFingerprint(status.st_size, str(status.st_mtime_ns), None)
    system.invalidate_cache(system._parent(path))
    return fingerprint_of(system.info(path))


def source_exists(uri: str) -> bool:
    """Whether there still is something at `uri`; a store that cannot be asked counts as yes."""
    try:
        system, path = locate(uri)
        return bool(system.exists(path))
    except Exception:  # stores raise what they like; not knowing is the careful answer
        return True
