"""The Parquet file that img2dataset writes beside a tar: a row for each input row, failed ones too.

A tar has its successes alone.  Joined with the sidecar by key, its rows are those of the sidecar in
their order; behind them come the samples of the tar that no row of the sidecar claims.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from pyarrow import types

from clipsieve.formats.arrow_types import (
    decoded_bytes,
    plain_type,
    replace_invalid_utf8,
    to_plain,
    unify_types,
)
from clipsieve.formats.base import InputFormat, Shard, SourceFingerprint, WorkItem
from clipsieve.formats.columns import MAX_COLUMNS, unique_labels
from clipsieve.formats.held_samples import HeldSamples
from clipsieve.formats.inputs import THREADS, file_fingerprint, is_present
from clipsieve.formats.names import plural
from clipsieve.formats.parquet_rows import MAX_STEP_BYTES, open_parquet, read_records
from clipsieve.formats.samples import PICTURES, Sample

#: Columns that a sidecar has.
_REQUIRED = frozenset({"key", "status"})
_SUFFIX = ".parquet"
_NO_SUCH_MEMBER = "the sidecar has it as a success, but the tar has no sample of this key"

Columns = Mapping[str, pa.DataType]
Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SidecarScan:
    """Tars and what lies beside them.

    Attributes:
      shards: as they were given; with a problem where the sidecar cannot be read.
      sidecars: address by that of the tar, of tars that have one.
      columns: of all sidecars.
      note: what was found, in words; may be empty.
    """

    shards: tuple[Shard, ...]
    sidecars: Mapping[str, str]
    columns: Columns
    note: str


def sidecar_uri(uri: str, suffixes: Sequence[str]) -> str | None:
    """Return the address that the sidecar of a tar would have; None if it has no tar's name.

    >>> sidecar_uri("/a/00000.tar", (".tar", ".tar.gz")), sidecar_uri("/a/b", (".tar",))
    ('/a/00000.parquet', None)
    """
    path, query, rest = uri.partition("?")
    ends = [suffix for suffix in suffixes if path.lower().endswith(suffix)]
    if not ends:
        return None
    return path[: -len(max(ends, key=len))] + _SUFFIX + query + rest


def find_sidecars(shards: Sequence[Shard], suffixes: Sequence[str]) -> SidecarScan:
    """Look for the sidecar of each tar and read its footer.

    What is no Parquet file with columns `key` and `status`, or has pictures in it, is no sidecar.
    A damaged file in its place makes the shard one with a problem: its failed rows are unknown.

    Args:
      shards: tars.
      suffixes: ends of their names.
    """

    def scan(shard: Shard) -> tuple[Shard, str | None, Columns | None]:
        uri = sidecar_uri(shard.uri, suffixes)
        if shard.problem is not None or uri is None:
            return shard, None, None
        try:
            if not is_present(uri):
                return shard, None, None
            columns = _read_columns(uri)
            if not _is_sidecar(columns):
                return shard, None, columns
            fingerprint = joined_fingerprint(shard.fingerprint, file_fingerprint(uri))
            return replace(shard, fingerprint=fingerprint), uri, columns
        except Exception as error:  # one damaged file must not stop the plan
            reason = " ".join(str(error).split())
            problem = f"its sidecar {uri} cannot be read: {reason}"
            return replace(shard, problem=problem), None, None

    with ThreadPoolExecutor(THREADS) as pool:
        scanned = list(pool.map(scan, shards))
    sidecars = {shard.uri: uri for shard, uri, _ in scanned if uri is not None}
    others = sum(uri is None and columns is not None for _, uri, columns in scanned)
    notes = []
    if sidecars:
        notes.append(f"{plural(len(sidecars), 'Parquet file')} beside the tars taken as sidecars")
    if others:
        notes.append(
            f"{plural(others, 'Parquet file')} beside the tars not read: they have pictures, or no "
            "columns key and status"
        )
    kinds = (columns for _, uri, columns in scanned if uri is not None and columns is not None)
    return SidecarScan(
        tuple(shard for shard, _, _ in scanned), sidecars, _unified(kinds), "; ".join(notes)
    )


def joined_fingerprint(tar: SourceFingerprint, sidecar: SourceFingerprint) -> SourceFingerprint:
    """Return the fingerprint of a tar and its sidecar together."""
    known = min(tar.size, sidecar.size) >= 0
    return SourceFingerprint(
        size=tar.size + sidecar.size if known else -1,
        version=f"{tar.version} sidecar {sidecar.size} {sidecar.version}",
        rows=tar.rows,
    )


def sidecar_rows(
    item: WorkItem, byte_budget: int, only: Sequence[str] | None = None
) -> Iterator[Fields]:
    """Yield the fields of each row of an item's sidecar in order, without NULLs.

    Args:
      item: with a sidecar.
      byte_budget: of a batch; one is in memory, and less.
      only: columns to read; None is all.

    Raises:
      ValueError: the sidecar cannot be read, with its address; or a column is too large.
    """
    uri = str(item.sidecar)
    try:
        table = replace(item, uri=uri, format=InputFormat.PARQUET)
        for records in read_records(table, byte_budget, only=only):
            labels = unique_labels(records.schema.names)
            columns = [_to_values(column) for column in records.columns]
            for row in zip(*columns, strict=True):
                named = zip(labels, row, strict=True)
                yield {label: value for label, value in named if value is not None}
    except Exception as error:
        raise ValueError(f"its sidecar {uri}: {' '.join(str(error).split())}") from error


def join_sidecar(
    rows: Iterable[Fields], samples: Iterator[Sample], byte_budget: int
) -> Iterator[Sample]:
    """Yield a sample for each row of a sidecar in order, then those of the tar that are left.

    A row whose status does not begin with "failed" is joined with the first sample of its key that
    is left; without one it has no picture, and the sample says why.  Failed rows have no picture.
    Samples that come before their row are held.

    Args:
      rows: of the sidecar.
      samples: of the tar, in its order; read once.
      byte_budget: bytes of held samples in memory.

    Raises:
      ValueError: no row that should have a sample has one, and all samples are left: it is
        another tar's.
      StorageError: samples are to be held in a temporary file, and it cannot be written.
    """
    joined, missing = 0, 0
    with HeldSamples(byte_budget) as held:
        for fields in rows:
            key = str(fields.get("key", ""))
            if str(fields.get("status", "")).startswith("failed"):
                yield Sample(key, fields=fields)
                continue
            sample = held.take(key) or _advance(samples, key, held)
            if sample is None:
                missing += 1
                yield Sample(key, fields=fields, missing=_NO_SUCH_MEMBER)
            else:
                joined += 1
                yield replace(sample, fields=fields)
        if missing and not joined and len(held):  # the tar was read to its end
            raise ValueError(
                f"none of the {missing:,} successful rows of its sidecar is in the tar: it is "
                "another tar's; put the right one in its place, or move it away"
            )
        yield from held.drain()
        yield from samples


def _advance(samples: Iterator[Sample], key: str, held: HeldSamples) -> Sample | None:
    """Return the next sample of a key and hold those before it; None if the tar has no other."""
    for sample in samples:
        own = sample.key.rpartition("/")[2]
        if own == key:
            return sample
        held.put(own, sample)
    return None


def _read_columns(uri: str) -> Columns:
    with open_parquet(uri) as file:
        schema = file.schema_arrow
        if file.metadata.num_columns > MAX_COLUMNS:
            raise ValueError(f"{file.metadata.num_columns:,} columns, the limit is {MAX_COLUMNS:,}")
        return dict(zip(unique_labels(schema.names), schema.types, strict=True))


def _is_sidecar(columns: Columns) -> bool:
    binary = {name.lower() for name, kind in columns.items() if types.is_binary(plain_type(kind))}
    return columns.keys() >= _REQUIRED and binary.isdisjoint(PICTURES)


def _unified(tables: Iterable[Columns]) -> Columns:
    """Return column -> type over all sidecars; a column of mixed types is text."""
    unified: dict[str, pa.DataType] = {}
    for columns in {tuple(columns.items()): None for columns in tables}:
        for name, kind in columns:
            merged = unify_types(unified.get(name, pa.null()), _carried_type(kind))
            unified[name] = pa.string() if merged is None else merged
    return unified


def _carried_type(kind: pa.DataType) -> pa.DataType:
    """Return the type in which a column is carried, as fields of JSON would be."""
    kind = plain_type(kind)
    if types.is_boolean(kind) or types.is_null(kind):
        return kind
    if types.is_integer(kind):
        return pa.int64()
    return pa.float64() if types.is_floating(kind) else pa.string()


def _to_values(column: pa.Array) -> list[Any]:
    """Return a column's values as JSON has them; what it does not have as text."""
    if (size := decoded_bytes(column)) > MAX_STEP_BYTES:
        raise ValueError(f"a column unfolds to {size:,} bytes in {len(column):,} rows")
    plain = replace_invalid_utf8(to_plain(column))
    values: list[Any] = plain.to_pylist()
    if types.is_floating(plain.type):  # pandas writes NaN where it has no value
        return [None if value is None or math.isnan(value) else value for value in values]
    if _carried_type(plain.type) != pa.string() or types.is_string(plain.type):
        return values
    return [None if value is None else _to_text(value) for value in values]


def _to_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
