"""Addresses of folders in object stores, and the fsspec file system behind each."""

from typing import Any

from clipsieve.errors import UsageError
from clipsieve.formats.urls import check_url, protocol_of

#: The extra of clipsieve that installs the package of a protocol.
EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
}
#: Letters that fsspec and DuckDB take for patterns, or URLs for the end of a path.
_FORBIDDEN = "*?[]{}#"


def canonical_url(root: str) -> str:
    """Return the one way in which the URL of a folder is written, without a slash at its end.

    Raises:
      UsageError: if it carries credentials, names no bucket, or has letters that are patterns.

    >>> canonical_url("s3://bucket/out/")
    's3://bucket/out'
    """
    check_url(root)
    protocol, _, path = root.partition("://")
    parts = path.strip("/").split("/")
    if not path.strip("/") or "" in parts or not {".", ".."}.isdisjoint(parts):
        raise UsageError(
            f"output folder {root} names no folder of a bucket; write {protocol}://BUCKET/FOLDER"
        )
    bad = sorted({letter for letter in path if letter in _FORBIDDEN})
    if bad:
        raise UsageError(
            f"output folder {root} has {' '.join(bad)} in its name, which are patterns in globs "
            "and in SQL; choose another name"
        )
    return f"{protocol}://{'/'.join(parts)}"


def connect(url: str, listings_seconds: float = 0) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it.

    Credentials, endpoint and region are the store's own business: environment, files of its tools,
    or the machine's role.

    Args:
      url: of a folder.
      listings_seconds: for how long a listing may be used again; those who write need 0.

    Raises:
      UsageError: for a protocol that is unknown or whose package is not installed, or whose
        credentials are missing.
    """
    import fsspec

    protocol = protocol_of(url)
    try:
        options: dict[str, Any] = {"use_listings_cache": bool(listings_seconds)}
        if listings_seconds:
            options |= {"listings_expiry_time": listings_seconds, "skip_instance_cache": True}
        system, path = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        cure = f"pip install 'clipsieve[{EXTRAS[protocol]}]'" if protocol in EXTRAS else str(error)
        raise UsageError(f"{url}: no package for {protocol}:// is installed; {cure}") from error
    except ValueError as error:
        raise UsageError(
            f"{url}: {error}; use s3://, gs://, az://, or a path of this machine"
        ) from error
    return system, str(path).rstrip("/")
