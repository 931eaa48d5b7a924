"""Files of users' that hold a list of texts, or a table of texts by name; checks of both.

* A text file is UTF-8, with or without a byte-order mark.  Each line is a text, without the blanks
  around it; blank lines are left out.  There are no comments.
* `.json` holds a list, or an object.
* `.toml` holds a table.  In both, a list or table may be under the only key `classes`.
"""

import json
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from clipsieve.definitions import shown
from clipsieve.errors import UsageError

Place = Callable[[int], str]
"""Where a member of a list is, by its position from 0."""

_CLASSES = "classes"


def read_list_file(
    path: str, what: str, bundled: Sequence[str] = ()
) -> tuple[list[Any] | dict[str, Any], Place]:
    """Return the list or table in a file, with its types unchecked, and the places of its members.

    Args:
      path: of the file; `~` is the user's home.
      what: it holds, e.g. "classes", for messages.
      bundled: names of lists that could have been meant.

    Raises:
      UsageError: if there is no such file, or it cannot be read, decoded or parsed.
    """
    text = _read_text(path, what, bundled)
    suffix = Path(path).suffix.lower()
    if suffix not in (".json", ".toml"):
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        numbers = [number for number, line in enumerate(lines, 1) if line.strip()]
        return [lines[number - 1] for number in numbers], lambda at: f"line {numbers[at]} of {path}"
    try:
        if suffix == ".toml":
            content: Any = tomllib.loads(text)
        else:
            content = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} {path} cannot be parsed ({error}); correct the file") from error
    if isinstance(content, dict) and list(content) == [_CLASSES]:
        inner = content[_CLASSES]
        content = inner if isinstance(inner, list | dict) else content
    if not isinstance(content, list | dict):
        raise UsageError(
            f"{what} {path} holds {shown(content)}; let it hold a list of texts, or a table"
        )
    return content, lambda at: f"entry {at + 1} of {path}"


def list_place(what: str) -> Place:
    """Return the places in a list that was handed over, such as "entry 3 of option words"."""
    return lambda at: f"entry {at + 1} of {what}"


def check_texts(values: Sequence[Any], what: str, place: Place) -> list[str]:
    """Return texts without the blanks around them; a text may be there more than once.

    Args:
      values: to be checked.
      what: each is, e.g. "template".
      place: of each.

    Raises:
      UsageError: for a value that is no text, is blank, or holds what no text may.
    """
    return [_check_text(value, what, place, at) for at, value in enumerate(values)]


def check_names(values: Sequence[Any], place: Place) -> list[str]:
    """Return names of classes without the blanks around them.

    Raises:
      UsageError: see `check_texts`; and for a name that is there twice.
    """
    names = check_texts(values, "class name", place)
    first: dict[str, int] = {}
    for at, name in enumerate(names):
        if first.setdefault(name, at) != at:
            raise UsageError(
                f"class name {shown(name)} is given twice, as {place(first[name])} and as "
                f"{place(at)}; give each class one name of its own"
            )
    return names


def check_table(table: Mapping[Any, Any], place: Place) -> dict[str, list[str]]:
    """Return texts by the name of their class: one text is a list of one.

    Raises:
      UsageError: see `check_names`; and for a class without a text.
    """
    described = {}
    for at, (name, value) in enumerate(
        zip(check_names(list(table), place), table.values(), strict=True)
    ):
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, Sequence) or isinstance(texts, bytes):
            raise UsageError(
                f"class {shown(name)}, {place(at)}, is described by {shown(value)}; give a text "
                "or a list of texts"
            )
        if not texts:
            raise UsageError(
                f"class {shown(name)}, {place(at)}, has no text; give one that describes it"
            )
        described[name] = check_texts(texts, "text", list_place(f"class {shown(name)}"))
    return described


def _read_text(path: str, what: str, bundled: Sequence[str]) -> str:
    place = os.path.expanduser(path)
    try:
        return Path(place).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} {path} is not UTF-8 text ({error}); save it as UTF-8") from error
    except (OSError, ValueError) as error:
        if bundled and (isinstance(error, ValueError) or not os.path.lexists(place)):
            close = ", ".join(get_close_matches(path.lower(), bundled, n=3)) or "none"
            raise UsageError(
                f"{what} {shown(path)} is neither a file nor a bundled list (close names: "
                f"{close}); give the path of a file, or one of {', '.join(bundled)}"
            ) from error
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"{what} {shown(path)} cannot be read ({reason}); give the path of a file"
        ) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; a key that is there twice is an error, as it is in TOML."""
    keys: set[str] = set()
    for key, _ in pairs:
        if key in keys:
            raise ValueError(f"key {shown(key)} is there twice")
        keys.add(key)
    return dict(pairs)


def _check_text(value: Any, what: str, place: Place, at: int) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{what} {shown(value)}, {place(at)}, is no text; put it in quotes")
    text = value.strip()
    if not text:
        raise UsageError(f"{what} {shown(value)}, {place(at)}, is empty; fill it in or remove it")
    if "\0" in text or not _is_encodable(text):
        raise UsageError(
            f"{what} {shown(text)}, {place(at)}, holds a character that no text may hold (NUL, or "
            "half of a surrogate pair); remove it"
        )
    return text


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
