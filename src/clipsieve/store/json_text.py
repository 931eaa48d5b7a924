"""JSON that others may have written: bounded in size and depth, without duplicate keys or NaN."""

import json
from collections.abc import Sequence
from typing import Any, NoReturn

from clipsieve.nesting import is_deeper_than

#: Bytes of a file; the largest that clipsieve writes have some 200 a shard.
MOST_BYTES = 256 << 20
#: Lists and objects inside each other; clipsieve's own have ten at most, options of scorers too.
DEEPEST = 64


def parse_json(content: bytes | str) -> Any:
    """Return the value of a JSON text.

    Raises:
      ValueError: if it is no JSON in UTF-8, is too long or too deep, names a key twice in one
        object, or holds NaN or an infinity.
    """
    if len(content) > MOST_BYTES:
        raise ValueError(f"{len(content):,} bytes, more than {MOST_BYTES:,}")
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError(f"nested more than {DEEPEST} deep") from None
    if is_deeper_than(value, DEEPEST):
        raise ValueError(f"nested more than {DEEPEST} deep")
    return value


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in result if names.count(name) > 1)
        raise ValueError(f"key {twice[:80]!r} stands twice in one object")
    return result


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")
