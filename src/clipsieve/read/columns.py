"""Which column plays which part, and under which names the others are carried along."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
from pyarrow import types

from clipsieve.errors import UsageError
from clipsieve.read.text import is_caption_type
from clipsieve.read.unify import plain_type

#: Names of our own output columns; a source column of that name is carried as source_<name>.
RESERVED = frozenset(
    {"shard", "row", "status", "error", "image_width", "image_height", "caption", "uid", "rev"}
    | {"filename"}
)

#: As a caption column: the source has none, every caption is None.
NO_CAPTIONS = "none"

_IMAGE_NAMES = ("jpg", "jpeg", "png", "webp", "image", "image_bytes", "bytes", "content")
_CAPTION_NAMES = ("caption", "text", "txt", "captions")


@dataclass(frozen=True, slots=True)
class Roles:
    """The columns that have a part of their own; None where there is none.

    Attributes:
      image: picture bytes.
      caption: caption, or list of captions.
      uid: identity.
      references: reference captions.
      pixels: every other column that holds pictures; they are not carried.
    """

    image: str
    caption: str | None
    uid: str | None
    references: str | None
    pixels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Carried:
    """Names of carried columns.

    Attributes:
      schema: carried name and type.
      origins: source column of each.
      renamed: (source column, carried name) where they differ.
    """

    schema: pa.Schema
    origins: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...] = field(default=())


def labels_of(names: Sequence[str]) -> list[str]:
    """Return the names, later ones of equal names with `_2`, `_3`, ... so that none repeat.

    >>> labels_of(["a", "b", "a", "a_2"])
    ['a', 'b', 'a_3', 'a_2']
    """
    taken = set(names)
    seen: set[str] = set()
    labels = []
    for name in names:
        label = name if name not in seen else _unused(name, taken)
        seen.add(label)
        taken.add(label)
        labels.append(label)
    return labels


def choose_roles(
    columns: Mapping[str, pa.DataType],
    place: str,
    *,
    pictures: frozenset[str] = frozenset(),
    image: str | None = None,
    caption: str | None = None,
    uid: str | None = None,
    references: str | None = None,
) -> Roles:
    """Return the part each column of a Parquet source plays.

    Named columns are taken; otherwise the image is the column marked as picture, or the one
    whose name and type are a picture's; the caption is `caption`, `text`, `txt` or `captions` and
    the uid `uid`, in any case of letters.

    Args:
      columns: unified column -> type.
      place: what to name in errors.
      pictures: columns that Hugging Face `datasets` marks as images.
      image: name of the image column.
      caption: name of the caption column; "none" if there are no captions.
      uid: name of the uid column.
      references: name of the column of reference captions.

    Raises:
      UsageError: a named column is missing or of a wrong type, there is no image or caption
        column, or several could be the image.
    """
    for option, name in (("uid_col", uid), ("references_col", references)):
        require_column(name, columns, option, place)
    image = _choose_image(columns, place, pictures, image)
    caption = _choose_caption(columns, place, caption)
    uid = uid or find_name("uid", columns)
    if references is not None and not is_caption_type(columns[references]):
        raise UsageError(
            f"references_col {references!r} in {place} is {columns[references]}, not strings or "
            "lists of strings; name another column"
        )
    if uid is not None and not _is_scalar(columns[uid]):
        raise UsageError(
            f"uid column {uid!r} in {place} is {columns[uid]}; a uid is a string, bytes or an "
            "integer, name another with uid_col"
        )
    parts = {image, caption, uid, references}
    others = tuple(
        name
        for name, kind in columns.items()
        if name not in parts and (name in pictures or _is_picture_struct(kind))
    )
    return Roles(image, caption, uid, references, others)


def carried_columns(
    columns: Iterable[tuple[str, str, pa.DataType]], reserved: Iterable[str] = ()
) -> Carried:
    """Return the names under which columns are carried: none of ours, none twice in any case.

    Args:
      columns: source column, wished name and unified type; columns with a part of their own
        left out.
      reserved: names taken besides `RESERVED`.
    """
    ours = RESERVED | frozenset(reserved)
    taken = set(ours)
    fields, origins, renamed = [], [], []
    for origin, wished, kind in columns:
        name = f"source_{wished}" if wished.lower() in ours else wished
        if name.lower() in taken:
            name = _unused(name, taken)
        taken.add(name.lower())
        fields.append(pa.field(name, kind))
        origins.append(origin)
        if name != wished:
            renamed.append((wished, name))
    return Carried(pa.schema(fields), tuple(origins), tuple(renamed))


def is_image_type(kind: pa.DataType) -> bool:
    """Return whether a column can hold encoded images: bytes, or a struct with bytes."""
    kind = plain_type(kind)
    return bool(types.is_binary(kind) or _is_picture_struct(kind))


def find_name(wanted: str, columns: Iterable[str]) -> str | None:
    """Return the column of that name, exact case preferred, or None."""
    same = [name for name in columns if name.lower() == wanted]
    return wanted if wanted in same else next(iter(same), None)


def require_column(name: str | None, columns: Iterable[str], option: str, place: str) -> None:
    """Raise `UsageError` if a column was named that is not there; None asks for nothing."""
    names = list(columns)
    if name is not None and name not in names:
        raise UsageError(
            f"{option} {name!r} is not a column of {place}; its columns are {', '.join(names)}"
        )


def _choose_image(
    columns: Mapping[str, pa.DataType], place: str, pictures: frozenset[str], named: str | None
) -> str:
    require_column(named, columns, "image_col", place)
    if named is not None:
        if not is_image_type(columns[named]):
            raise UsageError(
                f"image_col {named!r} in {place} is {columns[named]}, not bytes or a struct with "
                "bytes; name another column"
            )
        return named
    marked = [name for name in columns if name in pictures and is_image_type(columns[name])]
    marked = marked or [name for name, kind in columns.items() if _is_picture_struct(kind)]
    if not marked:
        lower = {name.lower(): name for name in reversed(list(columns))}
        named_so = [lower[name] for name in _IMAGE_NAMES if name in lower]
        marked = [name for name in named_so if is_image_type(columns[name])][:1]
    if len(marked) > 1 and "image" in marked:
        return "image"
    if len(marked) > 1:
        raise UsageError(
            f"{place} has {len(marked)} image columns: {', '.join(marked)}; choose one with "
            "image_col"
        )
    if not marked:
        cure = "name it with image_col"
        if find_name("url", columns) is not None:
            cure = "fetch the images of its urls first (ingest), or " + cure
        listed = ", ".join(f"{name} ({kind})" for name, kind in columns.items())
        raise UsageError(f"no image column in {place}: its columns are {listed}; {cure}")
    return marked[0]


def _choose_caption(
    columns: Mapping[str, pa.DataType], place: str, named: str | None
) -> str | None:
    if named == NO_CAPTIONS and NO_CAPTIONS not in columns:
        return None
    require_column(named, columns, "caption_col", place)
    found = (find_name(name, columns) for name in _CAPTION_NAMES)
    caption = named or next((name for name in found if name), None)
    if caption is None:
        raise UsageError(
            f"no caption column in {place}: its columns are {', '.join(columns)}; name it with "
            f"caption_col, which is {NO_CAPTIONS!r} if there are no captions"
        )
    if not is_caption_type(columns[caption]):
        raise UsageError(
            f"caption column {caption!r} in {place} is {columns[caption]}, not text; name "
            "another with caption_col"
        )
    return caption


def _is_picture_struct(kind: pa.DataType) -> bool:
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


def _unused(name: str, taken: set[str]) -> str:
    number = 2
    while f"{name}_{number}" in taken or f"{name}_{number}".lower() in taken:
        number += 1
    return f"{name}_{number}"
