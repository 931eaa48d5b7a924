"""The files of score families, computed from storage.

A vector is read back as unit float16 and normalised in float64, so a cosine differs from the one
that `embed` computes by at most about 1e-3.  Prompts before captions, and reference captions, are
encoded here, which needs the model's text tower only.

A family's file holds the columns of all its scorers.  When a scorer is added or changed, the
columns whose revision is the same are carried over from the file of the family's revision before.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from clipsieve.control import Control, unless_stopped
from clipsieve.formats.columns import reference_captions
from clipsieve.neighbours.stored import read_shard_lists
from clipsieve.schemas import footers
from clipsieve.scorers.base import Embedded, Input, PairBatch, PromptSet, References, Scorer
from clipsieve.scorers.columns import (
    check_scores,
    made_by,
    score_columns,
    scorers_footer,
    scores_table,
)
from clipsieve.scoring.learn import Basis, ScorerSpec, read_known, scorer_context, using_fit
from clipsieve.scoring.prompts import load_prototypes, prompt_sets
from clipsieve.stage import Element, Report, Worker
from clipsieve.statistics.counts import RowCounts
from clipsieve.store import names
from clipsieve.store.canonical import canonical_json
from clipsieve.store.documents import footer_rows
from clipsieve.store.folder import OutputFolder
from clipsieve.store.pairs import StoredPairs, source_values, split_batch, with_lists
from clipsieve.store.parquet import Footer
from clipsieve.store.records import SCORED, ShardRecord, add_record
from clipsieve.threads import map_parts, read_ahead
from clipsieve.versions import installed

if TYPE_CHECKING:
    from clipsieve.clip.encode import Encoder

_Columns = list[tuple[pa.Field, pa.Array]]
#: Footer values in which a family's file must agree with the ledger it was made for.
_LEDGER_VALUES = (footers.UID_HASH, footers.SOURCE_FINGERPRINT, footers.STATES)


@dataclass(frozen=True, slots=True)
class FamilySpec:
    """A score family as it shall be.

    Attributes:
      name: of the family.
      revision: of all its columns.
      scorers: in the order of their columns.
      previous: the revision whose unchanged columns are carried over; None if there is none.
    """

    name: str
    revision: str
    scorers: tuple[ScorerSpec, ...]
    previous: str | None = None


@dataclass(frozen=True, slots=True)
class ScoreStage:
    """Writes the family files of shards; an element is a shard.

    Attributes:
      out: the output folder, absolute.
      run_id: for footers and records.
      device: for texts that must be encoded and neighbours that must be found.
      control: stop and progress.
      basis: model and embeddings.
      families: what to write.
      references_col: column with reference captions, for ledgers that do not say; or None.
      rows: rows in state `ok` of the dataset.
    """

    out: str
    run_id: str
    device: str
    control: Control
    basis: Basis
    families: tuple[FamilySpec, ...]
    references_col: str | None
    rows: int
    name = "score"

    def elements(self) -> list[Element]:
        """Return the shards of the ledger that lack a family, or have it for other rows."""
        folder = OutputFolder.open(self.out)
        shards = folder.shards()
        ledgers = folder.read_footers(map(names.samples, shards))
        done = np.ones(len(shards), bool)
        for family in self.families:
            written = folder.read_footers(
                names.scores(family.name, family.revision, shard) for shard in shards
            )
            pairs = zip(written, ledgers, strict=True)
            done &= [follows_ledger(footer, ledger) for footer, ledger in pairs]
        return [
            Element(
                shard,
                shard,
                int(ledger.get(footers.ROWS, 0)) or 1,
                ledger.get(footers.SOURCE_URI, ""),
            )
            for shard, ledger, is_done in zip(shards, ledgers, done, strict=True)
            if not is_done
        ]

    def open(self) -> Worker:
        """Make the scorers; models and indices are loaded when a shard needs them."""
        return _ScoreWorker(self)

    def finish(self, total: Report) -> Report:
        """Nothing is left to do."""
        return total


@dataclass(slots=True)
class _Loaded:
    """A scorer, and what it is handed, once it is needed."""

    spec: ScorerSpec
    scorer: Scorer
    loaded: Any = None
    is_loaded: bool = False


@dataclass(frozen=True, slots=True)
class _FamilyWork:
    """One family of one shard: columns carried over by scorer, and scorers to compute."""

    family: FamilySpec
    carried: Mapping[str, _Columns] = field(default_factory=dict)
    missing: tuple[_Loaded, ...] = ()


@dataclass(frozen=True, slots=True)
class _ReadShard:
    """A shard that was read: its ledger's footer, families, scorers to compute, pairs and uids."""

    shard: str
    start: float
    ledger: Footer
    work: Sequence[_FamilyWork]
    missing: Sequence[_Loaded]
    batch: PairBatch | None
    lists: Mapping[str, PairBatch]
    uids: pa.Array


