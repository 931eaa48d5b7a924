"""Descriptions read from an output folder: JSON files and JSON in footers, validated."""

from typing import Any

from clipsieve.errors import LedgerError
from clipsieve.store.folder import OutputFolder
from clipsieve.store.json_text import parse_json
from clipsieve.store.parquet import Footer
from clipsieve.store.validation import Count, decode, shown


def read_document(folder: OutputFolder, name: str, kind: Any, cure: str) -> Any:
    """Return the value of a JSON file of the folder as a `kind`, see `validation.decode`.

    Args:
      folder: of the file.
      name: of the file.
      kind: type of the value.
      cure: what mends a damaged one, for the message.

    Raises:
      LedgerError: if the file is damaged; names the field.
      FileNotFoundError: if there is none.
    """
    try:
        return decode(kind, folder.read_json(name))
    except ValueError as error:
        raise LedgerError(f"{folder.files.url(name)} is damaged ({error}); {cure}") from error


def footer_rows(footer: Footer, key: str, place: str) -> int:
    """Return a number of rows that a footer has under `key`.

    Raises:
      LedgerError: if it is missing or no number.
    """
    text = footer.get(key, "")
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise LedgerError(
            f"{place} is damaged: {key} in its footer is {shown(text)}, no number; "
            "run `clipsieve run` again"
        )
    return int(text)


def footer_value(footer: Footer, key: str, kind: Any, place: str) -> Any:
    """Return the value of the JSON that a footer has under `key`, as a `kind`.

    Raises:
      LedgerError: if it is missing or damaged.
    """
    try:
        return decode(kind, parse_json(footer.get(key, "")))
    except ValueError as error:
        raise LedgerError(
            f"{place} is damaged: {key} in its footer ({error}); run `clipsieve run` again"
        ) from error


def footer_states(footer: Footer, key: str, place: str) -> dict[str, int]:
    """Return rows by state, as a footer has them under `key`.

    Raises:
      LedgerError: if they are missing or damaged.
    """
    return dict(footer_value(footer, key, dict[str, Count], place))
