"""Output folders whose rows, vectors, similarities and density scores a test gives by hand."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.schemas import footers
from clipsieve.scorers.base import Embedded
from clipsieve.sql.views import write_sql
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import FamilyEntry, ScorerEntry
from clipsieve.store.parquet import nullable
from tests.store.folders import DIM, make_folder, shard_of

REVISION = "b1" * 4
SIMILARITY, COLUMN, LARGE = "clip_similarity", "density_kdist", "density_kdist_large"


@dataclass(frozen=True)
class Row:
    """One row of the dataset; without a vector it has no picture.

    Attributes:
      uid: of the row.
      score: its k-distance against both references; None has none.
      caption: as read.
      vector: of the picture.
      url: address.
      similarity: cosine of picture and caption.
      file: what its bytes and perceptual hash are made of; the uid by default.
    """

    uid: Any
    score: float | None = None
    caption: str | None = None
    vector: Sequence[float] = ()
    url: str | None = None
    similarity: float = 0.3
    file: str | None = None

    @property
    def picture(self) -> np.ndarray:
        """The vector, filled up to DIM components; a missing one is zero."""
        full = np.zeros(DIM, np.float32)
        full[: len(self.vector)] = self.vector
        return full

    @property
    def text(self) -> np.ndarray:
        """A vector of the similarity to the picture."""
        picture = self.picture.astype(np.float64)
        if not picture.any():
            return np.ones(DIM)
        picture /= np.linalg.norm(picture)
        other = np.eye(DIM)[int(np.argmin(np.abs(picture)))]
        other -= (other @ picture) * picture
        other /= np.linalg.norm(other)
        return self.similarity * picture + np.sqrt(1 - self.similarity**2) * other

    @property
    def digest(self) -> bytes:
        """Of the bytes of the picture."""
        return sha256((self.file or str(self.uid)).encode()).digest()


def direction(number: int, turn: float = 0.0) -> list[float]:
    """A vector along axis `number`, turned by `turn` radians towards axis 0."""
    vector = [0.0] * DIM
    vector[number], vector[0] = np.cos(turn), np.sin(turn)
    return vector


def write_folder(
    root, shards: Mapping[str, Sequence[Row]], urls: bool = True, density: bool = True
) -> OutputFolder:
    """A finished folder with these shards and, with `density`, a density family."""
    folder, manifest = make_folder(root, [_shard(name, shards[name], urls) for name in shards])
    if density:
        for name, rows in shards.items():
            scores = [row.score for row in rows]
            write_scores(folder, name, {COLUMN: scores, LARGE: scores})
        family = FamilyEntry(REVISION, {"density": ScorerEntry(REVISION)})
        manifest = dataclasses.replace(manifest, families={**manifest.families, "density": family})
        folder.save_manifest(manifest)
    write_sql(folder, manifest)
    return folder


def write_scores(
    folder: OutputFolder, shard: str, columns: Mapping[str, Sequence[float | None]]
) -> None:
    """Write the density scores of one shard as the score stage would."""
    ledger = folder.read_footer(names.samples(shard))
    uids = folder.read_table(names.samples(shard), ["uid"])["uid"]
    values = {
        name: nullable(np.array([np.nan if v is None else v for v in column], np.float32))
        for name, column in columns.items()
    }
    footer = {**ledger, footers.FAMILY: "density", footers.REVISION: REVISION}
    folder.write_table(
        names.scores("density", REVISION, shard), pa.table({"uid": uids, **values}), footer
    )


def _shard(name: str, rows: Sequence[Row], urls: bool):
    missing = [n for n, row in enumerate(rows) if not row.picture.any()]
    no_text = [n for n, row in enumerate(rows) if row.caption is None]
    uids = pa.array([row.uid for row in rows])
    carried = {"url": pa.array([row.url for row in rows], pa.string())} if urls else {}
    table = pa.table({**carried, "n": pa.array(range(len(rows)))})
    shard = shard_of(name, len(rows), uids=uids, carried=table, no_image=missing, no_text=no_text)
    valid, with_text = np.ones(len(rows), bool), np.ones(len(rows), bool)
    valid[missing], with_text[no_text] = False, False
    vectors = np.array([row.picture for row in rows], np.float32).reshape(-1, DIM)
    texts = np.array([row.text for row in rows], np.float32).reshape(-1, DIM)
    texts[no_text] = 0
    pairs = dataclasses.replace(
        shard.pairs,
        image=Embedded(vectors, valid),
        texts={"": Embedded(texts, with_text)},
        captions=[row.caption for row in rows],
    )
    digests = [row.digest if has else None for row, has in zip(rows, valid, strict=True)]
    hashes = np.array([int.from_bytes(row.digest[:8], "big") for row in rows], np.uint64)
    phashes = np.ma.masked_array(hashes, ~valid)
    return dataclasses.replace(shard, pairs=pairs, digests=digests, phashes=phashes)
