"""Values of settings as they are written: lengths of time, sizes, lists of names."""

import re

from clipsieve.definitions import shown
from clipsieve.errors import UsageError

_UNITS_OF_SIZE = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def seconds(text: str, name: str = "deadline") -> float:
    """A length of time: a number with s, m or h, seconds if it has none.

    Args:
      text: what was written.
      name: of the setting, for the message.

    Raises:
      UsageError: if it is something else.

    >>> seconds("90"), seconds("1.5m"), seconds("5h")
    (90.0, 90.0, 18000.0)
    """
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        return float(number) * units[unit]
    except ValueError as error:
        raise UsageError(f"{name} {shown(text)} is not a time; say 90s, 30m or 5h") from error


def byte_size(text: str, name: str) -> int:
    """A number of bytes: digits with K, M or G for powers of 1,024.

    Args:
      text: what was written.
      name: of the setting, for the message.

    Raises:
      UsageError: if it is something else.

    >>> byte_size("32M", "max_bytes"), byte_size("500", "max_bytes")
    (33554432, 500)
    """
    form = re.fullmatch(r"(\d+)\s*([KMG]?)i?B?", text.strip(), flags=re.IGNORECASE)
    if form is None:
        raise UsageError(f"{name} {shown(text)} is not a size; say 500K, 32M or 1G")
    return int(form[1]) * _UNITS_OF_SIZE[form[2].upper()]


def split_names(text: str) -> tuple[str, ...]:
    """Names separated by commas.

    >>> split_names("clip, own.scorer,")
    ('clip', 'own.scorer')
    """
    return tuple(name.strip() for name in text.split(",") if name.strip())
