"""Rows made of an image, a caption file and JSON fields: what tars and folders have in common."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from clipsieve.read.batch import RowBatch
from clipsieve.read.items import InputFormat
from clipsieve.read.parquet_rows import missing_image
from clipsieve.read.source import SourceConfig
from clipsieve.read.text import decode_caption
from clipsieve.schemas.states import RowFailure, RowState

#: Name of the caption file or member, where a column name is expected.
TEXT_FILE = "txt"

#: Carried column of the fields that were not foreseen, as one JSON object; NULL if none.
EXTRA = "extra"

#: Column of a sample's own name.
KEY_COLUMNS = {InputFormat.WEBDATASET: "key", InputFormat.FOLDER: "file_name"}

#: Fields that captions are taken from where there is no text file, best first.
CAPTION_FIELDS = ("caption", "text")


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
        name = next((name for name in CAPTION_FIELDS if fields.get(name) is not None), None)
        return (None if name is None else _as_text(fields.pop(name))), None
    caption, failure = decode_caption(sample.text)
    for name in CAPTION_FIELDS:
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


def _as_text(value: Any) -> str | None:
    if value is None:
        return None
    return _utf8(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _utf8(text: str) -> str:
    """Return the text without lone surrogates, which JSON can hold and UTF-8 cannot."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
