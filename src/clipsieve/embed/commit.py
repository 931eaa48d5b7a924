"""The files of one shard: what is written, and how a later run sees that it need not be.

A shard is three kinds of file with equal rows in equal order: its ledger in `samples/`, its
vectors in `embeddings/`, and one file for each score family.  It is done when all of them are
there with the footers that this run would write.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.embed.shard import EmbeddedShard
from clipsieve.formats.base import WorkItem
from clipsieve.schemas import footers
from clipsieve.schemas.tables import embeddings_schema, samples_schema
from clipsieve.scorers.base import Embedded, Scorer
from clipsieve.store.canonical import canonical_json, short_hash
from clipsieve.store.layout import Layout
from clipsieve.store.parquet import nullable, read_footer, vectors, write_table

#: Raised when the same model and pixels would give other vectors: decoding, resizing, cutting.
ENCODER_VERSION = 1
#: Raised when the same source row would give another ledger row.
LEDGER_VERSION = 1


@dataclass(frozen=True, slots=True)
class Revisions:
    """What the columns of a run mean, as short hashes.

    Attributes:
      ledger: of the reading options and limits.
      embeddings: of the model's identity.
      families: of each scorer's parameters together with the embeddings they are computed from.
    """

    ledger: str
    embeddings: str
    families: Mapping[str, str]

    @classmethod
    def of(
        cls, meaning: Mapping[str, Any], reading: Mapping[str, Any], scorers: Sequence[Scorer]
    ) -> "Revisions":
        """Revisions for a model's `meaning`, the options of `reading`, and `scorers`."""
        embeddings = embeddings_revision(meaning)
        return cls(
            ledger=short_hash({"ledger": LEDGER_VERSION, **reading}),
            embeddings=embeddings,
            families={s.family: family_revision(s, embeddings, "full") for s in scorers},
        )


def embeddings_revision(meaning: Mapping[str, Any]) -> str:
    """Revision of the embeddings of a model with this `meaning`."""
    return short_hash({"encoder": ENCODER_VERSION, **meaning})


def family_revision(scorer: Scorer, embeddings: str, precision: str, fit: str | None = None) -> str:
    """Revision of one score family.

    Args:
      scorer: its parameters and version count.
      embeddings: revision of the embeddings it reads.
      precision: "full" from the model's own output, "stored" from float16 on disk.
      fit: id of its fit, if it is fitted.
    """
    meaning = {
        "family": scorer.family,
        "version": scorer.version,
        "parameters": dict(scorer.parameters()),
        "embeddings": embeddings,
        "precision": precision,
    }
    return short_hash(meaning if fit is None else {**meaning, "fit": fit})


@dataclass(frozen=True, slots=True)
class Committer:
    """Writes shards, and recognises those already written.

    Attributes:
      layout: the output folder.
      slug: folder name of the model.
      revisions: what this run's columns mean.
      scorers: the scorers of this run, in order.
      provenance: footer values that are the same for every shard of the run.
    """

    layout: Layout
    slug: str
    revisions: Revisions
    scorers: Sequence[Scorer]
    provenance: Mapping[str, str]

    def paths(self, shard: str) -> dict[str, Path]:
        """Every file of a shard, by family."""
        families = {
            family: self.layout.scores(family, revision, shard)
            for family, revision in self.revisions.families.items()
        }
        embeddings = self.layout.embeddings(self.slug, self.revisions.embeddings, shard)
        return {
            "embeddings": embeddings,
            **families,
            "samples": self.layout.samples(shard),
        }

    def footer_done(self, item: WorkItem, run_id: str | None = None) -> dict[str, str] | None:
        """The ledger's footer if all files of `item` are there; None if it has to be done.

        Args:
          item: as planned now; its files must be of this source and of this run's revisions.
          run_id: if given, they must also be written by that run.
        """
        for family, path in self.paths(item.shard).items():
            footer = read_footer(path)
            if not self._matches(footer, family, item):
                return None
            if run_id is not None and footer[footers.RUN_ID] != run_id:
                return None
        return footer

    def states_done(self, item: WorkItem, run_id: str | None = None) -> dict[str, int] | None:
        """Rows by state of `item` if it is done, see `footer_done`; else None."""
        footer = self.footer_done(item, run_id)
        states: dict[str, int] | None = json.loads(footer[footers.STATES]) if footer else None
        return states

    def commit(self, shard: EmbeddedShard) -> None:
        """Write all files of `shard`, the ledger last; each replaces what was there."""
        item, pairs = shard.item, shard.pairs
        paths = self.paths(item.shard)
        common = {
            **self.provenance,
            **source_footer(item, len(pairs)),
            footers.UID_HASH: uid_hash(pairs.uid),
            footers.STATES: canonical_json(shard.counts()),
        }
        text = pairs.texts[""]
        assert pairs.image is not None
        write_table(
            paths["embeddings"],
            embeddings_table(pairs.uid, pairs.image, text),
            self._footer(common, "embeddings"),
        )
        for scorer in self.scorers:
            scores = scorer.score(pairs, {})
            write_table(
                paths[scorer.family],
                scores_table(pairs.uid, scorer, scores),
                self._footer(common, scorer.family)
                | {footers.PARAMETERS: canonical_json(dict(scorer.parameters()))},
            )
        write_table(paths["samples"], samples_table(shard), self._footer(common, "samples"))

    def _revision(self, family: str) -> str:
        own = {"samples": self.revisions.ledger, "embeddings": self.revisions.embeddings}
        return own.get(family) or self.revisions.families[family]

    def _footer(self, common: Mapping[str, str], family: str) -> dict[str, str]:
        return {**common, footers.FAMILY: family, footers.REVISION: self._revision(family)}

    def _matches(self, footer: Mapping[str, str], family: str, item: WorkItem) -> bool:
        """Whether a file with this footer is the file that this run would write."""
        wanted = source_footer(item, None)
        # The place of a source may change (a moved folder); its size and time may not.
        del wanted[footers.SOURCE_URI]
        wanted |= {footers.FAMILY: family, footers.REVISION: self._revision(family)}
        return all(footer.get(key) == value for key, value in wanted.items())


