"""The files of one shard: what is written, and how a later run sees that it need not be.

A shard is its vectors in `embeddings/`, its scores of the family that comes with them, and its
ledger in `samples/`, with equal rows in equal order.  It is done when all of them are there with
the footers that this run would write.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.clip.identity import ModelIdentity
from clipsieve.embed.room import least_bytes
from clipsieve.embed.shard import EmbeddedShard
from clipsieve.errors import StorageError
from clipsieve.formats.base import WorkItem
from clipsieve.schemas import footers
from clipsieve.schemas.tables import embeddings_schema, samples_schema
from clipsieve.scorers.base import Embedded, Scorer
from clipsieve.scorers.columns import score_columns, scorers_footer, scores_table
from clipsieve.scorers.embedded import embedded_family_revision, embedded_scorer_revision
from clipsieve.scorers.registry import EMBEDDED, make_scorer
from clipsieve.store import names
from clipsieve.store.canonical import canonical_json, short_hash
from clipsieve.store.documents import footer_states
from clipsieve.store.folder import LISTED_FROM, OutputFolder
from clipsieve.store.manifest import EmbeddingsEntry, FamilyEntry, ScorerEntry
from clipsieve.store.parquet import Footer, nullable, vectors
from clipsieve.store.seal import Seal
from clipsieve.store.siblings import read_siblings, siblings_text
from clipsieve.store.source import source_footer
from clipsieve.store.storage_errors import byte_count

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
      scores: of the scores that come with the embeddings.
    """

    ledger: str
    embeddings: str
    scores: str

    @classmethod
    def from_settings(cls, model: ModelIdentity, reading: Mapping[str, Any]) -> "Revisions":
        """Return the revisions for a model and the options of reading."""
        embeddings = embeddings_revision(model)
        return cls(
            ledger=short_hash({"ledger": LEDGER_VERSION, **reading}),
            embeddings=embeddings,
            scores=embedded_family(embeddings).revision,
        )


def embeddings_revision(model: ModelIdentity) -> str:
    """Return the revision of the embeddings of a model."""
    return short_hash({"encoder": ENCODER_VERSION, **model.identity_key()})


def embeddings_entry(model: ModelIdentity) -> EmbeddingsEntry:
    """Return what the manifest says of the embeddings of a model."""
    return EmbeddingsEntry(model.slug, embeddings_revision(model))


def embedded_family(embeddings: str) -> FamilyEntry:
    """Return what the manifest says of the scores that come with embeddings of this revision.

    They are computed from the model's own output, not from float16 on disk.
    """
    entry = ScorerEntry(embedded_scorer_revision(embeddings))
    return FamilyEntry(embedded_family_revision(embeddings), {EMBEDDED: entry})


