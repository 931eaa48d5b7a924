"""Arrow types and text: one type for each column over all shards, captions, invalid UTF-8."""

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from clipsieve.errors import UsageError
from clipsieve.schemas.states import RowFailure, RowState

#: Bytes of a caption over the limit that are kept, for people to see what it was.
KEPT_BYTES = 1000

_UNITS = {"s": 0, "ms": 1, "us": 2, "ns": 3}


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type without its encoding: dictionaries, large and view forms, extensions.

    Lists of one length become lists: Arrow cannot read a NULL among them back from Parquet.

    >>> plain_type(pa.dictionary(pa.int8(), pa.large_string()))
    DataType(string)
    """
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    if _is_list(kind) or types.is_fixed_size_list(kind):
        return _list_of(plain_type(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([(child.name, plain_type(child.type)) for child in kind])
    return kind


def unify_types(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    """Return the narrowest plain type that holds both, or None if nothing sensible does.

    Equal types stay.  null gives way to any type; integers become int64; an integer and a float,
    or two floats, become double; timestamps and times take the finer unit; lists and structs are
    unified inside.  Strings, numbers, booleans and bytes never mix.

    `pa.unify_schemas` (permissive, 25.0) is not used: it merges strings into bytes, uint64 into
    int64, int8 and int16 into int16, and refuses a dictionary beside its own value type.

    >>> unify_types(pa.int32(), pa.float32()), unify_types(pa.string(), pa.int64())
    (DataType(double), None)
    """
    a, b = plain_type(first), plain_type(second)
    if a.equals(b) or types.is_null(b):
        return a
    if types.is_null(a):
        return b
    if types.is_integer(a) and types.is_integer(b):
        return None if pa.uint64() in (a, b) else pa.int64()
    if all(types.is_integer(kind) or types.is_floating(kind) for kind in (a, b)):
        return pa.float64()
    if types.is_timestamp(a) and types.is_timestamp(b):
        unit = max(a.unit, b.unit, key=_UNITS.__getitem__)
        return pa.timestamp(unit, a.tz) if a.tz == b.tz else None
    if all(types.is_binary(kind) or types.is_fixed_size_binary(kind) for kind in (a, b)):
        return pa.binary()
    if types.is_list(a) and types.is_list(b):
        element = unify_types(a.value_type, b.value_type)
        return None if element is None else _list_of(element)
    if types.is_struct(a) and types.is_struct(b):
        children = {child.name: child.type for child in a}
        for child in b:
            merged = unify_types(children.get(child.name, pa.null()), child.type)
            if merged is None:
                return None
            children[child.name] = merged
        return pa.struct(list(children.items()))
    return None


def unify_columns(
    shards: Iterable[tuple[str, Sequence[tuple[str, pa.DataType]]]],
) -> dict[str, pa.DataType]:
    """Return column -> type over all shards, in order of first appearance.

    Columns that are null in every shard become strings.

    Args:
      shards: uri and (column, type) pairs of each shard; give each distinct schema once.

    Raises:
      UsageError: two shards have types for one column that nothing sensible holds.
    """
    unified: dict[str, pa.DataType] = {}
    first_seen: dict[str, tuple[str, pa.DataType]] = {}
    for uri, columns in shards:
        for name, kind in columns:
            known = unified.get(name, pa.null())
            if types.is_null(known):
                first_seen[name] = (uri, kind)
            merged = unify_types(known, kind)
            if merged is None:
                other, other_kind = first_seen[name]
                raise UsageError(
                    f"column {name!r} is {other_kind} in {other} but {kind} in {uri}; make them "
                    "one type, or plan the shards apart"
                )
            unified[name] = merged
    return {name: _null_to_string(kind) for name, kind in unified.items()}


def has_fixed_lists(kind: pa.DataType) -> bool:
    """Return whether lists of one length are in a type, at any depth."""
    if isinstance(kind, pa.BaseExtensionType):
        return has_fixed_lists(kind.storage_type)
    if types.is_fixed_size_list(kind):
        return True
    return any(has_fixed_lists(kind.field(index).type) for index in range(kind.num_fields))


def is_text(kind: pa.DataType) -> bool:
    """Return whether captions can be read from a type: text or bytes, or lists of them."""
    kind = plain_type(kind)
    if types.is_list(kind):
        kind = kind.value_type
    return bool(_is_string_like(kind) or types.is_null(kind))


def to_plain(column: pa.Array) -> pa.Array:
    """Return the column in its plain type, `plain_type(column.type)`; invalid bytes survive."""
    kind = plain_type(column.type)
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column if column.type.equals(kind) else column.cast(kind)


def shared_values(column: pa.Array) -> list[Any]:
    """Return the values of a column in plain Python types; equal dictionary entries are one object.

    >>> first, second = shared_values(pa.array(["long text"] * 2).dictionary_encode())
    >>> first is second
    True
    """
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if not types.is_dictionary(column.type):
        values: list[Any] = to_plain(column).to_pylist()
        return values
    indices = column.indices.to_pylist()
    used = sorted({index for index in indices if index is not None})
    entries = to_plain(column.dictionary.take(pa.array(used, pa.int64()))).to_pylist()
    by_index = dict(zip(used, entries, strict=True))
    return [None if index is None else by_index[index] for index in indices]


def decoded_bytes(column: pa.Array) -> int:
    """Return the bytes of a column without dictionaries; large values are counted, not copied."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if not column.type.num_fields and not types.is_dictionary(column.type):
        return int(column.nbytes)
    if types.is_dictionary(column.type):
        if not _is_variable(column.dictionary.type):
            return len(column) * 16
        lengths = pc.binary_length(column.dictionary).cast(pa.int64())
        return int(pc.sum(lengths.take(column.indices)).as_py() or 0)
    if types.is_struct(column.type):
        return sum(decoded_bytes(child) for child in column.flatten())
    if types.is_list(column.type) or types.is_large_list(column.type):
        return decoded_bytes(column.flatten())
    return int(column.nbytes)


