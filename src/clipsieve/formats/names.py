"""Names of shards, safe as file names, of paths that are not UTF-8, and counts in words."""

import re
from hashlib import sha256
from urllib.parse import quote, unquote_to_bytes

#: Bytes that a shard's name may have: with `.parquet` and what exports add it fits in 255.
MAX_SHARD_BYTES = 210
#: Begins the uri of a local path that is not UTF-8; the rest is `escaped_path` of it.
ESCAPED = "percent://"
_SUFFIXES = (".parquet", ".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tar")
_HASH_DIGITS = 16


def shard_name(relative: str) -> str:
    """Return the shard name of a path relative to the inputs' common folder.

    The suffix goes, `/` becomes `__`, and whatever is not in `A-Za-z0-9._=@+-`, as well as a
    leading dot or underscore, is percent-encoded.

    >>> shard_name("a/00000.parquet"), shard_name("données.tar.gz"), shard_name("_x.tar")
    ('a__00000', 'donn%C3%A9es', '%5Fx')
    """
    lower = relative.lower()
    suffix = next((s for s in _SUFFIXES if lower.endswith(s)), "")
    if not suffix and "." in relative.rpartition("/")[2].lstrip("."):
        suffix = relative[relative.rindex(".") :]
    return safe_name(relative[: len(relative) - len(suffix)].strip("/").replace("/", "__"))


def safe_name(text: str) -> str:
    """Return `text` percent-encoded as a file name; empty text becomes "%".

    >>> safe_name("my photos~1"), safe_name(".hidden")
    ('my%20photos%7E1', '%2Ehidden')
    """
    name = quote(text, safe="=@+", errors="surrogateescape").replace("~", "%7E")
    if name[:1] in (".", "_"):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    return name or "%"


def fitted_name(name: str, suffix: str = "") -> str:
    """Return name and suffix; a name that is too long for a file is cut, and its hash added.

    Args:
      name: as `safe_name` gives it, so in ASCII.
      suffix: kept whole.

    >>> fitted_name("a", ".r000000005")
    'a.r000000005'
    >>> fitted_name("a" * 250)[-20:], len(fitted_name("a" * 250, ".r000000005"))
    ('aaa-3f3e35e0a775d9b1', 210)
    """
    if len(name) + len(suffix) <= MAX_SHARD_BYTES:
        return name + suffix
    digest = sha256(name.encode()).hexdigest()[:_HASH_DIGITS]
    kept = name[: MAX_SHARD_BYTES - len(suffix) - 1 - _HASH_DIGITS]
    return f"{re.sub('%[0-9A-F]?$', '', kept)}-{digest}{suffix}"


def escaped_path(path: str) -> str:
    r"""Return a path as text that is UTF-8: itself if it is, else with escapes.

    In a path that is not UTF-8, `%` and the bytes that are not UTF-8 are percent-encoded.

    >>> escaped_path("a%"), escaped_path("a%\udcff")
    ('a%', 'a%25%FF')
    """
    if path.isascii() or not re.search("[\ud800-\udfff]", path):
        return path
    return re.sub("[\udc80-\udcff]", _percent, path.replace("%", "%25"))


def path_uri(path: str) -> str:
    r"""Return the uri of a local path: itself if it is UTF-8.

    >>> path_uri("/a/b"), path_uri("/a/\udcff"), uri_path("percent:///a/%FF") == "/a/\udcff"
    ('/a/b', 'percent:///a/%FF', True)
    """
    escaped = escaped_path(path)
    return path if escaped == path else ESCAPED + escaped


def uri_path(uri: str) -> str:
    """Return the path that `path_uri` made a uri of."""
    if not uri.startswith(ESCAPED):
        return uri
    return unquote_to_bytes(uri.removeprefix(ESCAPED)).decode("utf-8", "surrogateescape")


def join_uri(folder: str, name: str) -> str:
    """Return the uri of a file in a folder.

    Args:
      folder: its uri.
      name: path of the file relative to it, as the system has it.
    """
    return path_uri(f"{uri_path(folder).rstrip('/')}/{name}")


def plural(number: int, noun: str) -> str:
    """Return a count and its noun.

    >>> plural(1, "shard"), plural(2000, "shard")
    ('1 shard', '2,000 shards')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _percent(byte: re.Match[str]) -> str:
    """Return a byte that `surrogateescape` keeps as a surrogate, percent-encoded."""
    return f"%{ord(byte[0]) - 0xDC00:02X}"
