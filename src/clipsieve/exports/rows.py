"""Reads the kept rows of a subset: their columns, their pictures, their embeddings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from clipsieve.errors import LedgerError
from clipsieve.exports.parts import Span
from clipsieve.formats.base import SourceConfig
from clipsieve.formats.registry import narrowed, read_rows
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.glue import GluedShards, conformed
from clipsieve.store.manifest import EmbeddingsEntry
from clipsieve.store.subsets import Subset, read_kept

SIMILARITY = "clip_similarity"


@dataclass(frozen=True, slots=True)
class KeptRows:
    """Reads the rows that a subset keeps.

    Attributes:
      subset: which rows.
      glued: the columns of all rows.
      schema: columns and types of `table`.
      published: name under which `clip_similarity` is there once more; None for none.
      sources: how pictures are read.
      embeddings: which are read.
      dim: components of a vector.
    """

    subset: Subset
    glued: GluedShards
    schema: pa.Schema
    published: str | None = None
    sources: Sequence[SourceConfig] = ()
    embeddings: EmbeddingsEntry | None = None
    dim: int = 0

    @property
    def folder(self) -> OutputFolder:
        """The output folder."""
        return self.glued.folder

    def kept(self, span: Span) -> pa.Table:
        """Return uid, shard and row of the rows of a span.

        Raises:
          LedgerError: if the file is missing or damaged, or has fewer rows than were planned.
        """
        return self._slice(read_kept(self.folder, self.subset, span.shard), span)

    def uids(self, span: Span) -> pa.Array:
        """Return the uids of the rows of a span; raises as `kept`."""
        name = names.kept(self.subset.name, self.subset.revision, span.shard)
        return self._slice(self.folder.read_table(name, ["uid"]), span)["uid"].combine_chunks()

    def table(self, span: Span) -> pa.Table:
        """Return the columns of the view `scores` of the rows of a span, in source order.

        Raises:
          LedgerError: if the subset was made of other rows than the ledger has.
        """
        whole = self.glued.read(span.shard)
        if self.published is not None and SIMILARITY in whole.column_names:
            whole = whole.append_column(self.published, whole[SIMILARITY])
        kept = self.kept(span)
        rows = np.asarray(whole["row"].to_numpy())
        table = whole.take(pa.array(self._places(span, rows, kept)))
        self._check_uids(span, table["uid"], kept["uid"])
        return conformed(table, self.schema)

    def pictures(self, span: Span) -> Iterator[bytes | None]:
        """Yield the encoded picture of each row of a span as it is in the source, None for none.

        Raises:
          ShardError: if the source cannot be read or has changed.
          LedgerError: if it has fewer rows.
        """
        if not span.rows:
            return
        assert span.item is not None
        rows = np.asarray(self.kept(span)["row"].to_numpy())
        at = 0
        item = narrowed(span.item, int(rows[0]), int(rows[-1]) + 1)
        for batch in read_rows(item, self.sources[span.source]):
            stop = at + int(np.searchsorted(rows[at:], batch.start + len(batch)))
            for row in rows[at:stop].tolist():
                yield batch.images[row - batch.start] or None
            at = stop
            if at == len(rows):
                return
        raise LedgerError(
            f"{span.item.uri} has no row {int(rows[at])}, which subset {self.subset.name!r} keeps; "
            "run `clipsieve run` again, then `clipsieve filter`"
        )

    def vectors(self, span: Span) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the embeddings of the rows of a span that have both.

        Returns:
          (M, D) float16 of images, (M, D) float16 of texts, both of unit norm, and (N,) bool:
          which of the N rows have them.

        Raises:
          LedgerError: if embeddings are missing, damaged, or of other rows than the ledger.
        """
        assert self.embeddings is not None
        entry = self.embeddings
        name = names.embeddings(entry.model, entry.revision, span.shard)
        columns = ["image_embedding", "text_embedding"]
        stored = self.folder.read_table(name, ["uid", *columns])
        ledger = self.folder.read_table(names.samples(span.shard), ["row"])
        if stored.num_rows != ledger.num_rows:
            raise LedgerError(
                f"{self.folder.files.url(name)} has other rows than the ledger; run "
                "`clipsieve run` again"
            )
        kept = self.kept(span)
        places = self._places(span, np.asarray(ledger["row"].to_numpy()), kept)
        stored = stored.take(pa.array(places))
        self._check_uids(span, stored["uid"], kept["uid"])
        present = [np.asarray(stored[column].is_valid()) for column in columns]
        both = present[0] & present[1]
        image, text = (
            stored[column].filter(pa.array(both)).combine_chunks().flatten().to_numpy()
            for column in columns
        )
        return image.reshape(-1, self.dim), text.reshape(-1, self.dim), both

    def _slice(self, table: pa.Table, span: Span) -> pa.Table:
        if table.num_rows < span.stop:
            raise LedgerError(
                f"subset {self.subset.name!r} keeps {table.num_rows} rows of shard {span.shard}, "
                f"of which {span.stop} were planned; it has changed: run the same command again"
            )
        return table.slice(span.first, span.rows)

    def _places(self, span: Span, rows: np.ndarray, kept: pa.Table) -> np.ndarray:
        """Return where rows of a span stand in the ledger of their shard."""
        kept_rows = np.asarray(kept["row"].to_numpy())
        places = np.searchsorted(rows, kept_rows)
        if len(kept_rows) and (
            places[-1] >= len(rows) or not np.array_equal(rows[places], kept_rows)
        ):
            self._refuse(span)
        return places

    def _check_uids(self, span: Span, uids: pa.ChunkedArray, kept: pa.ChunkedArray) -> None:
        if not uids.combine_chunks().equals(kept.combine_chunks()):
            self._refuse(span)

    def _refuse(self, span: Span) -> None:
        raise LedgerError(
            f"subset {self.subset.name!r} was made of other rows of shard {span.shard} than the "
            "ledger has now; make it again with `clipsieve filter`"
        )
