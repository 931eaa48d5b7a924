"""What a setting is: name, type, default, help and check, written once as a field of a dataclass.

    workers: int = setting("processes on this machine", 1, minimum=1)

`definitions_of` reads them back; the command line, TOML, Python and the table in
docs/settings.md come from what it returns.
"""

import dataclasses
import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from clipsieve.errors import UsageError

#: Of 64 bits, in which files, databases and arrays hold them.
_MAX_INT = 2**63 - 1
#: Longer values are cut in messages.
SHOWN_CHARACTERS = 200


def setting(
    help: str,
    default: Any = MISSING,
    *,
    unset: str = "none",
    minimum: int | None = None,
    choices: tuple[str, ...] = (),
    parse: Callable[[str], Any] | None = None,
    check: Callable[[Any], Any] | None = None,
    option: str | None = "",
) -> Any:
    """Define a setting as a dataclass field; its name and type are those of the field.

    Args:
      help: what it means, in a line.
      default: without one it must be given, on the command line as an argument.
      unset: what None or an empty default means, for help texts.
      minimum: of a number.
      choices: the texts that are allowed.
      parse: reads text; raises UsageError.
      check: takes a value of the right type and returns what is kept; raises UsageError.
      option: of the command line; "" is `--` and the name, None is none.
    """
    metadata = {
        "help": help,
        "unset": unset,
        "minimum": minimum,
        "choices": choices,
        "parse": parse,
        "check": check,
        "option": option,
    }
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Definition:
    """A setting as `setting` and its annotation define it.

    Attributes:
      name: of the field, and the key in TOML.
      kind: `str`, `int`, `float`, `bool`, `tuple` (of texts) or `Mapping`.
      optional: whether it may be None.
      default: `MISSING` if it must be given.
      help: likewise all others as in `setting`.
      option: of the command line, or None.
    """

    name: str
    kind: type
    optional: bool
    default: Any
    help: str
    unset: str
    minimum: int | None
    choices: tuple[str, ...]
    parse: Callable[[str], Any] | None
    check: Callable[[Any], Any] | None
    option: str | None

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is MISSING

    @property
    def expected(self) -> str:
        """What a value must be, in words.

        >>> Definition("k", int, False, 1, "", "", 1, (), None, None, None).expected
        'an int of at least 1'
        """
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        least = "" if self.minimum is None else f" of at least {self.minimum}"
        return f"{_KINDS[self.kind][0]}{least}"

    @property
    def default_text(self) -> str:
        """The default as a user would write it, or what it means to give none."""
        if self.required:
            return "must be given"
        if isinstance(self.default, bool):
            return str(self.default).lower()
        if self.default in (None, "", (), {}):
            return self.unset
        return ",".join(self.default) if self.kind is tuple else str(self.default)

    def checked(self, value: Any) -> Any:
        """Return `value` as this setting keeps it; what it returns it returns again.

        Raises:
          UsageError: for a value of another type or out of range.
        """
        if value is None and self.optional:
            return None
        if self.parse is not None and isinstance(value, str):
            value = self.parse(value)
        try:
            kept = _KINDS[self.kind][1](value)
        except (TypeError, ValueError, OverflowError) as error:
            raise self._refusal(value) from error
        if self.choices and kept not in self.choices:
            raise self._refusal(value)
        if self.minimum is not None and kept < self.minimum:
            raise self._refusal(value)
        return kept if self.check is None else self.check(kept)

    def _refusal(self, value: Any) -> UsageError:
        separator = ";" if self.choices else ","
        return UsageError(f"{self.name} must be {self.expected}{separator} got {shown(value)}")


def definitions_of(config: type) -> tuple[Definition, ...]:
    """Definitions of the fields of a dataclass: its own first, then those of its bases."""
    fields = {field.name: field for field in dataclasses.fields(config)}
    types = get_type_hints(config)
    names = [name for part in config.__mro__ for name in inspect.get_annotations(part)]
    return tuple(_definition(fields[name], types[name]) for name in names if name in fields)


def check_values(config: Any) -> None:
    """Bring every value of a frozen dataclass of settings to its type, and check it.

    Raises:
      UsageError: for a value of another type or out of range.
    """
    for definition in definitions_of(type(config)):
        value = definition.checked(getattr(config, definition.name))
        object.__setattr__(config, definition.name, value)


def plain_values(config: Any) -> dict[str, Any]:
    """Return the values of a dataclass of settings as JSON has them, by name."""
    values = dataclasses.asdict(config)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _definition(field: "dataclasses.Field[Any]", annotation: Any) -> Definition:
    """The definition of a field of type T, or of type T | None."""
    parts = get_args(annotation)
    optional = NoneType in parts
    if optional:
        (annotation,) = (part for part in parts if part is not NoneType)
    metadata = dict(field.metadata)
    option = metadata.pop("option")
    default = field.default
    if field.default_factory is not MISSING:
        default = field.default_factory()
    if default is MISSING:
        option = None
    elif option == "":
        option = "--" + field.name.replace("_", "-")
    return Definition(
        name=field.name,
        kind=get_origin(annotation) or annotation,
        optional=optional,
        default=default,
        option=option,
        **metadata,
    )


def shown(value: Any) -> str:
    """A value in a message.

    >>> shown("no"), len(shown("x" * 1000))
    ("'no'", 203)
    """
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."


def _text(value: Any) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or "\0" in value:
        raise TypeError
    return value


def _int(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _MAX_INT:
        raise TypeError
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise TypeError
    return float(value)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str | os.PathLike):
        return (_text(value),)
    if not isinstance(value, Iterable) or isinstance(value, Mapping):
        raise TypeError
    return tuple(_text(part) for part in value)


def _table(value: Any) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise TypeError
    return dict(value)


#: What values of each type are in words, and what reads them; it raises TypeError for others.
_KINDS: Mapping[Any, tuple[str, Callable[[Any], Any]]] = {
    str: ("text", _text),
    int: ("an int", _int),
    float: ("a number", _number),
    bool: ("true or false", _truth),
    tuple: ("text or a list of texts", _texts),
    Mapping: ("a table", _table),
}
