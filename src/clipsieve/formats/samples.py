"""Rows made of an image, a caption file and JSON fields: what tars and folders have in common."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from clipsieve.errors import UsageError
from clipsieve.formats.arrow_types import decode_caption, unify_types
from clipsieve.formats.base import (
    MAX_CAPTION_BYTES,
    MAX_IMAGE_BYTES,
    InputFormat,
    ReadOptions,
    RowBatch,
    SourceConfig,
    missing_image,
)
from clipsieve.formats.columns import (
    MAX_COLUMNS,
    NO_CAPTIONS,
    CarriedColumns,
    carried_columns,
    find_column,
    require_column,
)
from clipsieve.nesting import is_deeper_than
from clipsieve.schemas.states import RowFailure, RowState

#: Extensions that are taken for pictures; the decoder has the last word.
PICTURES = (
    *("jpg", "jpeg", "png", "webp", "jpe", "jfif", "gif", "bmp", "tif", "tiff", "avif"),
    *("heic", "heif", "jp2", "ppm"),
)

#: Name of the caption file or member, where a column name is expected.
TEXT_FILE = "txt"

#: How many samples of each source show its columns: enough to meet the rarer fields.
PROBED_SAMPLES = 100

#: Carried column of the fields that planning did not meet, as one JSON object; NULL if none.
_EXTRA = "extra"

#: A JSON file over this size is not read: parsed, it takes some twenty times its size.
MAX_JSON_BYTES = 4 << 20

# What parsed JSON takes in memory, as a multiple of its size, of ordinary objects.
_JSON_EXPANSION = 8

# JSON nested deeper than this is kept as text: writing it again would recurse as deep.
_MAX_JSON_DEPTH = 100

#: Column of a sample's own name.
_KEY_COLUMNS = {InputFormat.WEBDATASET: "key", InputFormat.FOLDER: "file_name"}

#: Fields that captions are taken from where there is no text file, best first.
_CAPTION_FIELDS = ("caption", "text")

_STRINGS = ("url", "key", "status", "error_message", "exif", "md5", "sha256", "sha512")
_INTEGERS = ("width", "height", "original_width", "original_height")
_DOUBLES = (
    *("similarity", "punsafe", "pwatermark", "aesthetic"),
    *("clip_b32_similarity_score", "clip_l14_similarity_score"),
)
#: Types of the fields that img2dataset and its users write, whatever a few samples look like.
_KNOWN_TYPES: dict[str, pa.DataType] = {
    **dict.fromkeys(_STRINGS, pa.string()),
    **dict.fromkeys(_INTEGERS, pa.int64()),
    **dict.fromkeys(_DOUBLES, pa.float64()),
}


@dataclass(slots=True)
class Sample:
    """One row as stored.

    Attributes:
      key: name: the path without extension in a tar, the path of the image in a folder.
      image: encoded image, None if there is none.
      text: caption file, None if there is none.
      json: JSON file, None if there is none.
      fields: further fields, from a metadata file or a sidecar.
      extensions: what files there are.
      missing: why there is no image, where more is known than that.
      image_bytes: size of the image in its file; the image of one that is too large is not read.
      text_bytes: size of the caption file, of which only the beginning may have been read.
      json_bytes: size of the JSON file; one over `MAX_JSON_BYTES` is not read.
    """

    key: str
    image: bytes | None = None
    text: bytes | None = None
    json: bytes | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    extensions: list[str] = field(default_factory=list)
    missing: str | None = None
    image_bytes: int = 0
    text_bytes: int = 0
    json_bytes: int = 0

    def all_fields(self) -> dict[str, Any]:
        """Return the fields: those of the JSON, replaced by those of a metadata file or sidecar.

        JSON that cannot be read, or is no object, becomes the one field `invalid_json`, its text.
        """
        if self.json_bytes > MAX_JSON_BYTES:
            reason = f"{self.json_bytes:,} bytes of JSON, the limit is {MAX_JSON_BYTES:,}; not read"
            return {"invalid_json": reason} | self.fields
        if self.json is None:
            return dict(self.fields)
        try:
            fields = json.loads(self.json)
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict) or is_deeper_than(fields, _MAX_JSON_DEPTH):
            fields = {"invalid_json": self.json.decode("utf-8", "replace")}
        if not all(name.isascii() for name in fields):
            fields = {str(_as_text(name)): value for name, value in fields.items()}
        return fields | self.fields


@dataclass(frozen=True, slots=True)
class SampleLimits:
    """How much of a sample's files is read.

    Attributes:
      image: larger images are not read.
      text: of a longer caption file the beginning is read.
    """

    image: int = MAX_IMAGE_BYTES
    text: int = MAX_CAPTION_BYTES

    @classmethod
    def from_source(cls, source: SourceConfig) -> "SampleLimits":
        """Return the limits of a source."""
        return cls(source.max_image_bytes, source.max_caption_bytes)

    @classmethod
    def from_options(cls, options: ReadOptions) -> "SampleLimits":
        """Return the limits in the options, without images: planning looks at none."""
        return cls(0, options.max_caption_bytes)


@dataclass(frozen=True, slots=True)
class SampleColumns:
    """The columns of tars and folders, learned from their first samples.

    Attributes:
      caption: "txt", a field, or None if there are no captions.
      uid: field of the uid, or None.
      uid_type: int64 or string, None without a uid.
      carried: the carried columns.
      img2dataset: whether the samples have the fields that img2dataset writes.
    """

    caption: str | None
    uid: str | None
    uid_type: pa.DataType | None
    carried: CarriedColumns
    img2dataset: bool

    def uid_note(self) -> str:
        """Return where uids come from, in words."""
        return "no uid" if self.uid is None else f"uid from {self.uid}"

    def source(
        self,
        format: InputFormat,
        flavour: str,
        options: ReadOptions,
        image: str | None,
        caption: str | None,
    ) -> SourceConfig:
        """Return the source with these columns."""
        return SourceConfig(
            format=format,
            flavour="img2dataset" if self.img2dataset else flavour,
            image=image,
            caption=caption,
            uid=self.uid,
            references=options.references_col,
            left_out=(),
            carried=self.carried.schema,
            origins=self.carried.origins,
            uid_type=self.uid_type,
            byte_budget=options.byte_budget,
            max_caption_bytes=options.max_caption_bytes,
            max_image_bytes=options.max_image_bytes,
        )


def learn_columns(
    samples: Iterable[Sample],
    place: str,
    format: InputFormat,
    options: ReadOptions,
    described: Mapping[str, pa.DataType] | None = None,
) -> SampleColumns:
    """Return the columns that samples have.

    A field's type is img2dataset's if it writes that field, else what its values show: boolean,
    int64, double or string; fields of mixed kinds, lists and objects are carried as strings of
    JSON.

    Args:
      samples: some of the source's; their images are not looked at.
      place: what to name in errors.
      format: of the source.
      options: the fields that were named.
      described: types of further fields, which files beside the samples have.

    Raises:
      UsageError: a named field does not exist, or a webdataset has no captions.
    """
    kinds: dict[str, pa.DataType] = {_KEY_COLUMNS[format]: pa.string()}
    has_texts = False
    for sample in samples:
        has_texts = has_texts or sample.text is not None
        for name, value in sample.all_fields().items():
            if name != "invalid_json" and (name in kinds or len(kinds) < MAX_COLUMNS):
                merged = unify_types(kinds.get(name, pa.null()), _type_of(value))
                kinds[name] = pa.string() if merged is None else merged
    for name, kind in (described or {}).items():
        if name in kinds or len(kinds) < MAX_COLUMNS:
            merged = unify_types(kinds.get(name, pa.null()), kind)
            kinds[name] = pa.string() if merged is None else merged
    kinds |= {name: kind for name, kind in _KNOWN_TYPES.items() if name in kinds}
    kinds = {name: pa.string() if kind == pa.null() else kind for name, kind in kinds.items()}
    require_column(options.uid_col, kinds, "uid_col", place)
    require_column(options.references_col, kinds, "references_col", place)
    caption = None
    if options.caption_col != NO_CAPTIONS or NO_CAPTIONS in kinds:
        caption_sources = dict.fromkeys([*kinds, *([TEXT_FILE] if has_texts else [])])
        require_column(options.caption_col, caption_sources, "caption_col", place)
        first_field = next((name for name in _CAPTION_FIELDS if name in kinds), None)
        caption = options.caption_col or (TEXT_FILE if has_texts else first_field)
        if caption is None and format is InputFormat.WEBDATASET:
            raise UsageError(
                f"no captions in {place}: no .txt members and no field called caption or text "
                f"among {', '.join(kinds)}; name the field with caption_col, which is "
                f"{NO_CAPTIONS!r} if there are no captions"
            )
    uid = options.uid_col or find_column("uid", kinds)
    uid_type = None
    if uid is not None:
        uid_type = kinds[uid] if kinds[uid] == pa.int64() else pa.string()
    not_carried = {uid, caption, *options.leave_out}
    if caption == TEXT_FILE:
        # JSON repeats the caption of the text file: where it differs it goes to `extra`.
        not_carried |= {name for name in _CAPTION_FIELDS if name != options.references_col}
    named = [(name, name, kind) for name, kind in kinds.items() if name not in not_carried]
    carried = carried_columns(named, reserved=[_EXTRA])
    schema = carried.schema.append(pa.field(_EXTRA, pa.string()))
    return SampleColumns(
        caption=caption,
        uid=uid,
        uid_type=uid_type,
        carried=CarriedColumns(schema, (*carried.origins, _EXTRA), carried.renamed),
        img2dataset=kinds.keys() >= {"url", "status"},
    )


def caption_note(caption: str | None) -> str:
    """Return where captions come from, in words."""
    if caption is None:
        return "no captions"
    return "captions from txt" if caption == TEXT_FILE else f"captions from field {caption}"


def batch_samples(
    samples: Iterable[Sample], source: SourceConfig, start: int
) -> Iterator[RowBatch]:
    """Yield samples as row batches of about `source.byte_budget` bytes.

    Raises:
      ValueError: a uid does not fit the planned type.
    """
    pending: list[Sample] = []
    size = 0
    for sample in samples:
        pending.append(sample)
        size += sum(len(part) for part in (sample.image, sample.text) if part)
        size += _JSON_EXPANSION * len(sample.json or b"")
        size += sum(len(value) for value in sample.fields.values() if type(value) is str)
        size += 1024  # of Python objects; samples without images have a size too
        if size >= source.byte_budget:
            yield _to_batch(pending, source, start)
            start, pending, size = start + len(pending), [], 0
    if pending:
        yield _to_batch(pending, source, start)


def _to_batch(samples: Sequence[Sample], source: SourceConfig, start: int) -> RowBatch:
    planned = frozenset(source.origins[:-1])
    key_column = _KEY_COLUMNS[source.format]
    captions: list[str | None] = []
    failures: dict[int, RowFailure] = {}
    rows: list[dict[str, Any]] = []
    uids: list[Any] = []
    extras: list[str | None] = []
    for position, sample in enumerate(samples):
        fields = sample.all_fields()
        caption, failure = _take_caption(sample, fields, source)
        if sample.image is None:
            failure = _no_image(sample, fields, source)
        if failure is not None:
            failures[position] = failure
        captions.append(caption)
        if source.uid is not None:
            uids.append(fields.pop(source.uid, None))
        name = fields.setdefault(key_column, sample.key)
        if str(name) != sample.key.rpartition("/")[2] and name != sample.key:
            fields["__key__"] = sample.key
        unplanned = {name: fields.pop(name) for name in fields.keys() - planned}
        rows.append(fields)
        extras.append(json.dumps(unplanned, sort_keys=True) if unplanned else None)
    return RowBatch(
        start=start,
        images=[sample.image for sample in samples],
        captions=captions,
        carried=_to_table(rows, extras, source),
        failures=failures,
        uids=None if source.uid is None else _to_uids(uids, source),
    )


def _take_caption(
    sample: Sample, fields: dict[str, Any], source: SourceConfig
) -> tuple[str | None, RowFailure | None]:
    """Return the caption and its failure; takes it out of the fields."""
    if source.caption is None:
        return None, None
    if source.caption != TEXT_FILE:
        value = fields.pop(source.caption, None)
        if sample.text is not None:
            if value is None:
                return _decode_text_file(sample, source)
            text, _ = _decode_text_file(sample, source)
            fields.setdefault(TEXT_FILE, text)
        return _limited(_as_text(value), source)
    if sample.text is None:
        name = next((name for name in _CAPTION_FIELDS if fields.get(name) is not None), None)
        if name is None:
            return None, None
        value = fields[name] if name == source.references else fields.pop(name)
        return _limited(_as_text(value), source)
    caption, failure = _decode_text_file(sample, source)
    for name in _CAPTION_FIELDS:
        value = fields.get(name, "")
        repeats = type(value) is str and value.strip() == caption.strip()
        if (value is None or value == "" or repeats) and name != source.references:
            fields.pop(name, None)
    return caption, failure


def _decode_text_file(sample: Sample, source: SourceConfig) -> tuple[str, RowFailure | None]:
    text = sample.text or b""
    return decode_caption(text, source.max_caption_bytes, max(sample.text_bytes, len(text)))


def _limited(caption: str | None, source: SourceConfig) -> tuple[str | None, RowFailure | None]:
    """Return a caption, cut and with a failure if it is over the limit."""
    # A character takes at most four bytes.
    if caption is None or len(caption) <= source.max_caption_bytes // 4:
        return caption, None
    return decode_caption(caption.encode("utf-8", "replace"), source.max_caption_bytes)


def _no_image(sample: Sample, fields: dict[str, Any], source: SourceConfig) -> RowFailure:
    if sample.image_bytes > source.max_image_bytes:
        return RowFailure(
            RowState.IMAGE_TOO_LARGE,
            f"{sample.image_bytes:,} bytes, the limit is {source.max_image_bytes:,}",
        )
    status, message = fields.get("status"), fields.get("error_message")
    if isinstance(status, str) and status.startswith("failed"):
        message = _as_text(message) if isinstance(message, str) else None
        return missing_image(_as_text(status), message)
    if sample.missing is None and source.format is InputFormat.WEBDATASET:
        expected = "picture" if source.image is None else f".{source.image}"
        members = ", ".join(f".{extension}" for extension in sample.extensions)
        return RowFailure(
            RowState.MISSING_IMAGE, f"sample {sample.key} has no {expected} member, only {members}"
        )
    return RowFailure(RowState.MISSING_IMAGE, sample.missing or "no image bytes in the source")


def _to_uids(uids: Sequence[Any], source: SourceConfig) -> pa.Array:
    try:
        if source.uid_type == pa.string():
            uids = [_as_text(uid) for uid in uids]
        return pa.array(uids, source.uid_type)
    except (pa.ArrowException, OverflowError) as error:
        raise ValueError(
            f"a uid in field {source.uid!r} is not {source.uid_type} as in the first samples "
            f"({error}); name another with uid_col"
        ) from error


def _to_table(
    rows: list[dict[str, Any]], extras: list[str | None], source: SourceConfig
) -> pa.Table:
    kinds = dict(zip(source.origins[:-1], source.carried.types[:-1], strict=True))
    struct = pa.struct(list(kinds.items()))
    try:
        columns = pa.array(rows, struct).flatten()
    except (pa.ArrowException, UnicodeError, OverflowError):
        split = [_split_misfits(row, kinds) for row in rows]
        columns = pa.array([fits for fits, _ in split], struct).flatten()
        extras = [
            json.dumps(json.loads(extra or "{}") | misfits, sort_keys=True) if misfits else extra
            for extra, (_, misfits) in zip(extras, split, strict=True)
        ]
    return pa.Table.from_arrays([*columns, pa.array(extras, pa.string())], schema=source.carried)


def _split_misfits(
    row: dict[str, Any], kinds: dict[str, pa.DataType]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields that fit their columns' types, and those that do not."""
    fits, misfits = {}, {}
    for name, value in row.items():
        if value is None:
            continue
        if kinds[name] == pa.string():
            fits[name] = _as_text(value)
            continue
        try:
            pa.scalar(value, kinds[name])
            fits[name] = value
        except (pa.ArrowException, OverflowError):
            misfits[name] = value
    return fits, misfits


def _type_of(value: Any) -> pa.DataType:
    if value is None:
        return pa.null()
    kinds = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    return kinds.get(type(value), pa.string())


def _as_text(value: Any) -> str | None:
    """Return the value as text without lone surrogates, which JSON can hold and UTF-8 cannot."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