class _ScoreWorker:
    def __init__(self, stage: ScoreStage) -> None:
        self._stage = stage
        self._folder = OutputFolder.open(stage.out)
        self._pairs = StoredPairs(self._folder, stage.basis.embeddings, stage.basis.model.dim)
        self._scorers = {
            spec.name: _Loaded(spec, spec.make())
            for family in stage.families
            for spec in family.scorers
        }
        self._prototypes: dict[PromptSet, np.ndarray] = {}
        self._encoder: Encoder | None = None

    def work(self, elements: Sequence[str]) -> Iterator[Report]:
        control = self._stage.control
        ahead = 1 if self._folder.files.is_remote and not self._encodes() else 0
        shards = unless_stopped(elements, control)
        with ThreadPoolExecutor(1, "clipsieve-write") as writer:
            # As in the embed stage one shard may be on its way to the store, and no more.
            writing: Future[ShardRecord] | None = None
            for read in read_ahead(self._read_shard, shards, ahead):
                with control.timing("encode"):
                    columns = self._compute(read)
                if writing is not None:
                    yield self._reported(writing.result())
                writing = writer.submit(self._write_shard, read, columns)
                if not ahead:
                    yield self._reported(writing.result())
                    writing = None
            if writing is not None:
                yield self._reported(writing.result())

    def _encodes(self) -> bool:
        """Whether shards need the model when they are read, which is for one thread."""
        return any(
            (each.scorer.prompt and Input.TEXT_EMBEDDING in each.scorer.needs)
            or Input.REFERENCE_EMBEDDINGS in each.scorer.needs
            for each in self._scorers.values()
        )

    def _reported(self, record: ShardRecord) -> Report:
        self._stage.control.add(rows=record.rows, shards=1)
        self._stage.control.end(record.shard)
        return Report((record.shard,), rows=RowCounts(shards=1))

    def _read_shard(self, shard: str) -> _ReadShard:
        start = time.time()
        control = self._stage.control
        control.begin(shard)
        families = self._stage.families
        with control.timing("read"):
            # Concurrently: in an object store each is a request.
            ledger, *written = self._folder.read_footers(
                [
                    names.samples(shard),
                    *(names.scores(each.name, each.revision, shard) for each in families),
                ]
            )
            work = [
                self._family_work(shard, family, ledger)
                for family, footer in zip(families, written, strict=True)
                if not follows_ledger(footer, ledger)  # it may lack another one only
            ]
            missing = [each for family in work for each in family.missing]
            scorers = [each.scorer for each in missing]
            batch = self._read(shard, scorers, ledger) if missing else None
            lists = self._read_lists(batch, missing) if batch is not None else {}
            # The batch's uids are those of the ledger: that was checked when it was read.
            uids = self._uids(shard) if batch is None else batch.uid
        return _ReadShard(shard, start, ledger, work, missing, batch, lists, uids)

    def _write_shard(self, read: _ReadShard, columns: Mapping[str, _Columns]) -> ShardRecord:
        """Write the files of a shard's families, and its record."""
        with self._stage.control.timing("write"):
            files = self._folder.write_tables(
                self._table(read, family, columns) for family in read.work
            )
        ended = time.time()
        place = self._folder.files.url(names.samples(read.shard))
        record = ShardRecord(
            run_id=self._stage.run_id,
            shard=read.shard,
            uri=read.ledger.get(footers.SOURCE_URI, ""),
            state=SCORED,
            rows=footer_rows(read.ledger, footers.ROWS, place),
            seconds=round(ended - read.start, 3),
            ended_at=ended,
            files=files,
        )
        add_record(self._folder, record)
        return record

    def _family_work(self, shard: str, family: FamilySpec, ledger: Footer) -> _FamilyWork:
        """Return what can be carried over from the family's file before, and what cannot."""
        carried: dict[str, _Columns] = {}
        if family.previous is not None and family.previous != family.revision:
            name = names.scores(family.name, family.previous, shard)
            if follows_ledger(self._folder.read_footer(name), ledger):
                carried = _columns_by_scorer(self._folder.read_table(name), family)
        missing = tuple(
            self._scorers[spec.name] for spec in family.scorers if spec.name not in carried
        )
        return _FamilyWork(family, carried, missing)

    def _read(self, shard: str, scorers: Sequence[Scorer], ledger: Footer) -> PairBatch:
        """Return all pairs of a shard with everything that the scorers ask for."""
        needs = frozenset(need for scorer in scorers for need in scorer.needs)
        prompts = sorted({s.prompt for s in scorers if Input.TEXT_EMBEDDING in s.needs} - {""})
        with_captions = needs | {Input.CAPTION} if prompts else needs
        batch = self._pairs.read(shard, with_captions)
        texts = dict(batch.texts)
        for prompt in prompts:
            texts[prompt] = _encode_captions(
                self._text_encoder(), prompt, batch.captions, texts[""].valid
            )
        references: dict[str, References] = {}
        if Input.REFERENCE_EMBEDDINGS in needs:
            column = ledger.get(footers.REFERENCES, self._stage.references_col)
            columns = [column, f"source_{column}"] if column else []
            samples = self._pairs.read_samples(shard, batch.uid, columns)
            lists = [reference_captions(value) for value in source_values(samples, column)]
            for scorer in scorers:
                if Input.REFERENCE_EMBEDDINGS in scorer.needs:
                    encode = self._text_encoder().with_prompt(scorer.prompt)
                    references[scorer.prompt] = References.encode(encode, lists)
        unread = [each for each in prompt_sets(scorers) if each not in self._prototypes]
        self._prototypes |= load_prototypes(self._folder, self._stage.basis.embeddings, unread)
        return replace(batch, texts=texts, references=references, prototypes=self._prototypes)

    def _read_lists(self, batch: PairBatch, missing: Sequence[_Loaded]) -> dict[str, PairBatch]:
        """Return the pairs of a shard with the neighbour lists of each scorer that reads some.

        Two scorers that ask for equal lists have different ones if they learnt of different shards.
        """
        read: dict[tuple[tuple[str, str], ...], PairBatch] = {}
        batches: dict[str, PairBatch] = {}
        for each in missing:
            sets = each.spec.neighbours
            if Input.NEIGHBOURS in each.scorer.needs:
                key = tuple(sorted(sets.items()))
                if key not in read:
                    specs = each.scorer.neighbour_lists()
                    read[key] = read_shard_lists(self._folder, batch, specs, sets)
                batches[each.scorer.name] = read[key]
        return batches

    def _compute(self, read: _ReadShard) -> dict[str, _Columns]:
        """Return the columns of scorers, by their name."""
        batch, lists, missing = read.batch, read.lists, read.missing
        if batch is None:
            return {}
        parts: dict[str, list[Mapping[str, np.ndarray]]] = {}
        for rows in dict.fromkeys(each.scorer.batch_rows for each in missing):
            group = [each for each in missing if each.scorer.batch_rows == rows]
            loaded = {each.scorer.name: self._load(each) for each in group}

            def score(
                part: PairBatch,
                group: Sequence[_Loaded] = group,
                loaded: Mapping[str, Any] = loaded,
            ) -> dict[str, Mapping[str, np.ndarray]]:
                scores = {}
                for each in group:
                    name = each.scorer.name
                    pairs = with_lists(part, lists.get(name, batch))
                    with using_fit(self._folder, each.spec):
                        scores[name] = each.scorer.score(pairs, loaded[name])
                    check_scores(each.scorer, scores[name], len(part))
                    self._stage.control.step()
                return scores

            if rows is None:
                scored = [score(part) for part in split_batch(batch)]
            else:
                scored = map_parts(score, split_batch(batch, rows))
            for each in group:
                parts[each.scorer.name] = [scores[each.scorer.name] for scores in scored]
        columns: dict[str, _Columns] = {}
        for each in missing:
            scores = {
                name: np.concatenate([part[name] for part in parts[each.scorer.name]])
                for name in each.scorer.columns.names
            }
            columns[each.scorer.name] = score_columns(
                each.scorer, each.spec.revision, scores, len(batch)
            )
        return columns

    def _load(self, each: _Loaded) -> Any:
        if not each.is_loaded:
            stage = self._stage
            context = scorer_context(
                self._folder, stage.basis, each.scorer, stage.rows, stage.device
            )
            known = read_known(self._folder, each.spec, None)
            with using_fit(self._folder, each.spec):
                each.loaded = each.scorer.load(known, context)
            each.is_loaded = True
        return each.loaded

    def _table(
        self, read: _ReadShard, work: _FamilyWork, computed: Mapping[str, _Columns]
    ) -> tuple[str, pa.Table, Footer]:
        """Return name, rows and footer of the file of a family."""
        family = work.family
        by_scorer = {**computed, **work.carried}
        columns = [column for spec in family.scorers for column in by_scorer[spec.name]]
        scorers = [self._scorers[spec.name].scorer for spec in family.scorers]
        revisions = {spec.name: spec.revision for spec in family.scorers}
        footer = {
            **read.ledger,
            footers.LEDGER: read.ledger[footers.REVISION],
            footers.FAMILY: family.name,
            footers.REVISION: family.revision,
            footers.SCORERS: scorers_footer(scorers, revisions),
            footers.VERSIONS: canonical_json(installed()),
            footers.RUN_ID: self._stage.run_id,
        }
        name = names.scores(family.name, family.revision, read.shard)
        return name, scores_table(read.uids, columns), footer

    def _uids(self, shard: str) -> pa.Array:
        return self._folder.read_table(names.samples(shard), ["uid"])["uid"].combine_chunks()

    def _text_encoder(self) -> "Encoder":
        if self._encoder is None:
            from clipsieve.clip.encode import Encoder
            from clipsieve.clip.open import open_same_model

            model = open_same_model(self._stage.basis.model, self._stage.device)
            self._encoder = Encoder(model, step=self._stage.control.step)
        return self._encoder


