"""Pairs as an output folder holds them: embeddings, captions and uids, shard by shard."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipsieve.errors import LedgerError
from clipsieve.schemas import footers
from clipsieve.schemas.states import RowState
from clipsieve.scorers.base import Embedded, PairBatch
from clipsieve.store.layout import Layout
from clipsieve.store.parquet import read_footer

#: Footer values of a ledger that change when a shard's rows or their embeddings do.
LEDGER_KEYS = (
    footers.UID_HASH,
    footers.SOURCE_FINGERPRINT,
    footers.REVISION,
    footers.STATES,
)


@dataclass(frozen=True, slots=True)
class Member:
    """One shard of a dataset, and where its rows stand when all shards' rows are numbered.

    Attributes:
      shard: its name.
      first: number of its first row.
      rows: how many it has.
      key: what its ledger's footer says of its content: uid hash, source fingerprint, revision,
        rows by state.
      scored: rows in state `ok`.
    """

    shard: str
    first: int
    rows: int
    key: tuple[str, ...]
    scored: int


@dataclass(frozen=True, slots=True)
class StoredPairs:
    """Reads the pairs of one output folder.

    Attributes:
      layout: the folder.
      embeddings: slug and revision of the embeddings, as in `dataset.json`.
      dim: components of a vector.
    """

    layout: Layout
    embeddings: Mapping[str, str]
    dim: int

    def shards(self) -> list[str]:
        """Names of all shards in the ledger, sorted."""
        return sorted(path.stem for path in (self.layout.root / "samples").glob("*.parquet"))

    def members(self) -> tuple[Member, ...]:
        """All shards in the ledger in name order, their rows numbered through."""
        members: list[Member] = []
        first = 0
        for shard in self.shards():
            footer = read_footer(self.layout.samples(shard))
            rows = int(footer[footers.ROWS])
            key = tuple(footer[name] for name in LEDGER_KEYS)
            scored = json.loads(footer[footers.STATES]).get(RowState.OK, 0)
            members.append(Member(shard, first, rows, key, scored))
            first += rows
        return tuple(members)

    def read(self, shard: str, texts: bool = True) -> PairBatch:
        """Uids and embeddings of one shard.

        Args:
          shard: its name.
          texts: whether embeddings of captions are wanted, which double the work.

        Raises:
          LedgerError: if the embeddings are missing or damaged.
        """
        sides = ("image", "text") if texts else ("image",)
        stored = self._embeddings(shard, sides)
        image, *text = (embedded_from(stored, side, self.dim) for side in sides)
        uids = stored["uid"].combine_chunks()
        return PairBatch(uids, image, {"": text[0]} if text else {}, shard=shard)

    def read_samples(self, shard: str, uids: pa.Array, columns: Sequence[str]) -> pa.Table:
        """Those of `columns` that the ledger of a shard has.

        Raises:
          LedgerError: if its uids are not `uids`, those of the shard's embeddings.
        """
        path = self.layout.samples(shard)
        held = pq.read_schema(path).names
        wanted = ["uid", *(name for name in columns if name in held and name != "uid")]
        samples = pq.read_table(path, columns=wanted, partitioning=None)
        if not samples["uid"].combine_chunks().equals(uids):
            raise LedgerError(
                f"{self._path(shard)} has other uids than {path}; delete both and run "
                "`clipsieve run` again"
            )
        return samples

    def _path(self, shard: str) -> Path:
        return self.layout.embeddings(self.embeddings["model"], self.embeddings["rev"], shard)

    def _embeddings(self, shard: str, sides: Sequence[str]) -> pa.Table:
        path = self._path(shard)
        columns = ["uid", *(f"{side}_{what}" for side in sides for what in ("embedding", "norm"))]
        try:
            return pq.read_table(path, columns=columns, partitioning=None)
        except (OSError, pa.ArrowInvalid) as error:
            raise LedgerError(
                f"{path} is missing or damaged ({error}); run `clipsieve run` again"
            ) from error


def embedded_from(table: pa.Table, side: str, dim: int) -> Embedded:
    """Un-normalised vectors of one side of an embeddings table: unit vector times norm.

    Args:
      table: a table of `embeddings/`.
      side: "image" or "text".
      dim: components of a vector.
    """
    column = table[f"{side}_embedding"].combine_chunks()
    valid = np.asarray(column.is_valid())
    unit = column.flatten().to_numpy().astype(np.float64).reshape(-1, dim)
    norms = table[f"{side}_norm"].drop_null().to_numpy().astype(np.float64)
    raw = np.zeros((len(column), dim), np.float32)
    raw[valid] = unit * (norms / np.linalg.norm(unit, axis=1))[:, None]
    return Embedded(raw, valid)
