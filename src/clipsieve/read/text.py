"""Strings that claim to be UTF-8: captions with failures, other columns repaired."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from clipsieve.read.unify import plain_type
from clipsieve.schemas.states import RowFailure, RowState


def decode_caption(raw: bytes) -> tuple[str, RowFailure | None]:
    """Return the caption in `raw`; what is not UTF-8 becomes U+FFFD and gives a failure."""
    try:
        return raw.decode("utf-8"), None
    except UnicodeDecodeError as error:
        reason = f"caption is not UTF-8: byte 0x{raw[error.start]:02x} at {error.start}"
        return raw.decode("utf-8", "replace"), RowFailure(RowState.INVALID_CAPTION, reason)


def captions_of(column: pa.Array) -> tuple[Sequence[str | None], dict[int, RowFailure]]:
    """Return the captions of N rows, and the failures of those that are not UTF-8 by position.

    Args:
      column: (N,) strings or bytes in any encoding, or lists of them: the first one is the
        caption.  NULL, an empty list and a list that begins with NULL give None.
    """
    kind = plain_type(column.type)
    column = flat(column, kind)
    if types.is_null(kind):
        return [None] * len(column), {}
    if _is_text(kind):
        if types.is_string(kind) and is_valid_utf8(column):
            return column.to_pylist(), {}
        raws = column.cast(pa.binary()).to_pylist()
    else:
        lists = column.cast(pa.list_(pa.binary())).to_pylist()
        raws = [row[0] if row else None for row in lists]
    captions: list[str | None] = []
    failures = {}
    for position, raw in enumerate(raws):
        caption, failure = (None, None) if raw is None else decode_caption(raw)
        captions.append(caption)
        if failure is not None:
            failures[position] = failure
    return captions, failures


def references_of(column: pa.Array) -> list[list[str]]:
    """Return the reference captions of N rows; NULL rows have none, NULL entries are skipped.

    Args:
      column: (N,) lists of strings or bytes, or strings: one reference each.
    """
    kind = plain_type(column.type)
    column = flat(column, kind)
    if types.is_null(kind):
        return [[] for _ in range(len(column))]
    if _is_text(kind):
        raws = column.cast(pa.binary()).to_pylist()
        return [[] if raw is None else [raw.decode("utf-8", "replace")] for raw in raws]
    rows = column.cast(pa.list_(pa.binary())).to_pylist()
    return [
        [raw.decode("utf-8", "replace") for raw in row or () if raw is not None] for row in rows
    ]


def is_caption_type(kind: pa.DataType) -> bool:
    """Return whether `captions_of` and `references_of` take a column of this type."""
    kind = plain_type(kind)
    if types.is_list(kind) or types.is_fixed_size_list(kind):
        kind = kind.value_type
    return bool(_is_text(kind) or types.is_null(kind))


def flat(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return the column as its plain type, `plain_type(column.type)`; invalid bytes survive."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column if column.type.equals(kind) else column.cast(kind)


def is_valid_utf8(column: pa.Array) -> bool:
    """Return whether every string in the column, at any depth, is UTF-8."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def repaired(column: pa.Array) -> pa.Array:
    """Return the column with every byte that is not UTF-8 replaced by U+FFFD.

    DuckDB refuses a whole file for one invalid string, so nothing we carry may hold one.
    Strings, and strings inside lists and structs, are repaired; a valid column is returned as is.
    """
    if is_valid_utf8(column):
        return column
    kind = column.type
    if types.is_string(kind):
        raws = column.cast(pa.binary()).to_pylist()
        texts = [None if raw is None else raw.decode("utf-8", "replace") for raw in raws]
        return pa.array(texts, kind)
    if types.is_list(kind):
        values = repaired(column.flatten())
        lengths = pc.fill_null(pc.list_value_length(column), 0)
        ends = pc.cumulative_sum(lengths).cast(pa.int32())
        offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
        return pa.ListArray.from_arrays(offsets, values, type=kind, mask=column.is_null())
    if types.is_struct(kind):
        children = [repaired(child) for child in column.flatten()]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=column.is_null())
    return column


def _is_text(kind: pa.DataType) -> bool:
    return bool(types.is_string(kind) or types.is_binary(kind) or types.is_fixed_size_binary(kind))
