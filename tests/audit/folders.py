"""Output folders whose rows, vectors and density scores a test gives by hand."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
COLUMN = "density_kdist"


@dataclass(frozen=True)
class Row:
    """One row of the dataset; without a score it has no picture either."""

    uid: Any
    score: float | None = None
    caption: str | None = None
    vector: Sequence[float] = ()
    url: str | None = None

    @property
    def picture(self) -> np.ndarray:
        """The vector, filled up to DIM components; a missing one is zero."""
        full = np.zeros(DIM, np.float32)
        full[: len(self.vector)] = self.vector
        return full


def direction(number: int, turn: float = 0.0) -> list[float]:
    """A vector along axis `number`, turned by `turn` radians towards axis 0."""
    vector = [0.0] * DIM
    vector[number], vector[0] = np.cos(turn), np.sin(turn)
    return vector


def write_folder(root, shards: Mapping[str, Sequence[Row]], urls: bool = True) -> OutputFolder:
    """A finished folder with these shards and a density family."""
    folder, manifest = make_folder(root, [_shard(name, shards[name], urls) for name in shards])
    for name, rows in shards.items():
        write_scores(folder, name, {COLUMN: [row.score for row in rows]})
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
    valid = np.ones(len(rows), bool)
    valid[missing] = False
    vectors = np.array([row.picture for row in rows], np.float32).reshape(-1, DIM)
    pairs = dataclasses.replace(
        shard.pairs, image=Embedded(vectors, valid), captions=[row.caption for row in rows]
    )
    return dataclasses.replace(shard, pairs=pairs)