def decode_caption(
    raw: bytes, max_bytes: int, whole_bytes: int | None = None
) -> tuple[str, RowFailure | None]:
    """Return the caption in `raw`; what is not UTF-8 becomes U+FFFD and gives a failure.

    Of a caption over `max_bytes` its first `KEPT_BYTES` are returned, and a failure.

    Args:
      raw: the caption in UTF-8, or its beginning.
      max_bytes: the limit.
      whole_bytes: bytes of the whole caption; None is those of `raw`.
    """
    size = len(raw) if whole_bytes is None else whole_bytes
    if size > max_bytes:
        kept = min(KEPT_BYTES, max_bytes)
        text = raw[:kept].decode("utf-8", "replace").rstrip("\ufffd")
        return text, RowFailure(
            RowState.CAPTION_TOO_LONG,
            f"caption of {size:,} bytes, the limit is {max_bytes:,}; its first {kept:,} bytes "
            "are kept",
        )
    try:
        return raw.decode("utf-8"), None
    except UnicodeDecodeError as error:
        reason = f"caption is not UTF-8: byte 0x{raw[error.start]:02x} at {error.start}"
        return raw.decode("utf-8", "replace"), RowFailure(RowState.INVALID_CAPTION, reason)


def decode_captions(
    column: pa.Array, max_bytes: int
) -> tuple[Sequence[str | None], dict[int, RowFailure]]:
    """Return the captions of N rows, and the failures of those that cannot be used by position.

    Args:
      column: (N,) strings or bytes in any encoding, or lists of them: the first one is the
        caption.  NULL, an empty list and a list that begins with NULL give None.
      max_bytes: of a caption.
    """
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if types.is_nested(column.type):
        column = _first_elements(column)
    if types.is_null(column.type):
        return [None] * len(column), {}
    if not types.is_dictionary(column.type):
        column = to_plain(column)
        if types.is_string(column.type) and is_valid_utf8(column):
            if (
                column.nbytes <= max_bytes
                or (pc.max(pc.binary_length(column)).as_py() or 0) <= max_bytes
            ):
                return column.to_pylist(), {}
        raws = column.cast(pa.binary()).to_pylist()
    else:
        kind = pa.dictionary(column.type.index_type, pa.binary())
        raws = shared_values(column.cast(kind) if column.type != kind else column)
    decoded: dict[bytes | None, tuple[str | None, RowFailure | None]] = {None: (None, None)}
    for raw in raws:
        if raw is not None and raw not in decoded:
            decoded[raw] = decode_caption(raw, max_bytes)
    failures = {row: why for row, raw in enumerate(raws) if (why := decoded[raw][1]) is not None}
    return [decoded[raw][0] for raw in raws], failures


def _first_elements(column: pa.Array) -> pa.Array:
    """Return the first element of each list; NULL for NULL and empty lists."""
    if not (types.is_list(column.type) or types.is_large_list(column.type)):
        column = to_plain(column)
    offsets = column.offsets.to_pylist()
    filled = column.is_valid().to_pylist()
    bounds = zip(filled, offsets[:-1], offsets[1:], strict=True)
    firsts = [first if full and first < end else None for full, first, end in bounds]
    return column.values.take(pa.array(firsts, pa.int64()))


def is_valid_utf8(column: pa.Array) -> bool:
    """Return whether every string in the column, at any depth, is UTF-8."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def replace_invalid_utf8(column: pa.Array) -> pa.Array:
    """Return the column with every byte that is not UTF-8 replaced by U+FFFD.

    DuckDB refuses a whole file for one invalid string, so no carried column may hold one.
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
        values = replace_invalid_utf8(column.flatten())
        lengths = pc.fill_null(pc.list_value_length(column), 0)
        ends = pc.cumulative_sum(lengths).cast(pa.int32())
        offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
        return pa.ListArray.from_arrays(offsets, values, type=kind, mask=column.is_null())
    if types.is_struct(kind):
        children = [replace_invalid_utf8(child) for child in column.flatten()]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=column.is_null())
    return column


def _is_string_like(kind: pa.DataType) -> bool:
    return bool(types.is_string(kind) or types.is_binary(kind) or types.is_fixed_size_binary(kind))


def _is_variable(kind: pa.DataType) -> bool:
    return bool(
        types.is_string(kind)
        or types.is_binary(kind)
        or types.is_large_string(kind)
        or types.is_large_binary(kind)
    )


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def _list_of(kind: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("element", kind))


def _null_to_string(kind: pa.DataType) -> pa.DataType:
    """Return the type with null, at any depth, replaced by string: DuckDB has no null type."""
    if types.is_null(kind):
        return pa.string()
    if types.is_list(kind):
        return _list_of(_null_to_string(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([(child.name, _null_to_string(child.type)) for child in kind])
    return kind
