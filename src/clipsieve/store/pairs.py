"""Pairs as an output folder holds them: embeddings, captions and uids, shard by shard."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.errors import LedgerError
from clipsieve.schemas import footers
from clipsieve.scorers.base import Embedded, Input, PairBatch, References, StoredEmbedded
from clipsieve.scorers.embedded import embedded_family_revision
from clipsieve.scorers.registry import EMBEDDED
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import EmbeddingsEntry
from clipsieve.store.parquet import Footer

#: Rows that scorers see at once: bounds the memory of N x K cosines.
BATCH_ROWS = 16_384
#: Columns of the ledger that are `Input.IMAGE_HASHES`.
_HASHES = ("image_sha256", "image_phash")
#: Inputs for which alone no embedding is read.
_NO_VECTORS = frozenset({Input.CAPTION, Input.IMAGE_HASHES, Input.CLIP_SCORE})


@dataclass(frozen=True, slots=True)
class StoredPairs:
    """Reads the pairs of one output folder.

    Attributes:
      folder: the folder.
      embeddings: the embeddings to read.
      dim: components of a vector.
    """

    folder: OutputFolder
    embeddings: EmbeddingsEntry
    dim: int

    def read(
        self, shard: str, needs: Collection[Input], source_columns: Sequence[str] = ()
    ) -> PairBatch:
        """Return all pairs of a shard with their image embeddings, and what else is needed.

        Captions' embeddings double the work and are read only if needed; so are captions, hashes
        and CLIP scores.  Image embeddings are left out if nothing but those is needed.

        Args:
          shard: its name.
          needs: inputs.
          source_columns: columns of the source whose values are needed; see `source_values`.

        Raises:
          LedgerError: if embeddings, ledger or CLIP scores are missing, damaged, or out of line;
            or if hashes are needed and the ledger was written before it had them.
        """
        sides = ["image", "text"] if Input.TEXT_EMBEDDING in needs else ["image"]
        if needs and _NO_VECTORS.issuperset(needs):
            sides = []
        columns = ["uid", *(f"{side}_{part}" for side in sides for part in ("embedding", "norm"))]
        stored, footer = self.folder.read_table_and_footer(self.name(shard), columns)
        try:
            embedded = {side: embedded_from_table(stored, side, self.dim) for side in sides}
        except ValueError as error:
            raise LedgerError(
                f"{self.folder.files.url(self.name(shard))} is damaged ({error}); run "
                "`clipsieve run` again"
            ) from error
        texts = {"": embedded["text"]} if "text" in embedded else {}
        uids = stored["uid"].combine_chunks()
        batch = PairBatch(uids, embedded.get("image"), texts, shard=shard)
        if Input.CLIP_SCORE in needs:
            batch = replace(batch, clip_score=self._clip_scores(shard, uids))
        with_hashes = Input.IMAGE_HASHES in needs
        if Input.CAPTION not in needs and not source_columns and not with_hashes:
            self._check_rows(shard, footer, self.folder.read_footer(names.samples(shard)))
            return batch
        sources = [name for column in source_columns for name in (column, f"source_{column}")]
        hashes = _HASHES if with_hashes else ()
        captions = ("caption",) if Input.CAPTION in needs or source_columns else ()
        columns = list(dict.fromkeys([*captions, *hashes, *sources]))
        samples = self.read_samples(shard, uids, columns, footer)
        for column in hashes:
            if column not in samples.column_names:
                raise LedgerError(
                    f"{self.folder.files.url(names.samples(shard))} has no column {column}: shard "
                    f"{shard} was embedded by an earlier clipsieve; run `clipsieve run` on its "
                    "source again with --reprocess"
                )
        values = {column: source_values(samples, column) for column in source_columns}
        return replace(
            batch,
            captions=samples["caption"].to_pylist() if captions else (),
            columns=values,
            **{column: samples[column].combine_chunks() for column in hashes},
        )

    def read_samples(
        self, shard: str, uids: pa.Array, columns: Sequence[str], vectors: Footer | None = None
    ) -> pa.Table:
        """Return the uid and those of `columns` that the ledger of a shard has.

        Args:
          shard: its name.
          uids: of its embeddings.
          columns: names.
          vectors: footer of its embeddings, which that of the ledger must fit.

        Raises:
          LedgerError: if its uids are not `uids`, those of the shard's embeddings.
        """
        others = [column for column in columns if column != "uid"]
        name = names.samples(shard)
        samples, ledger = self.folder.read_table_and_footer(name, ["uid", *others])
        if vectors is not None:
            self._check_rows(shard, vectors, ledger)
        if not samples["uid"].combine_chunks().equals(uids):
            place = self.folder.files.url
            raise LedgerError(
                f"{place(self.name(shard))} has other uids than {place(names.samples(shard))}; "
                "delete both and run `clipsieve run` again"
            )
        return samples

    def _clip_scores(self, shard: str, uids: pa.Array) -> np.ndarray:
        """(N,) float32 scores that were stored with the embeddings; NaN where NULL."""
        revision = embedded_family_revision(self.embeddings.revision)
        name = names.scores(EMBEDDED, revision, shard)
        stored = self.folder.read_table(name, ["uid", "clip_score"])
        if not stored["uid"].combine_chunks().equals(uids):
            raise LedgerError(
                f"{self.folder.files.url(name)} has other uids than "
                f"{self.folder.files.url(self.name(shard))}; delete both and run `clipsieve run` "
                "again"
            )
        scores: np.ndarray = stored["clip_score"].to_numpy()
        return scores

    def _check_rows(self, shard: str, vectors: Footer, ledger: Footer) -> None:
        """Refuse embeddings of other rows than the ledger's, as a kill between the two leaves."""
        tables = (self.name(shard), names.samples(shard))
        for key in (footers.UID_HASH, footers.SOURCE_FINGERPRINT, footers.ROWS):
            if vectors and ledger and vectors.get(key) != ledger.get(key):
                place, other = map(self.folder.files.url, tables)
                raise LedgerError(
                    f"{place} and {other} differ in {key}: {vectors.get(key)} and "
                    f"{ledger.get(key)}; run `clipsieve run` again"
                )

    def name(self, shard: str) -> str:
        """Return the name of the embeddings of a shard."""
        return names.embeddings(self.embeddings.model, self.embeddings.revision, shard)


