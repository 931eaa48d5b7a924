"""What an audit reads of an output folder: scores, captions, addresses and vectors, by shard."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipsieve.errors import LedgerError
from clipsieve.schemas import footers
from clipsieve.store.layout import Layout
from clipsieve.store.parquet import read_footer


@dataclass(frozen=True, slots=True)
class Shards:
    """The shards of an output folder, with one score family and one set of embeddings.

    Attributes:
      layout: the output folder.
      embeddings: slug and revision of the embeddings, as in `dataset.json`.
      family: score family.
      revision: its revision.
      column: its column by which rows are suspicious; higher is more so.
    """

    layout: Layout
    embeddings: Mapping[str, str]
    family: str
    revision: str
    column: str

    def names(self) -> list[str]:
        """Shards of the ledger, in name order.

        Raises:
          LedgerError: if scores or embeddings of one are missing, or out of line with its ledger.
        """
        names = sorted(path.stem for path in (self.layout.root / "samples").glob("*.parquet"))
        for name in names:
            ledger = read_footer(self.layout.samples(name))
            for path in (self._scores(name), self._embeddings(name)):
                footer = read_footer(path)
                if not footer:
                    raise LedgerError(
                        f"{path} is missing or damaged; run `clipsieve run` or `clipsieve score` "
                        "again"
                    )
                if footer.get(footers.UID_HASH) != ledger.get(footers.UID_HASH):
                    raise LedgerError(
                        f"{path} has other uids than {self.layout.samples(name)}; delete both "
                        "files and run `clipsieve run` again"
                    )
        return names

    def scores(self, name: str) -> np.ndarray:
        """(N,) float32 scores of a shard's rows; NaN where NULL.

        Raises:
          LedgerError: if the family has no such column.
        """
        path = self._scores(name)
        if self.column not in pq.read_schema(path).names:
            raise LedgerError(
                f"{path} has no column {self.column!r}; run `clipsieve score` with the scorers "
                "that add it"
            )
        column = pq.read_table(path, columns=[self.column], partitioning=None)[self.column]
        return np.asarray(column.to_numpy(), np.float32)

    def captions(self, name: str) -> list[str | None]:
        """Captions of a shard's rows, as read."""
        path = self.layout.samples(name)
        table = pq.read_table(path, columns=["caption"], partitioning=None)
        captions: list[str | None] = table["caption"].to_pylist()
        return captions

    def identities(self, name: str, rows: np.ndarray) -> pa.Table:
        """`uid`, `caption` and `url` of some rows; `url` is NULL where the source has none."""
        path = self.layout.samples(name)
        held = pq.read_schema(path).names
        wanted = ["uid", "caption", *(["url"] if "url" in held else [])]
        table = pq.read_table(path, columns=wanted, partitioning=None).take(pa.array(rows))
        if "url" not in held:
            table = table.append_column("url", pa.nulls(len(rows), pa.string()))
        return table.set_column(2, "url", table["url"].cast(pa.string()))

    def images(self, name: str, rows: np.ndarray) -> np.ndarray:
        """(M, D) float32 image vectors of some rows (ascending), of unit norm within rounding.

        Raises:
          LedgerError: if one of them has a score but no vector.
        """
        path = self._embeddings(name)
        parts: list[np.ndarray] = []
        with pq.ParquetFile(path) as file:
            start = 0
            for group in range(file.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                inside = rows[(rows >= start) & (rows < end)] - start
                if len(inside):
                    column = file.read_row_group(group, columns=["image_embedding"]).column(0)
                    parts.append(_unit(column.take(pa.array(inside)), path))
                start = end
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)

    def _scores(self, name: str) -> Path:
        return self.layout.scores(self.family, self.revision, name)

    def _embeddings(self, name: str) -> Path:
        return self.layout.embeddings(self.embeddings["model"], self.embeddings["rev"], name)


def _unit(column: pa.ChunkedArray, path: Path) -> np.ndarray:
    """(M, D) float32 rows of unit norm from M lists of float16."""
    if column.null_count:
        raise LedgerError(
            f"{path} lacks vectors of {column.null_count} rows that have a score; "
            "run `clipsieve score` again"
        )
    lists = column.combine_chunks()
    wide = lists.flatten().to_numpy().astype(np.float64).reshape(len(lists), -1)
    unit: np.ndarray = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return unit.astype(np.float32)
