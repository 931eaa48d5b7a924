"""How deep lists and objects of JSON are nested, found without recursion."""

from typing import Any


def is_deeper_than(value: Any, depth: int) -> bool:
    """Return whether lists and objects stand inside each other more than `depth` deep.

    >>> is_deeper_than([[1]], 2), is_deeper_than([[1], {"a": []}], 2), is_deeper_than(1, 0)
    (False, True, False)
    """
    level = [value] if isinstance(value, list | dict) else []
    for _ in range(depth):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, list | dict)
        ]
    return bool(level)