def embedded_from_table(table: pa.Table, side: str, dim: int) -> Embedded:
    """Return the vectors of one side of an embeddings table.

    Args:
      table: a table of `embeddings/`.
      side: "image" or "text".
      dim: components of a vector.

    Raises:
      ValueError: for vectors of another length, or without a norm.
    """
    column = table[f"{side}_embedding"].combine_chunks()
    valid = np.asarray(column.is_valid())
    lengths = np.asarray(column.value_lengths().fill_null(dim))
    if (lengths != dim).any():
        found = f"{lengths.min()} to {lengths.max()}"
        raise ValueError(f"{side} vectors have {found} components, not {dim}")
    present = column.flatten().to_numpy().reshape(-1, dim)
    norms = np.zeros(len(column))
    stored_norms = table[f"{side}_norm"].drop_null().to_numpy()
    if len(stored_norms) != valid.sum():
        raise ValueError(f"{valid.sum()} {side} vectors have {len(stored_norms)} norms")
    norms[valid] = stored_norms
    if valid.all():
        return StoredEmbedded(present, norms, valid)
    stored = np.zeros((len(column), dim), np.float16)
    stored[valid] = present
    return StoredEmbedded(stored, norms, valid)


def source_values(samples: pa.Table, column: str | None) -> list[Any]:
    """Return the values of a source column; all None in a shard whose source does not have it.

    A column with the name of a ledger column is carried as `source_<name>`.
    """
    for name in (f"source_{column}", column):
        if name in samples.column_names:
            values: list[Any] = samples[name].to_pylist()
            return values
    return [None] * samples.num_rows


def split_batch(batch: PairBatch, rows: int = BATCH_ROWS) -> Iterator[PairBatch]:
    """Yield a shard's pairs in batches of at most `rows`; one batch of none if it has none."""
    if len(batch) <= rows:
        yield batch
        return
    for first in range(0, len(batch), rows):
        part = slice(first, min(first + rows, len(batch)))
        yield PairBatch(
            uid=batch.uid[part.start : part.stop],
            image=None if batch.image is None else batch.image.part(part),
            texts={prompt: text.part(part) for prompt, text in batch.texts.items()},
            references={key: _part(refs, part) for key, refs in batch.references.items()},
            captions=batch.captions[part],
            columns={name: values[part] for name, values in batch.columns.items()},
            shard=batch.shard,
            start=batch.start + first,
            prototypes=batch.prototypes,
            neighbours=_parts(batch.neighbours, part),
            caption_neighbours=_parts(batch.caption_neighbours, part),
            image_sha256=None if batch.image_sha256 is None else batch.image_sha256[part],
            image_phash=None if batch.image_phash is None else batch.image_phash[part],
            clip_score=None if batch.clip_score is None else batch.clip_score[part],
        )


def with_lists(part: PairBatch, whole: PairBatch) -> PairBatch:
    """Return a part of a batch with its rows of the neighbour lists of `whole`.

    What is computed once for all who ask is shared with `part`.
    """
    if not whole.neighbours and not whole.caption_neighbours:
        return part
    first = part.start - whole.start
    rows = slice(first, first + len(part))
    return replace(
        part,
        neighbours=_parts(whole.neighbours, rows),
        caption_neighbours=_parts(whole.caption_neighbours, rows),
    )


def _part(references: References, part: slice) -> References:
    offsets = references.offsets[part.start : part.stop + 1]
    owned = references.embedded.part(slice(int(offsets[0]), int(offsets[-1])))
    return References(owned, offsets - offsets[0])


def _parts(lists: Mapping[Any, Any], part: slice) -> dict[Any, Any]:
    return {
        spec: type(each)(each.distances[part], each.indices[part]) for spec, each in lists.items()
    }