def follows_ledger(footer: Footer, ledger: Footer) -> bool:
    """Whether a family's file was made for the ledger's present rows and vectors."""
    if not footer or not ledger:
        return False
    same = all(footer.get(key) == ledger.get(key) for key in _LEDGER_VALUES)
    # A shard embedded again with other limits may have other rows with a vector.
    return same and footer.get(footers.LEDGER) == ledger[footers.REVISION]


def _columns_by_scorer(table: pa.Table, family: FamilySpec) -> dict[str, _Columns]:
    """Return stored columns by scorer, of those scorers whose revision is that of the family."""
    revisions = {spec.name: spec.revision for spec in family.scorers}
    columns: dict[str, _Columns] = {}
    for field_, values in zip(table.schema, table.columns, strict=True):
        made = made_by(field_)
        if made is not None and revisions.get(made[0]) == made[1]:
            columns.setdefault(made[0], []).append((field_, values.combine_chunks()))
    return columns


def _encode_captions(
    encoder: "Encoder", prompt: str, captions: Sequence[str | None], valid: np.ndarray
) -> Embedded:
    """Encode captions with a prompt, each distinct one once, where the caption was valid."""
    usable = {c for c, v in zip(captions, valid, strict=True) if v and c is not None}
    numbers = {caption: at for at, caption in enumerate(sorted(usable))}
    features = encoder.with_prompt(prompt)(list(numbers))
    rows = [numbers.get(c, -1) if c is not None else -1 for c in captions]
    return Embedded.gather(features, np.array(rows, dtype=np.int64))
