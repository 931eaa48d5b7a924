"""Checks of scorers' options, with one wording of what is wrong."""

from collections.abc import Mapping
from typing import Any

from clipsieve.errors import UsageError


def check_ints(scorer: str, options: Mapping[str, tuple[Any, int]]) -> None:
    """Refuse values that are no int, below the least one, or too large for 64 bits.

    Args:
      scorer: its name.
      options: value and least value of each, by name.

    Raises:
      UsageError: names the scorer, the option and the value.
    """
    for name, (value, least) in options.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UsageError(
                f"option {name} of scorer {scorer} must be an int of at least {least}, "
                f"got {value!r}"
            )
        if value >= 2**64:
            raise UsageError(f"option {name} of scorer {scorer} must be under 2**64, got {value}")


def check_flag(scorer: str, name: str, value: Any) -> None:
    """Refuse a value that is neither true nor false.

    Raises:
      UsageError: names the scorer, the option and the value.
    """
    if not isinstance(value, bool):
        raise UsageError(f"option {name} of scorer {scorer} must be true or false, got {value!r}")
