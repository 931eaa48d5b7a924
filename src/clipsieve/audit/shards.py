"""What an audit reads of an output folder: scores, captions, addresses and vectors, by shard."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa

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
    """The shards of an output folder, with one score family and one set of embeddings.

    Attributes:
      folder: the output folder.
      embeddings: which embeddings.
      family: score family.
      revision: its revision.
      column: its column by which rows are suspicious; higher is more so.
    """

    folder: OutputFolder
    embeddings: EmbeddingsEntry
    family: str
    revision: str
    column: str

    def shards(self) -> list[str]:
        """Shards of the ledger, in name order.

        Raises:
          LedgerError: if scores or embeddings of one are missing, or out of line with its ledger.
        """
        shards = self.folder.shards()
        ledgers = self.folder.read_footers(map(names.samples, shards))
        for name_of in (self._scores, self._embeddings):
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

    def scores(self, name: str) -> np.ndarray:
        """(N,) float32 scores of a shard's rows; NaN where NULL.

        Raises:
          LedgerError: if the family has no such column.
        """
        table = self.folder.read_table(self._scores(name), [self.column])
        if not table.num_columns:
            raise LedgerError(
                f"{self.folder.files.url(self._scores(name))} has no column {self.column!r}; run "
                "`clipsieve score` with the scorers that add it"
            )
        return np.asarray(table[self.column].to_numpy(), np.float32)

    def captions(self, name: str) -> list[str | None]:
        """Captions of a shard's rows, as read."""
        table = self.folder.read_table(names.samples(name), ["caption"])
        captions: list[str | None] = table["caption"].to_pylist()
        return captions

    def identities(self, name: str, rows: np.ndarray) -> pa.Table:
        """`uid`, `caption` and `url` of some rows; `url` is NULL where the source has none."""
        table = self.folder.read_table(names.samples(name), ["uid", "caption", "url"])
        table = table.take(pa.array(rows))
        if "url" not in table.column_names:
            table = table.append_column("url", pa.nulls(len(rows), pa.string()))
        return table.set_column(2, "url", table["url"].cast(pa.string()))

    def images(self, name: str, rows: np.ndarray) -> np.ndarray:
        """(M, D) float32 image vectors of some rows (ascending), of unit norm within rounding.

        Raises:
          LedgerError: if one of them has a score but no vector.
        """
        table = self._embeddings(name)
        parts: list[np.ndarray] = []
        with self.folder.open_table(table) as file:
            start = 0
            for group in range(file.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                inside = rows[(rows >= start) & (rows < end)] - start
                if len(inside):
                    column = file.read_row_group(group, columns=["image_embedding"]).column(0)
                    parts.append(_unit(column.take(pa.array(inside)), self.folder.files.url(table)))
                start = end
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)

    def _scores(self, shard: str) -> str:
        return names.scores(self.family, self.revision, shard)

    def _embeddings(self, shard: str) -> str:
        return names.embeddings(self.embeddings.model, self.embeddings.revision, shard)


def _unit(column: pa.ChunkedArray, place: str) -> np.ndarray:
    """(M, D) float32 rows of unit norm from M lists of float16."""
    if column.null_count:
        raise LedgerError(
            f"{place} lacks vectors of {column.null_count} rows that have a score; "
            "run `clipsieve score` again"
        )
    lists = column.combine_chunks()
    wide = lists.flatten().to_numpy().astype(np.float64).reshape(len(lists), -1)
    unit: np.ndarray = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return unit.astype(np.float32)
