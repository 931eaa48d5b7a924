"""One type for each column of a source, whatever its shards were written with."""

from collections.abc import Iterable, Sequence

import pyarrow as pa
from pyarrow import types

from clipsieve.errors import UsageError

_FINER = {"s": 0, "ms": 1, "us": 2, "ns": 3}


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type without its encoding: dictionaries, large and view forms, extensions.

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
    if types.is_fixed_size_list(kind):
        return pa.list_(_plain_child(kind), kind.list_size)
    if _is_list(kind):
        return pa.list_(_plain_child(kind))
    if types.is_struct(kind):
        return pa.struct([(child.name, plain_type(child.type)) for child in kind])
    return kind


def unify_types(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    """Return the narrowest plain type that holds both, or None if nothing sensible does.

    Equal types stay.  null gives way to any type; integers become int64; an integer and a float,
    or two floats, become double; timestamps and times take the finer unit; lists and structs are
    unified inside.  Strings, numbers, booleans and bytes never mix.

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
        unit = max(a.unit, b.unit, key=_FINER.__getitem__)
        return pa.timestamp(unit, a.tz) if a.tz == b.tz else None
    if all(types.is_binary(kind) or types.is_fixed_size_binary(kind) for kind in (a, b)):
        return pa.binary()
    if all(_is_list(kind) or types.is_fixed_size_list(kind) for kind in (a, b)):
        inner = unify_types(a.value_type, b.value_type)
        return None if inner is None else pa.list_(pa.field("element", inner))
    if types.is_struct(a) and types.is_struct(b):
        return _unify_structs(a, b)
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
    owners: dict[str, tuple[str, pa.DataType]] = {}
    for uri, columns in shards:
        for name, kind in columns:
            known = unified.get(name)
            if known is None:
                unified[name], owners[name] = plain_type(kind), (uri, kind)
                continue
            merged = unify_types(known, kind)
            if merged is None:
                other, other_kind = owners[name]
                raise UsageError(
                    f"column {name!r} is {other_kind} in {other} but {kind} in {uri}; make them "
                    "one type, or plan the shards apart"
                )
            if types.is_null(known):
                owners[name] = (uri, kind)
            unified[name] = merged
    return {name: _no_nulls(kind) for name, kind in unified.items()}


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def _plain_child(kind: pa.DataType) -> pa.Field:
    return pa.field("element", plain_type(kind.value_type))


def _unify_structs(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    children = {child.name: child.type for child in a}
    for child in b:
        known = children.get(child.name, pa.null())
        merged = unify_types(known, child.type)
        if merged is None:
            return None
        children[child.name] = merged
    return pa.struct(list(children.items()))


def _no_nulls(kind: pa.DataType) -> pa.DataType:
    """Return the type with null, at any depth, replaced by string: DuckDB has no null type."""
    if types.is_null(kind):
        return pa.string()
    if types.is_list(kind):
        return pa.list_(pa.field("element", _no_nulls(kind.value_type)))
    if types.is_struct(kind):
        return pa.struct([(child.name, _no_nulls(child.type)) for child in kind])
    return kind
