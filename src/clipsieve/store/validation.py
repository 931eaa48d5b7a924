"""Values from JSON as dataclasses: every field's type and range is checked against its annotation.

Whoever shares an output folder writes what is read from it; what passes here is what clipsieve
itself could have written, so that names are safe in paths and in SQL.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from reprlib import Repr
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from clipsieve.store import names

#: Characters of any text.
_LONGEST = 1 << 16
_repr = Repr()
_repr.maxstring = _repr.maxother = 60
_repr.maxlevel = 2


@dataclass(frozen=True, slots=True)
class Pattern:
    """The form of a text, as a regular expression for all of it."""

    form: str

    def problem(self, value: Any) -> str | None:
        """Return what is wrong with a text."""
        matches = re.fullmatch(self.form, value, re.DOTALL)
        return None if matches else f"{shown(value)} is not a name of clipsieve's"


@dataclass(frozen=True, slots=True)
class Range:
    """The bounds of a number, inclusive."""

    low: float
    high: float

    def problem(self, value: Any) -> str | None:
        """Return what is wrong with a number."""
        inside = self.low <= value <= self.high
        return None if inside else f"must be from {self.low} to {self.high}, is {shown(value)}"


#: A short hash in hexadecimal digits: revisions, ids of fits, builds, lists.
Hash = Annotated[str, Pattern(names.HASH)]
#: Likewise, or nothing.
HashOrEmpty = Annotated[str, Pattern(f"({names.HASH})?")]
#: A scorer or family; families become folders and views.
FamilyName = Annotated[str, Pattern("[a-z][a-z0-9_]{0,99}")]
ScorerName = Annotated[str, Pattern(r"[a-z][a-z0-9_]{0,99}(\.[a-z][a-z0-9_]{0,99})?")]
#: A file or folder name made by `names.slug`.
Slug = Annotated[str, Pattern("[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")]
#: A shard, which is a file name without its ending.
ShardName = Annotated[str, Pattern(r"(?!\.)[^/\\\x00-\x1f\x7f]{1,255}")]
#: Rows, shards, bytes.
Count = Annotated[int, Range(0, (1 << 63) - 1)]
#: Seconds since the epoch, until the year 5138: DuckDB has no later time for larger numbers.
Timestamp = Annotated[float, Range(0, 1e11)]


def decode(kind: Any, value: Any, field: str = "") -> Any:
    """Return a value of JSON as a value of type `kind`.

    Args:
      kind: a dataclass, `str`, `int`, `float`, `bool`, `Any`, an optional one of these, a
        `Mapping` or a tuple of one type, a `Literal` of texts, or one of
        these annotated with `Pattern` or `Range`.
      value: made of JSON's own types.
      field: path of the value, for messages.

    Raises:
      ValueError: names the field, what it must be and what it is.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Annotated:
        result = decode(arguments[0], value, field)
        for problem in filter(None, (rule.problem(result) for rule in kind.__metadata__)):
            raise ValueError(f"{_subject(field)}{problem}")
        return result
    if origin is Literal:
        if value not in arguments or not isinstance(value, str):
            raise ValueError(f"{_subject(field)}must be one of {arguments}, is {shown(value)}")
        return value
    if origin in (Union, UnionType):
        (other,) = [each for each in arguments if each is not NoneType]
        return None if value is None else decode(other, value, field)
    if is_dataclass(kind):
        return _decode_dataclass(kind, value, field)
    if origin is tuple:
        listed = _of_type(value, list, "a list", field)
        return tuple(decode(arguments[0], each, f"{field}[{at}]") for at, each in enumerate(listed))
    if origin in (dict, Mapping):
        entries = _of_type(value, dict, "an object", field)
        return {
            decode(arguments[0], key, f"a name in {field or 'it'}"): decode(
                arguments[1], each, _below(field, key)
            )
            for key, each in entries.items()
        }
    return _decode_scalar(kind, value, field)


def shown(value: Any) -> str:
    """Return a value for a message: short, on one line, without control characters."""
    return _repr.repr(value)


def _decode_dataclass(kind: Any, value: Any, field: str) -> Any:
    entries = _of_type(value, dict, "an object", field)
    types = _field_types(kind)
    for name in entries:
        if name not in types:
            raise ValueError(f"{_subject(field)}has a field {shown(name)} that is not known here")
    values = {}
    for each in fields(kind):
        if each.name in entries:
            values[each.name] = decode(
                types[each.name], entries[each.name], _below(field, each.name)
            )
        elif each.default is MISSING and each.default_factory is MISSING:
            raise ValueError(f"{_below(field, each.name)} is missing")
    return kind(**values)


def _decode_scalar(kind: Any, value: Any, field: str) -> Any:
    if kind is bool:
        return _of_type(value, bool, "true or false", field)
    if kind is int and not isinstance(value, bool):
        return _of_type(value, int, "a whole number", field)
    if kind is float and not isinstance(value, bool):
        number = _of_type(value, int | float, "a number", field)
        try:
            finite = math.isfinite(number)
        except OverflowError:
            finite = False
        if not finite:
            raise ValueError(f"{_subject(field)}must be a finite number")
        return number
    if kind is str:
        text = _of_type(value, str, "text", field)
        if len(text) > _LONGEST or "\0" in text:
            raise ValueError(f"{_subject(field)}must be text of at most {_LONGEST} characters")
        return text
    expected = {int: "a whole number", float: "a number"}.get(kind, getattr(kind, "__name__", kind))
    raise ValueError(f"{_subject(field)}must be {expected}, is {shown(value)}")


def _of_type(value: Any, kind: Any, expected: str, field: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{_subject(field)}must be {expected}, is {shown(value)}")
    return value


@cache
def _field_types(kind: Any) -> dict[str, Any]:
    """Return the annotations of a dataclass by field; evaluating them takes 0.1 ms."""
    return get_type_hints(kind, include_extras=True)


def _below(field: str, name: str) -> str:
    name = name if re.fullmatch(r"[\w.-]{1,60}", name) else shown(name)
    return f"{field}.{name}" if field else name


def _subject(field: str) -> str:
    return f"{field} " if field else ""
