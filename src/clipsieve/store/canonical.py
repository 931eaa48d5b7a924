"""Canonical JSON and the short hashes made from it."""

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> str:
    """`value` as JSON that depends on its content only: sorted keys, no blanks, no NaN.

    >>> canonical_json({"b": 1, "a": [1.5, None]})
    '{"a":[1.5,null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def short_hash(value: Any) -> str:
    """First eight hex digits of the sha256 of the canonical JSON of `value`.

    >>> short_hash({"model": "tiny"})
    '6357ff6e'
    """
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:8]