def source_footer(item: WorkItem, rows: int | None) -> dict[str, str]:
    """Footer values that say where a shard's rows came from.

    Args:
      item: what was planned.
      rows: rows read; None leaves the count out.
    """
    covered = {"start": item.start, "row_groups": item.row_groups, "files": item.files}
    footer = {
        footers.SHARD: item.shard,
        footers.SOURCE_URI: item.uri,
        footers.SOURCE_FINGERPRINT: canonical_json(asdict(item.fingerprint)),
        footers.SOURCE_RANGE: canonical_json(covered),
    }
    return footer if rows is None else footer | {footers.ROWS: str(rows)}


def uid_hash(uids: pa.Array) -> str:
    """sha256 over all uids in row order: files with equal hashes are aligned."""
    digest = sha256()
    for uid in uids.to_pylist():
        text = uid if isinstance(uid, bytes) else str(uid).encode()
        # With the length before it, no two columns give the same bytes.
        digest.update(b"-" if uid is None else b"%d:%b" % (len(text), text))
    return digest.hexdigest()


def embeddings_table(uids: pa.Array, image: Embedded, text: Embedded) -> pa.Table:
    """Unit vectors in float16 and their norms; NULL where a row has none."""
    schema = embeddings_schema(uids.type)
    columns = [uids]
    for side in (image, text):
        norms = np.linalg.norm(side.vectors.astype(np.float64), axis=1)
        columns += [
            vectors(side.unit(), side.valid),
            nullable(np.where(side.valid, norms, np.nan)),
        ]
    return pa.Table.from_arrays(columns, schema=schema)


def scores_table(uids: pa.Array, scorer: Scorer, scores: Mapping[str, np.ndarray]) -> pa.Table:
    """The uid and one float32 column a score; NULL where a score is undefined."""
    schema = pa.schema([pa.field("uid", uids.type), *scorer.columns])
    return pa.Table.from_arrays(
        [uids, *(nullable(scores[name]) for name in scorer.columns.names)], schema=schema
    )


def samples_table(shard: EmbeddedShard) -> pa.Table:
    """The ledger: one row for each input row."""
    count = len(shard.pairs)
    first = shard.item.start
    ledger = {
        "uid": shard.pairs.uid,
        "shard": pa.array([shard.item.shard] * count, pa.string()),
        "row": pa.array(np.arange(first, first + count), pa.int64()),
        "caption": pa.array(shard.pairs.captions, pa.string()),
        "status": pa.array([str(state) for state in shard.states], pa.string()),
        "error": pa.array(shard.errors, pa.string()),
        "image_width": pa.array(shard.widths, pa.int32(), mask=shard.widths == 0),
        "image_height": pa.array(shard.heights, pa.int32(), mask=shard.heights == 0),
    }
    schema = samples_schema(shard.pairs.uid.type, shard.carried.schema)
    return pa.Table.from_arrays(
        [*ledger.values(), *(shard.carried[name] for name in shard.carried.column_names)],
        schema=schema,
    )
