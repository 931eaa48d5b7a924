"""The columns of tars and folders, learned from their first samples."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from clipsieve.errors import UsageError
from clipsieve.read.columns import NO_CAPTIONS, Carried, carried_columns, find_name, require_column
from clipsieve.read.items import InputFormat
from clipsieve.read.samples import (
    CAPTION_FIELDS,
    EXTRA,
    KEY_COLUMNS,
    TEXT_FILE,
    Sample,
    fields_of,
)
from clipsieve.read.unify import unify_types

_STRINGS = ("url", "key", "status", "error_message", "exif", "md5", "sha256", "sha512")
_INTEGERS = ("width", "height", "original_width", "original_height")
_DOUBLES = (
    *("similarity", "punsafe", "pwatermark", "aesthetic"),
    *("clip_b32_similarity_score", "clip_l14_similarity_score"),
)
#: Types of the fields that img2dataset and its users write, whatever a few samples look like.
KNOWN_TYPES: dict[str, pa.DataType] = {
    **dict.fromkeys(_STRINGS, pa.string()),
    **dict.fromkeys(_INTEGERS, pa.int64()),
    **dict.fromkeys(_DOUBLES, pa.float64()),
}


@dataclass(frozen=True, slots=True)
class SampleColumns:
    """What the first samples show, with the parts that were asked for.

    Attributes:
      caption: "txt", a field, or None if there are no captions.
      uid: field of the uid, or None.
      uid_type: int64 or string, None without a uid.
      carried: the carried columns.
      fields: the fields that were seen, with their types.
    """

    caption: str | None
    uid: str | None
    uid_type: pa.DataType | None
    carried: Carried
    fields: dict[str, pa.DataType]


def sample_columns(
    samples: Iterable[Sample],
    place: str,
    format: InputFormat,
    *,
    caption: str | None = None,
    uid: str | None = None,
    references: str | None = None,
) -> SampleColumns:
    """Return the columns that samples have.

    A field's type is that of `KNOWN_TYPES`, else what its values show: boolean, int64, double
    or string; fields of mixed kinds, lists and objects are carried as strings of JSON.

    Args:
      samples: some of the source's; their images are not looked at.
      place: what to name in errors.
      format: of the source.
      caption: field to take captions from, "txt", or "none" if there are no captions.
      uid: field of the uid.
      references: field of the reference captions.

    Raises:
      UsageError: a named field is not there, or a webdataset has no captions.
    """
    kinds: dict[str, pa.DataType] = {KEY_COLUMNS[format]: pa.string()}
    texts = False
    for sample in samples:
        texts = texts or sample.text is not None
        for name, value in fields_of(sample).items():
            if name != "invalid_json":
                known = unify_types(kinds.get(name, pa.null()), _kind(value))
                kinds[name] = pa.string() if known is None else known
    kinds |= {name: kind for name, kind in KNOWN_TYPES.items() if name in kinds}
    kinds = {name: pa.string() if kind == pa.null() else kind for name, kind in kinds.items()}
    present = [*kinds, *([TEXT_FILE] if texts and TEXT_FILE not in kinds else [])]
    for option, named in (("uid_col", uid), ("references_col", references)):
        require_column(named, kinds, option, place)
    if caption != NO_CAPTIONS or NO_CAPTIONS in kinds:
        require_column(caption, present, "caption_col", place)
        found = (name for name in CAPTION_FIELDS if name in kinds)
        caption = caption or (TEXT_FILE if texts else next(found, None))
        if caption is None and format is InputFormat.WEBDATASET:
            raise UsageError(
                f"no captions in {place}: no .txt members and no field called caption or text "
                f"among {', '.join(kinds)}; name the field with caption_col, which is "
                f"{NO_CAPTIONS!r} if there are no captions"
            )
    else:
        caption = None
    uid = uid or find_name("uid", kinds)
    uid_type = None
    if uid is not None:
        uid_type = kinds[uid] if kinds[uid] == pa.int64() else pa.string()
    # JSON repeats the caption of the text file: what it says besides goes to `extra`.
    parts = {uid, caption, *(CAPTION_FIELDS if caption == TEXT_FILE else ())}
    wanted = [(name, name, kind) for name, kind in kinds.items() if name not in parts]
    carried = carried_columns(wanted, reserved=[EXTRA])
    fields = [*carried.schema, pa.field(EXTRA, pa.string())]
    carried = Carried(pa.schema(fields), (*carried.origins, EXTRA), carried.renamed)
    return SampleColumns(caption, uid, uid_type, carried, kinds)


def _kind(value: Any) -> pa.DataType:
    if value is None:
        return pa.null()
    kinds = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    return kinds.get(type(value), pa.string())
