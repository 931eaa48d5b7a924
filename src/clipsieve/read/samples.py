"""Rows made of an image, a caption file and JSON fields: what tars and folders have in common."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from clipsieve.errors import UsageError
from clipsieve.read.batch import RowBatch
from clipsieve.read.columns import NO_CAPTIONS, Carried, carried_columns, find_name, require_column
from clipsieve.read.items import InputFormat
from clipsieve.read.parquet_rows import missing_image
from clipsieve.read.source import SourceConfig
from clipsieve.read.text import decode_caption
from clipsieve.read.unify import unify_types
from clipsieve.schemas.states import RowFailure, RowState

#: Name of the caption file or member, where a column name is expected.
TEXT_FILE = "txt"

#: Carried column of the fields that were not foreseen, as one JSON object; NULL if none.
EXTRA = "extra"

#: Column of a sample's own name.
KEY_COLUMNS = {InputFormat.WEBDATASET: "key", InputFormat.FOLDER: "file_name"}

_FALLBACK_CAPTIONS = ("caption", "text")
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


@dataclass(slots=True)
class Sample:
    """One row as found.

    Attributes:
      key: name: the path without extension in a tar, the path of the image in a folder.
      image: encoded image, None if there is none.
      text: caption file, None if there is none.
      json: JSON file, None if there is none.
      fields: further fields, from a metadata file.
      extensions: what files there are.
      missing: why there is no image, where more is known than that.
    """

    key: str
    image: bytes | None = None
    text: bytes | None = None
    json: bytes | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    extensions: list[str] = field(default_factory=list)
    missing: str | None = None


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


def fields_of(sample: Sample) -> dict[str, Any]:
    """Return the fields of a sample: its JSON, under those of a metadata file.

    JSON that cannot be read, or is no object, becomes the one field `invalid_json`, its text.
    """
    if sample.json is None:
        return dict(sample.fields)
    try:
        fields = json.loads(sample.json)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        fields = {"invalid_json": sample.json.decode("utf-8", "replace")}
    return fields | sample.fields


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
        found = (name for name in _FALLBACK_CAPTIONS if name in kinds)
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
    parts = {uid, caption, *(_FALLBACK_CAPTIONS if caption == TEXT_FILE else ())}
    wanted = [(name, name, kind) for name, kind in kinds.items() if name not in parts]
    carried = carried_columns(wanted, reserved=[EXTRA])
    fields = [*carried.schema, pa.field(EXTRA, pa.string())]
    carried = Carried(pa.schema(fields), (*carried.origins, EXTRA), carried.renamed)
    return SampleColumns(caption, uid, uid_type, carried, kinds)


def batches_of(samples: Iterable[Sample], source: SourceConfig, start: int) -> Iterator[RowBatch]:
    """Yield samples as row batches of about `source.byte_budget` bytes.

    Raises:
      ValueError: a uid does not fit the planned type.
    """
    held: list[Sample] = []
    size = 0
    for sample in samples:
        held.append(sample)
        size += sum(len(part) for part in (sample.image, sample.text, sample.json) if part)
        size += 1024  # of Python objects; samples without images have a size too
        if size >= source.byte_budget:
            yield _batch(held, source, start)
            start, held, size = start + len(held), [], 0
    if held:
        yield _batch(held, source, start)


def _batch(samples: Sequence[Sample], source: SourceConfig, start: int) -> RowBatch:
    origins = source.origins[:-1]
    known = frozenset(origins)
    key_column = KEY_COLUMNS[source.format]
    captions: list[str | None] = []
    failures: dict[int, RowFailure] = {}
    rows: list[dict[str, Any]] = []
    uids: list[Any] = []
    references: list[Sequence[str]] = []
    extras: list[str | None] = []
    for position, sample in enumerate(samples):
        fields = fields_of(sample)
        caption, failure = _caption(sample, fields, source.caption)
        if sample.image is None:
            failure = _missing(sample, fields, source)
        if failure is not None:
            failures[position] = failure
        captions.append(caption)
        if source.references is not None:
            references.append(_references(fields.get(source.references)))
        if source.uid is not None:
            uids.append(fields.pop(source.uid, None))
        name = fields.setdefault(key_column, sample.key)
        if str(name) != sample.key.rpartition("/")[2] and name != sample.key:
            fields["__key__"] = sample.key
        rest = {}
        if not fields.keys() <= known:
            rest = {name: fields.pop(name) for name in fields.keys() - known}
        rows.append(fields)
        extras.append(json.dumps(rest, sort_keys=True) if rest else None)
    return RowBatch(
        start=start,
        images=[sample.image for sample in samples],
        captions=captions,
        carried=_table(rows, extras, source),
        failures=failures,
        uids=None if source.uid is None else _uids(uids, source),
        references=None if source.references is None else references,
    )


def _caption(
    sample: Sample, fields: dict[str, Any], column: str | None
) -> tuple[str | None, RowFailure | None]:
    """Return the caption and its failure; takes it out of the fields."""
    if column is None:
        return None, None
    if column != TEXT_FILE:
        value = fields.pop(column, None)
        if sample.text is not None:
            if value is None:
                return decode_caption(sample.text)
            fields.setdefault(TEXT_FILE, sample.text.decode("utf-8", "replace"))
        return _as_text(value), None
    if sample.text is None:
        name = next((name for name in _FALLBACK_CAPTIONS if fields.get(name) is not None), None)
        return (None if name is None else _as_text(fields.pop(name))), None
    caption, failure = decode_caption(sample.text)
    for name in _FALLBACK_CAPTIONS:
        value = fields.get(name, "")
        if (
            value is None
            or value == ""
            or (type(value) is str and value.strip() == caption.strip())
        ):
            fields.pop(name, None)
    return caption, failure


def _missing(sample: Sample, fields: dict[str, Any], source: SourceConfig) -> RowFailure:
    status, message = fields.get("status"), fields.get("error_message")
    if isinstance(status, str) and status.startswith("failed"):
        return missing_image(status, message if isinstance(message, str) else None)
    if sample.missing is None and source.format is InputFormat.WEBDATASET:
        wanted = "picture" if source.image is None else f".{source.image}"
        there = ", ".join(f".{extension}" for extension in sample.extensions)
        return RowFailure(
            RowState.MISSING_IMAGE, f"sample {sample.key} has no {wanted} member, only {there}"
        )
    return RowFailure(RowState.MISSING_IMAGE, sample.missing or "no image bytes in the source")


def _references(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [_utf8(entry) for entry in values if isinstance(entry, str)]


def _uids(uids: Sequence[Any], source: SourceConfig) -> pa.Array:
    try:
        if source.uid_type == pa.string():
            uids = [None if uid is None else _as_text(uid) for uid in uids]
        return pa.array(uids, source.uid_type)
    except (pa.ArrowException, OverflowError) as error:
        raise ValueError(
            f"a uid in field {source.uid!r} is not {source.uid_type} as in the first samples "
            f"({error}); name another with uid_col"
        ) from error


def _table(rows: list[dict[str, Any]], extras: list[str | None], source: SourceConfig) -> pa.Table:
    origins = source.origins[:-1]
    types = [carried.type for carried in source.carried][:-1]
    struct = pa.struct(list(zip(origins, types, strict=True)))
    try:
        columns = pa.array(rows, struct).flatten()
    except (pa.ArrowException, UnicodeError, OverflowError):
        fitted = [_fit(row, dict(zip(origins, types, strict=True))) for row in rows]
        columns = pa.array([row for row, _ in fitted], struct).flatten()
        extras = [
            json.dumps(json.loads(extra or "{}") | misfits, sort_keys=True) if misfits else extra
            for extra, (_, misfits) in zip(extras, fitted, strict=True)
        ]
    return pa.Table.from_arrays([*columns, pa.array(extras, pa.string())], schema=source.carried)


def _fit(
    row: dict[str, Any], types: dict[str, pa.DataType]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields that fit their columns' types, and those that do not."""
    fits, misfits = {}, {}
    for name, value in row.items():
        if value is None:
            continue
        if types[name] == pa.string():
            fits[name] = _as_text(value)
            continue
        try:
            pa.scalar(value, types[name])
            fits[name] = value
        except (pa.ArrowException, OverflowError):
            misfits[name] = value
    return fits, misfits


def _kind(value: Any) -> pa.DataType:
    if value is None:
        return pa.null()
    kinds = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    return kinds.get(type(value), pa.string())


def _as_text(value: Any) -> str | None:
    if value is None:
        return None
    return _utf8(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _utf8(text: str) -> str:
    """Return the text without lone surrogates, which JSON can hold and UTF-8 cannot."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