class ShardWriter:
    """Writes shards, and recognises those already written."""

    def __init__(
        self,
        folder: OutputFolder,
        model: ModelIdentity,
        revisions: Revisions,
        provenance: Mapping[str, str],
        logit_scale: float = 1.0,
    ) -> None:
        """Write to `folder`.

        Args:
          folder: the output folder.
          model: whose embeddings.
          revisions: what the columns mean.
          provenance: footer values that are the same for every shard of the run.
          logit_scale: of the model.
        """
        self.folder, self.model, self.revisions = folder, model, revisions
        self._provenance = provenance
        self._logit_scale = logit_scale
        self._scorer: Scorer = make_scorer(EMBEDDED, {})

    def names(self, shard: str) -> dict[str, str]:
        """Return the name of every file of a shard, by family; the ledger, written last, first."""
        return {
            "samples": names.samples(shard),
            EMBEDDED: names.scores(EMBEDDED, self.revisions.scores, shard),
            "embeddings": names.embeddings(self.model.slug, self.revisions.embeddings, shard),
        }

    def done(self, items: Sequence[WorkItem], run_id: str | None = None) -> list[Footer | None]:
        """Return of each item its ledger's footer if all its files are there, else None.

        Args:
          items: as planned now; files must be of these sources and of this run's revisions.
          run_id: if given, they must also be written by that run.
        """
        all_names = [self.names(item.shard) for item in items]
        # The ledger is written last: without it the others need not be looked for.
        ledgers = self._matching("samples", items, all_names, run_id)
        present = [at for at, ledger in enumerate(ledgers) if ledger is not None]
        if self.folder.files.is_remote and len(items) >= LISTED_FROM:
            present = self._without_siblings(present, ledgers, all_names)
        for family in (EMBEDDED, "embeddings"):
            matching = self._matching(
                family, [items[at] for at in present], [all_names[at] for at in present], run_id
            )
            for at, footer in zip(present, matching, strict=True):
                # One of another run was written over, by a run that was killed before its ledger.
                if footer is None or not _is_of_same_run(footer, ledgers[at]):
                    ledgers[at] = None
        return ledgers

    def _without_siblings(
        self,
        present: Sequence[int],
        ledgers: list[Footer | None],
        files: Sequence[Mapping[str, str]],
    ) -> list[int]:
        """Look for the files that ledgers name, in listings alone; drop ledgers that lack one.

        Returns:
          Positions of ledgers that name none, as earlier versions wrote them.
        """
        listed = {
            folder: self.folder.files.entries(folder).files
            for folder in sorted({names.parent(n) for f in files for n in _others(f)})
        }
        unknown = []
        for at in present:
            siblings = read_siblings(ledgers[at] or {})
            if not siblings:
                unknown.append(at)
            elif not all(
                name in siblings
                and (status := listed[names.parent(name)].get(name.rpartition("/")[2])) is not None
                and status.bytes == siblings[name].bytes
                for name in _others(files[at])
            ):
                ledgers[at] = None
        return unknown

    def _matching(
        self,
        family: str,
        items: Sequence[WorkItem],
        files: Sequence[Mapping[str, str]],
        run_id: str | None,
    ) -> list[Footer | None]:
        """Return the footer of each item's file of a family if it is what this run would write."""
        read = self.folder.read_footers(each[family] for each in files)
        return [
            footer
            if self._matches(footer, family, item)
            and (run_id is None or footer.get(footers.RUN_ID) == run_id)
            else None
            for item, footer in zip(items, read, strict=True)
        ]

    def require_room(self, item: WorkItem) -> None:
        """Refuse to begin a shard of which not even the least would fit on the disk.

        Raises:
          StorageError: says how much is free, and how much is needed.
        """
        free = self.folder.files.free_bytes()
        least = least_bytes(item.fingerprint.rows or 0, self.model.dim)
        if free is not None and free < least:
            raise StorageError(
                f"cannot write shard {item.shard} to {self.folder.root}: {byte_count(free)} free, "
                f"at least {byte_count(least)} needed; free space on that disk, then run the same "
                "command again: complete files are kept"
            )

    def commit(self, shard: EmbeddedShard) -> dict[str, Seal]:
        """Write all files of `shard`, the ledger last; each replaces what was there.

        Returns:
          The seal of each file, by its name.
        """
        item, pairs = shard.item, shard.pairs
        name = self.names(item.shard)
        common = {
            **self._provenance,
            **source_footer(item, len(pairs)),
            footers.UID_HASH: uid_hash(pairs.uid),
            footers.STATES: canonical_json(shard.counts()),
        }
        assert pairs.image is not None
        revisions = {EMBEDDED: self._scores_revision()}
        scores = self._scorer.score(pairs, {})
        columns = score_columns(self._scorer, revisions[EMBEDDED], scores, len(pairs))
        seals = self.folder.write_tables(
            [
                (
                    name["embeddings"],
                    embeddings_table(pairs.uid, pairs.image, pairs.texts[""]),
                    self._footer(common, "embeddings")
                    | {footers.LOGIT_SCALE: repr(self._logit_scale)},
                ),
                (
                    name[EMBEDDED],
                    scores_table(pairs.uid, columns),
                    self._footer(common, EMBEDDED)
                    | {footers.SCORERS: scorers_footer([self._scorer], revisions)},
                ),
            ]
        )
        footer = self._footer(common, "samples") | {footers.SIBLINGS: siblings_text(seals)}
        ledger = (name["samples"], samples_table(shard), footer)
        return {**seals, name["samples"]: self.folder.write_table(*ledger)}

    def _scores_revision(self) -> str:
        return embedded_family(self.revisions.embeddings).scorers[EMBEDDED].revision

    def _revision(self, family: str) -> str:
        own = {
            "samples": self.revisions.ledger,
            "embeddings": self.revisions.embeddings,
            EMBEDDED: self.revisions.scores,
        }
        return own[family]

    def _footer(self, common: Mapping[str, str], family: str) -> dict[str, str]:
        return {**common, footers.FAMILY: family, footers.REVISION: self._revision(family)}

    def _matches(self, footer: Mapping[str, str], family: str, item: WorkItem) -> bool:
        """Whether a file with this footer is the file that this run would write."""
        expected = source_footer(item, None)
        # The place of a source may change (a moved folder); its size and time may not.
        del expected[footers.SOURCE_URI]
        expected |= {footers.FAMILY: family, footers.REVISION: self._revision(family)}
        return all(footer.get(key) == value for key, value in expected.items())


def _others(files: Mapping[str, str]) -> list[str]:
    """Return the names of the files that a ledger is written after."""
    return [name for family, name in files.items() if family != "samples"]


def _is_of_same_run(footer: Footer, ledger: Footer | None) -> bool:
    return ledger is not None and footer.get(footers.RUN_ID) == ledger.get(footers.RUN_ID)


def states_from_footer(ledger: Footer) -> dict[str, int]:
    """Return rows by state of a shard, from its ledger's footer."""
    return footer_states(ledger, footers.STATES, f"ledger of {ledger.get(footers.SHARD)}")


def uid_hash(uids: pa.Array) -> str:
    """Return the sha256 over all uids in row order: files with equal hashes are aligned."""
    digest = sha256()
    for uid in uids.to_pylist():
        text = uid if isinstance(uid, bytes) else str(uid).encode()
        # With the length before it, no two columns give the same bytes.
        digest.update(b"-" if uid is None else b"%d:%b" % (len(text), text))
    return digest.hexdigest()


def embeddings_table(uids: pa.Array, image: Embedded, text: Embedded) -> pa.Table:
    """Return unit vectors in float16 and their norms; NULL where a row has none."""
    schema = embeddings_schema(uids.type)
    columns = [uids]
    for side in (image, text):
        columns += [
            vectors(side.unit(), side.valid),
            nullable(np.where(side.valid, side.norms(), np.nan)),
        ]
    return pa.Table.from_arrays(columns, schema=schema)


def samples_table(shard: EmbeddedShard) -> pa.Table:
    """Return the ledger: one row for each input row."""
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
        "image_sha256": pa.array(
            [None if digest is None else digest.hex() for digest in shard.digests], pa.string()
        ),
        "image_phash": pa.array(shard.phashes, pa.uint64()),
    }
    schema = samples_schema(shard.pairs.uid.type, shard.carried.schema)
    return pa.Table.from_arrays(
        [*ledger.values(), *(shard.carried[name] for name in shard.carried.column_names)],
        schema=schema,
    )
