"""What an audit reads of an output folder: captions, addresses, scores and vectors, by shard."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipsieve.audit.data import ShardColumns
from clipsieve.errors import LedgerError
from clipsieve.schemas import footers
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import EmbeddingsEntry
from clipsieve.threads import read_ahead

T = TypeVar("T")

#: Shards that are read at once from an object store.
_AHEAD = 8


@dataclass(frozen=True, slots=True)
class AuditedShards:
    """The shards of an output folder, with scores and one set of embeddings.

    Attributes:
      folder: the output folder.
      embeddings: which embeddings.
      families: folder of the tables of each score family that is read, by column; columns that
        are not among them are those of the ledger.
    """

    folder: OutputFolder
    embeddings: EmbeddingsEntry
    families: Mapping[str, str]

    def shards(self) -> list[str]:
        """Shards of the ledger, in name order.

        Raises:
          LedgerError: if scores or embeddings of one are missing, or out of line with its ledger.
        """
        shards = self.folder.shards()
        ledgers = self.folder.read_footers(map(names.samples, shards))
        tables_of = [self._embeddings, *map(_tables_in, sorted(set(self.families.values())))]
        for name_of in tables_of:
            tables = [name_of(shard) for shard in shards]
            written = self.folder.read_footers(tables)
            for shard, ledger, table, footer in zip(shards, ledgers, tables, written, strict=True):
                place = self.folder.files.url(table)
                if not footer:
                    raise LedgerError(
                        f"{place} is missing or damaged; run `clipsieve run` or "
                        "`clipsieve score` again"
                    )
                if footer.get(footers.UID_HASH) != ledger.get(footers.UID_HASH):
                    raise LedgerError(
                        f"{place} has other uids than "
                        f"{self.folder.files.url(names.samples(shard))}; delete both files and "
                        "run `clipsieve run` again"
                    )
        return shards

    def each(self, read: Callable[[str], T], names: Sequence[str]) -> Iterator[T]:
        """Yield `read` of each shard, in order; in an object store some are read ahead."""
        return read_ahead(read, names, _AHEAD if self.folder.files.is_remote else 0)

    def columns(self, name: str, values: Sequence[str]) -> ShardColumns:
        """Read the narrow columns of a shard.

        Raises:
          LedgerError: if one of `values` is not there.
        """
        by_table: dict[str, list[str]] = {}
        for column in values:
            folder = self.families.get(column)
            table = names.samples(name) if folder is None else f"{folder}/{name}.parquet"
            by_table.setdefault(table, []).append(column)
        ledger = names.samples(name)
        narrow = ["caption", "url", "image_sha256", "image_phash", *by_table.pop(ledger, [])]
        tables = {ledger: self.folder.read_table(ledger, narrow)}
        tables |= {table: self.folder.read_table(table, own) for table, own in by_table.items()}
        rows = tables[ledger]
        found = {column: self._numbers(tables, column, name) for column in values}
        hashes = _column(rows, "image_phash", pa.uint64())
        return ShardColumns(
            captions=_column(rows, "caption", pa.string()).to_pylist(),
            urls=_column(rows, "url", pa.string()).to_pylist(),
            image_bytes=_digest_keys(_column(rows, "image_sha256", pa.string())),
            image_hashes=np.asarray(pc.fill_null(hashes, 0).to_numpy(zero_copy_only=False)),
            has_hash=np.asarray(hashes.is_valid()),
            values=found,
        )

    def _numbers(self, tables: Mapping[str, pa.Table], column: str, shard: str) -> np.ndarray:
        """(N,) float32 of one column; NaN where NULL, the furthest finite value for an infinite."""
        folder = self.families.get(column)
        name = names.samples(shard) if folder is None else f"{folder}/{shard}.parquet"
        if column not in tables[name].column_names:
            raise LedgerError(
                f"{self.folder.files.url(name)} has no column {column!r}; run `clipsieve score` "
                "with the scorers that add it"
            )
        values = pc.cast(tables[name][column].combine_chunks(), pa.float32(), safe=False)
        numbers = np.array(pc.fill_null(values, pa.scalar(math.nan, pa.float32())))
        most = np.finfo(np.float32).max
        return np.asarray(np.clip(numbers, -most, most))

    def identities(self, name: str, rows: np.ndarray) -> pa.Table:
        """`uid`, `caption`, `url` and `image_sha256` of some rows; NULL where there is no such."""
        table = self.folder.read_table(
            names.samples(name), ["uid", "caption", "url", "image_sha256"]
        ).take(pa.array(rows))
        texts = {
            column: _column(table, column, pa.string())
            for column in ("caption", "url", "image_sha256")
        }
        return pa.table({"uid": table["uid"], **texts})

    def vectors(self, name: str, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(N, D) float32 image vectors of unit norm, and (N,) bool: which rows have one.

        Args:
          name: of the shard.
          rows: (N,) numbers of rows, rising; None is all of them.
        """
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        with self.folder.open_table(self._embeddings(name)) as file:
            start = 0
            for group in range(file.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                inside = None if rows is None else rows[(rows >= start) & (rows < end)] - start
                if inside is None or len(inside):
                    column = file.read_row_group(group, columns=["image_embedding"]).column(0)
                    if inside is not None:
                        column = column.take(pa.array(inside))
                    parts.append(_unit(column))
                start = end
        if not parts:
            return np.zeros((0, 1), np.float32), np.zeros(0, bool)
        width = max(unit.shape[1] for unit, _ in parts)
        units = [
            unit if unit.shape[1] == width else np.zeros((len(unit), width), np.float32)
            for unit, _ in parts
        ]
        return np.concatenate(units), np.concatenate([valid for _, valid in parts])

    def _embeddings(self, shard: str) -> str:
        return names.embeddings(self.embeddings.model, self.embeddings.revision, shard)


def _tables_in(folder: str) -> Callable[[str], str]:
    return lambda shard: f"{folder}/{shard}.parquet"


def _column(table: pa.Table, name: str, type: pa.DataType) -> pa.ChunkedArray:
    """A column of a table in a type; NULL in every row where there is none."""
    if name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, type)])
    return table[name].cast(type)


def _digest_keys(digests: pa.ChunkedArray) -> np.ndarray:
    """(N,) uint64: the first 64 bits of digests in hexadecimal digits; 0 where NULL."""
    keys = np.zeros(len(digests), np.uint64)
    valid = np.asarray(digests.is_valid())
    present = digests.drop_null()
    raw = bytes.fromhex("".join(text[:16] for text in present.to_pylist()))
    keys[valid] = np.frombuffer(raw, ">u8")
    return keys


def _unit(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) float32 rows of unit norm from N lists of float16, zero where NULL; (N,) bool."""
    lists = column.combine_chunks()
    valid = np.asarray(lists.is_valid())
    wide = lists.drop_null().flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    rows = int(valid.sum())
    if not rows:
        return np.zeros((len(lists), 1), np.float32), valid
    wide = wide.reshape(rows, -1)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    unit = np.zeros((len(lists), wide.shape[1]), np.float32)
    unit[valid] = np.divide(wide, norms, out=wide, where=norms > 0)
    return unit, np.asarray(unit.any(axis=1))  # a vector of zeros is near nothing
