"""Names of shards: from where an input lies to a file name that is safe and unique."""

from collections import defaultdict
from collections.abc import Sequence
from urllib.parse import quote

from clipsieve.errors import UsageError

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


def refuse_collisions(names: Sequence[tuple[str, str]]) -> None:
    """Raise if two inputs would write the same output.

    Args:
      names: pairs of shard name and uri.

    Raises:
      UsageError: two different entries have one name.
    """
    owners = defaultdict(list)
    for name, uri in names:
        owners[name].append(uri)
    for name, uris in owners.items():
        if len(uris) > 1:
            raise UsageError(
                f"shard name {name!r} would be given to both {uris[0]} and {uris[1]}; rename "
                "one of them, or plan them apart, each with its own shard_prefix"
            )
