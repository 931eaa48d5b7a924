"""Scores from what is stored: embeddings and captions, never a pixel.

A vector is read back as unit float16 and normalised in float64, so a cosine differs from the one
`embed` computes by at most about 1e-3; revisions tell the two apart.  A prompt or references that
were not encoded before are encoded now, which needs the model's text tower only.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.clip.encode import Encoder
from clipsieve.clip.model import ModelIdentity
from clipsieve.embed.commit import family_revision, scores_table
from clipsieve.embed.job import open_model
from clipsieve.embed.shard import Prompts
from clipsieve.errors import UsageError
from clipsieve.fits.fitted import FittedScorer
from clipsieve.fits.store import FitFolder
from clipsieve.formats.columns import reference_captions
from clipsieve.progress import METER, STOP
from clipsieve.schemas import footers
from clipsieve.scorers.base import Embedded, Input, PairBatch, References, Scorer
from clipsieve.scorers.registry import scorers_named
from clipsieve.store.canonical import canonical_json
from clipsieve.store.layout import Layout
from clipsieve.store.parquet import read_footer, write_table
from clipsieve.store.runs import SCORED, ShardRecord, append_record
from clipsieve.stored import StoredPairs
from clipsieve.versions import installed


@dataclass(frozen=True, slots=True)
class ScoreJob:
    """What a process needs to score any shard from storage.

    Attributes:
      out: the output folder, absolute.
      scorers: names of scorers.
      options: their options, by name.
      fits: id of the fit of each family that is fitted.
      model: identity of the model behind the embeddings, as in `dataset.json`.
      embeddings: slug and revision of the embeddings.
      references_col: column of `samples/` with reference captions, or None.
      device: for texts that must be encoded.
      run_id: for footers and records.
    """

    out: str
    scorers: tuple[str, ...]
    options: Mapping[str, Mapping[str, Any]]
    fits: Mapping[str, str]
    model: Mapping[str, Any]
    embeddings: Mapping[str, str]
    references_col: str | None
    device: str
    run_id: str

    def revisions(self) -> dict[str, str]:
        """Revision of each family this job writes."""
        return {
            scorer.family: family_revision(
                scorer, self.embeddings["rev"], "stored", self.fits.get(scorer.family)
            )
            for scorer in scorers_named(self.scorers, self.options)
        }

    @property
    def pairs(self) -> StoredPairs:
        """The stored pairs of the folder."""
        return StoredPairs(Layout.at(self.out), self.embeddings, self.model["dim"])

    def todo(self) -> list[str]:
        """Shards of the ledger that lack a family of this job, or have it for other rows."""
        layout, revisions = Layout.at(self.out), self.revisions()
        return [
            shard for shard in self.pairs.shards() if not all(_is_done(layout, shard, revisions))
        ]

    def score(self, shards: Iterable[str]) -> Iterator[ShardRecord]:
        """Score each shard and write its files; stops between shards when `STOP` is set.

        Raises:
          LedgerError: if a shard's embeddings are missing or out of line with its ledger.
          UsageError: if texts must be encoded and the model here has other weights.
        """
        layout = Layout.at(self.out)
        scorers, revisions = scorers_named(self.scorers, self.options), self.revisions()
        encoder = self._encoder(scorers)
        fitted = {
            family: FittedScorer(
                scorer, FitFolder.of(layout, family, self.fits[family]), self.pairs, self.device
            )
            for scorer in scorers
            if (family := scorer.family) in self.fits
        }
        for shard in shards:
            if STOP:
                return
            start = time.time()
            record = self._score_one(layout, shard, scorers, revisions, fitted, encoder, start)
            append_record(layout, record)
            METER.add(rows=record.rows, shards=1)
            yield record

    def _encoder(self, scorers: Sequence[Scorer]) -> Encoder | None:
        """The text encoder, or None if every text needed is stored."""
        prompts = Prompts.of(scorers)
        if prompts.captions == ("",) and not prompts.references:
            return None
        identity = ModelIdentity(**self.model)
        model = open_model(identity.model, identity.pretrained, self.device, identity.dtype)
        if model.identity.meaning() != identity.meaning():
            raise UsageError(
                f"model {identity.model!r} here has other weights or preprocessing than the one "
                f"that made {self.out}; install the weights {identity.weights_sha256[:12]}"
            )
        return Encoder(model)

    def _score_one(
        self,
        layout: Layout,
        shard: str,
        scorers: Sequence[Scorer],
        revisions: Mapping[str, str],
        fitted: Mapping[str, FittedScorer],
        encoder: Encoder | None,
        start: float,
    ) -> ShardRecord:
        ledger = read_footer(layout.samples(shard))
        with METER.timing("read"):
            pairs = self._pairs(shard, scorers, encoder)
        for scorer in scorers:
            with METER.timing("encode"):
                fit = fitted.get(scorer.family)
                batch = fit.with_neighbours(pairs) if fit else pairs
                scores = scorer.score(batch, fit.fitted if fit else {})
                table = scores_table(pairs.uid, scorer, scores)
            footer = {
                **ledger,
                footers.LEDGER: ledger[footers.REVISION],
                footers.FAMILY: scorer.family,
                footers.REVISION: revisions[scorer.family],
                footers.PARAMETERS: canonical_json(dict(scorer.parameters())),
                footers.VERSIONS: canonical_json(installed()),
                footers.RUN_ID: self.run_id,
            }
            with METER.timing("write"):
                write_table(
                    layout.scores(scorer.family, revisions[scorer.family], shard), table, footer
                )
        ended = time.time()
        return ShardRecord(
            run_id=self.run_id,
            shard=shard,
            uri=ledger.get(footers.SOURCE_URI, ""),
            state=SCORED,
            rows=len(pairs),
            seconds=round(ended - start, 3),
            ended_at=ended,
        )

    def _pairs(self, shard: str, scorers: Sequence[Scorer], encoder: Encoder | None) -> PairBatch:
        """All pairs of a shard, with the texts that the scorers ask for."""
        with_text = any(Input.TEXT_EMBEDDING in scorer.needs for scorer in scorers)
        stored = self.pairs.read(shard, with_text)
        columns = ["caption", *([self.references_col] if self.references_col else [])]
        samples = self.pairs.read_samples(shard, stored.uid, columns)
        captions = samples["caption"].to_pylist()
        texts = dict(stored.texts)
        references: dict[str, References] = {}
        prompts = Prompts.of(scorers)
        if encoder is not None:
            for prompt in prompts.captions:
                if prompt:
                    texts[prompt] = _encoded(encoder, prompt, captions, texts[""].valid)
            for prompt in prompts.references:
                lists = [reference_captions(r) for r in _column(samples, self.references_col)]
                references[prompt] = References.encoded(encoder.with_prompt(prompt), lists)
        return replace(stored, texts=texts, references=references, captions=captions)


def _is_done(layout: Layout, shard: str, revisions: Mapping[str, str]) -> Iterator[bool]:
    """Of each family, whether its scores of a shard follow the ledger as it is now."""
    ledger = read_footer(layout.samples(shard))
    for family, revision in revisions.items():
        footer = read_footer(layout.scores(family, revision, shard))
        keys = (footers.UID_HASH, footers.SOURCE_FINGERPRINT, footers.STATES)
        same = all(footer.get(key) == ledger.get(key) for key in keys)
        # A shard embedded again with other limits may have other rows with a vector.
        yield bool(footer) and same and footer.get(footers.LEDGER) == ledger[footers.REVISION]


def _column(samples: pa.Table, name: str | None) -> list[Any]:
    """Values of a column; all NULL in a shard whose source does not have it."""
    if name in samples.column_names:
        values: list[Any] = samples[name].to_pylist()
        return values
    return [None] * samples.num_rows


def _encoded(
    encoder: Encoder, prompt: str, captions: Sequence[str | None], valid: np.ndarray
) -> Embedded:
    """Captions with a prompt, each distinct one encoded once, where the caption was valid."""
    usable = {c for c, v in zip(captions, valid, strict=True) if v and c is not None}
    numbers = {caption: at for at, caption in enumerate(sorted(usable))}
    features = encoder.with_prompt(prompt)(list(numbers))
    rows = [numbers.get(c, -1) if c is not None else -1 for c in captions]
    return Embedded.gather(features, np.array(rows, dtype=np.int64))
