"""Names of shards, safe as file names, and counts in words."""

from urllib.parse import quote

_SUFFIXES = (".parquet", ".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tar")


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


def plural(number: int, noun: str) -> str:
    """Return a count and its noun.

    >>> plural(1, "shard"), plural(2000, "shard")
    ('1 shard', '2,000 shards')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
