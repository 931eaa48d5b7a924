"""Column roles of a Parquet source, and the names under which other columns are carried."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import types

from clipsieve.errors import UsageError
from clipsieve.formats.arrow_types import is_text, plain_type
from clipsieve.formats.base import ReadOptions
from clipsieve.schemas.tables import LEDGER

#: As a caption column: the source has none, every caption is None.
NO_CAPTIONS = "none"

#: Names that a carried column cannot have, in lower case: those of the ledger, and those the
#: views add.  Such a column is carried as source_<name>.
RESERVED = frozenset(LEDGER.names) | {"rev", "filename"}

#: Columns of a source.  Each costs time and memory in every batch and file.
MAX_COLUMNS = 2_000

_IMAGE_NAMES = ("jpg", "jpeg", "png", "webp", "image", "image_bytes", "bytes", "content")
_CAPTION_NAMES = ("caption", "text", "txt", "captions")


@dataclass(frozen=True, slots=True)
class Roles:
    """The columns with a role of their own; None where there is none.

    Attributes:
      image: picture bytes.
      caption: caption, or list of captions.
      uid: identity.
      pixels: every other column that holds pictures; they are not carried.
    """

    image: str
    caption: str | None
    uid: str | None
    pixels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CarriedColumns:
    """Columns that go into the ledger beside its own.

    Attributes:
      schema: carried name and type.
      origins: source column of each.
      renamed: (source column, carried name) where they differ.
    """

    schema: pa.Schema
    origins: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...] = ()

    def renaming_note(self) -> str:
        """Return "; carried under other names: ...", or nothing."""
        pairs = ", ".join(f"{column} as {name}" for column, name in self.renamed)
        return f"; carried under other names: {pairs}" if pairs else ""


def unique_labels(names: Sequence[str]) -> list[str]:
    """Return the names, later ones of equal names with `_2`, `_3`, ... so that none repeat.

    >>> unique_labels(["a", "b", "a", "a_2"])
    ['a', 'b', 'a_3', 'a_2']
    """
    taken, used = set(names), set()
    labels: list[str] = []
    for name in names:
        label = name if name not in used else _free_name(name, taken)
        taken.add(label)
        used.add(label)
        labels.append(label)
    return labels


def carried_columns(
    columns: Iterable[tuple[str, str, pa.DataType]], reserved: Iterable[str] = ()
) -> CarriedColumns:
    """Choose the names of carried columns: none reserved, no two equal without regard to case.

    DuckDB compares names without case: of `url` and `URL` it would show one as `URL_1`, and a
    `Status` of the source could stand for the ledger's.

    Args:
      columns: source column, preferred name and unified type; columns with a role of their own
        left out.
      reserved: names taken besides `RESERVED`, in lower case.
    """
    refused = RESERVED | frozenset(reserved)
    taken = set(refused)
    fields, origins, renamed = [], [], []
    for origin, preferred, kind in columns:
        name = f"source_{preferred}" if preferred.lower() in refused else preferred
        if name.lower() in taken:
            name = _free_name(name, taken)
        taken.add(name.lower())
        fields.append(pa.field(name, kind))
        origins.append(origin)
        if name != preferred:
            renamed.append((preferred, name))
    return CarriedColumns(pa.schema(fields), tuple(origins), tuple(renamed))


def choose_roles(
    columns: Mapping[str, pa.DataType],
    place: str,
    options: ReadOptions,
    marked_images: frozenset[str] = frozenset(),
) -> Roles:
    """Return the role each column of a Parquet source has.

    Named columns are taken; otherwise the image is the column marked as picture, or the one
    whose name and type are a picture's; the caption is `caption`, `text`, `txt` or `captions` and
    the uid `uid`, in any case of letters.

    Args:
      columns: unified column -> type.
      place: what to name in errors.
      options: the columns that were named.
      marked_images: columns that Hugging Face `datasets` marks as images.

    Raises:
      UsageError: a named column is missing or of a wrong type, there is no image or caption
        column, or several could be the image.
    """
    references = options.references_col
    require_column(options.uid_col, columns, "uid_col", place)
    require_column(references, columns, "references_col", place)
    image = _choose_image(columns, place, marked_images, options.image_col)
    caption = _choose_caption(columns, place, options.caption_col)
    uid = options.uid_col or find_column("uid", columns)
    if references is not None and not is_text(columns[references]):
        raise UsageError(
            f"references_col {references!r} in {place} is {columns[references]}, not strings or "
            "lists of strings; name another column"
        )
    if uid is not None and not _is_scalar(columns[uid]):
        raise UsageError(
            f"uid column {uid!r} in {place} is {columns[uid]}; a uid is a string, bytes or an "
            "integer, name another with uid_col"
        )
    pixels = tuple(
        name
        for name, kind in columns.items()
        if name not in {image, caption, uid, references}
        and (name in marked_images or _is_image_struct(kind))
    )
    return Roles(image, caption, uid, pixels)


def find_column(lower_name: str, columns: Iterable[str]) -> str | None:
    """Return the column of that name in any case of letters, exact case preferred, or None."""
    same = [name for name in columns if name.lower() == lower_name]
    return lower_name if lower_name in same else next(iter(same), None)


def require_column(name: str | None, columns: Iterable[str], option: str, place: str) -> None:
    """Raise `UsageError` if the named column does not exist; None asks for nothing."""
    names = list(columns)
    if name is not None and name not in names:
        raise UsageError(
            f"{option} {name!r} is not a column of {place}; its columns are {', '.join(names)}"
        )


def reference_captions(value: Any) -> list[str]:
    """Return the reference captions in one value of a carried column; NULL entries are skipped.

    Tars and folders carry lists as JSON text.

    >>> reference_captions("a cat"), reference_captions(["a", None]), reference_captions('["b"]')
    (['a cat'], ['a'], ['b'])
    """
    if isinstance(value, str) and value.startswith("["):
        with suppress(ValueError, RecursionError):
            entries = json.loads(value)
            if all(entry is None or isinstance(entry, str) for entry in entries):
                value = entries
    texts = value if isinstance(value, list) else [value]
    return [
        text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        for text in texts
        if text is not None
    ]


def _choose_image(
    columns: Mapping[str, pa.DataType],
    place: str,
    marked_images: frozenset[str],
    image_col: str | None,
) -> str:
    require_column(image_col, columns, "image_col", place)
    if image_col is not None:
        if not _is_image(columns[image_col]):
            raise UsageError(
                f"image_col {image_col!r} in {place} is {columns[image_col]}, not bytes or a "
                "struct with bytes; name another column"
            )
        return image_col
    candidates = [name for name in columns if name in marked_images and _is_image(columns[name])]
    candidates = candidates or [name for name in columns if _is_image_struct(columns[name])]
    if not candidates:
        by_name = {name.lower(): name for name in reversed(list(columns))}
        named = [by_name[name] for name in _IMAGE_NAMES if name in by_name]
        candidates = [name for name in named if _is_image(columns[name])][:1]
    if len(candidates) > 1 and "image" in candidates:
        return "image"
    if len(candidates) > 1:
        raise UsageError(
            f"{place} has {len(candidates)} image columns: {', '.join(candidates)}; choose one "
            "with image_col"
        )
    if not candidates:
        cure = "name it with image_col"
        if find_column("url", columns) is not None:
            cure = "fetch the images of its urls first (ingest), or " + cure
        listed = ", ".join(f"{name} ({kind})" for name, kind in columns.items())
        raise UsageError(f"no image column in {place}: its columns are {listed}; {cure}")
    return candidates[0]


def _choose_caption(
    columns: Mapping[str, pa.DataType], place: str, caption_col: str | None
) -> str | None:
    if caption_col == NO_CAPTIONS and NO_CAPTIONS not in columns:
        return None
    require_column(caption_col, columns, "caption_col", place)
    candidates = (find_column(name, columns) for name in _CAPTION_NAMES)
    caption = caption_col or next((name for name in candidates if name), None)
    if caption is None:
        raise UsageError(
            f"no caption column in {place}: its columns are {', '.join(columns)}; name it with "
            f"caption_col, which is {NO_CAPTIONS!r} if there are no captions"
        )
    if not is_text(columns[caption]):
        raise UsageError(
            f"caption column {caption!r} in {place} is {columns[caption]}, not text; name "
            "another with caption_col"
        )
    return caption


def _is_image(kind: pa.DataType) -> bool:
    return bool(types.is_binary(plain_type(kind)) or _is_image_struct(plain_type(kind)))


def _is_image_struct(kind: pa.DataType) -> bool:
    if not types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    return bool(types.is_binary(plain_type(kind.field("bytes").type)))


def _is_scalar(kind: pa.DataType) -> bool:
    return bool(
        types.is_string(kind)
        or types.is_integer(kind)
        or types.is_binary(kind)
        or types.is_fixed_size_binary(kind)
    )


def _free_name(name: str, taken: set[str]) -> str:
    number = 2
    while f"{name}_{number}" in taken or f"{name}_{number}".lower() in taken:
        number += 1
    return f"{name}_{number}"
