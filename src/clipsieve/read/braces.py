"""Brace patterns as shells and webdataset know them: `{00000..00150}` and `{a,b}`."""

import re
from collections.abc import Iterator

from clipsieve.errors import UsageError

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?\Z")
_LETTERS = re.compile(r"([a-zA-Z])\.\.([a-zA-Z])\Z")
_MOST = 1_000_000  # names from one pattern: more is a typing error, and would fill memory


def expand_braces(pattern: str) -> list[str]:
    """Return every name a pattern stands for, in order; one without braces is itself.

    Ranges count up or down, `{0..8..2}` by a step, padded with zeros to the wider end if either
    end is; letters range too; lists may nest.  Braces that hold neither a range nor a comma, or
    do not close, stand for themselves.

    >>> expand_braces("{08..10}.tar")
    ['08.tar', '09.tar', '10.tar']
    >>> expand_braces("{train,val-{a..b}}/x{y}")
    ['train/x{y}', 'val-a/x{y}', 'val-b/x{y}']

    Raises:
      UsageError: the pattern stands for more than a million names, or a step is 0.
    """
    names = []
    for name in _expand(pattern):
        names.append(name)
        if len(names) > _MOST:
            raise UsageError(
                f"pattern {pattern!r} stands for more than {_MOST:,} names; narrow its braces, "
                "or use * instead"
            )
    return names


def _expand(text: str) -> Iterator[str]:
    opening = text.find("{")
    while opening >= 0:
        closing = _closing(text, opening)
        if closing is not None:
            choices = _choices(text[opening + 1 : closing])
            if choices is not None:
                tails = None
                for choice in choices:
                    tails = tails if tails is not None else list(_expand(text[closing + 1 :]))
                    yield from (text[:opening] + choice + tail for tail in tails)
                return
        opening = text.find("{", opening + 1)
    yield text


def _closing(text: str, opening: int) -> int | None:
    depth = 0
    for position in range(opening, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position
    return None


def _choices(body: str) -> Iterator[str] | None:
    """Return what stands between braces, one by one, or None if it is no range or list."""
    if match := _RANGE.match(body):
        return _numbers(match[1], match[2], match[3] or "1", body)
    if match := _LETTERS.match(body):
        first, last = ord(match[1]), ord(match[2])
        way = 1 if first <= last else -1
        return (chr(code) for code in range(first, last + way, way))
    parts, depth, start = [], 0, 0
    for position, letter in enumerate(body):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append(body[start:position])
            start = position + 1
    if not parts:
        return None
    parts.append(body[start:])
    return (name for part in parts for name in _expand(part))


def _numbers(first: str, last: str, step: str, body: str) -> Iterator[str]:
    low, high, by = int(first), int(last), abs(int(step))
    if by == 0:
        raise UsageError(f"step 0 in the brace range {{{body}}} never ends; use 1 or more")
    padded = any(len(end.lstrip("-")) > 1 and end.lstrip("-")[0] == "0" for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    way = by if low <= high else -by
    return (f"{number:0{width}d}" for number in range(low, high + (1 if way > 0 else -1), way))
