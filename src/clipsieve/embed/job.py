"""The embed stage: shards in, ledger, embeddings and CLIPScore out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from clipsieve import versions
from clipsieve.clip.identity import ModelIdentity
from clipsieve.control import Control
from clipsieve.cores import cores
from clipsieve.embed.commit import Revisions, ShardWriter
from clipsieve.formats.base import SourceConfig, WorkItem
from clipsieve.schemas import footers
from clipsieve.stage import Element, Report, Worker
from clipsieve.statistics.counts import RowCounts
from clipsieve.store.canonical import canonical_json
from clipsieve.store.folder import OutputFolder
from clipsieve.store.records import FAILED


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes over which an image is `image_too_large`: encoded bytes, pixels a side, pixels."""

    bytes: int
    side: int
    pixels: int


@dataclass(frozen=True, slots=True)
class EmbedStage:
    """Embeds work items; an element is an item as JSON.

    Attributes:
      out: the output folder, absolute.
      run_id: for footers and records.
      device: `auto`, `cpu`, `cuda` or `cuda:N`.
      control: stop and progress.
      model: the model that was planned with; a worker that loads another one refuses.
      source: how to read.
      limits: on images.
      batch_size: images a forward pass; None is the device's default.
      threads: decoding threads; None is one for each core that this process may use.
      reprocess: write every item again, except what this run itself has written.
      leave_out: columns of the source that are not carried.
    """

    out: str
    run_id: str
    device: str
    control: Control
    model: ModelIdentity
    source: SourceConfig
    limits: Limits
    batch_size: int | None = None
    threads: int | None = None
    reprocess: bool = False
    leave_out: tuple[str, ...] = ()
    name: str = field(default="embed", init=False)
    #: Whether elements are read from the sources of the dataset, not from the output folder.
    reads_sources: bool = field(default=True, init=False)

    def elements(self, items: Sequence[WorkItem]) -> list[Element]:
        """Return an element for each item."""
        return [
            Element(item.shard, item.to_json(), max(item.fingerprint.size, 1), item.uri)
            for item in items
        ]

    def revisions(self) -> Revisions:
        """Return what the columns mean."""
        return Revisions.from_settings(self.model, self.reading())

    def reading(self) -> dict[str, Any]:
        """Return what decides a ledger row besides the source: roles of columns, and limits."""
        return {
            "image": self.source.image,
            "caption": self.source.caption,
            "uid": self.source.uid,
            "references": self.source.references,
            "limits": [self.limits.bytes, self.limits.side, self.limits.pixels],
            "max_caption_bytes": self.source.max_caption_bytes,
            "leave_out": sorted(set(self.leave_out)),
        }

    def writer(self, device: str = "", logit_scale: float = 1.0) -> ShardWriter:
        """Return the writer of this run's files; device and scale are recorded in them."""
        provenance = {
            footers.LAYOUT: footers.LAYOUT_VERSION,
            footers.MODEL: canonical_json(self.model.identity_key()),
            footers.VERSIONS: canonical_json(versions.installed()) if device else "",
            footers.DEVICE: device,
            footers.RUN_ID: self.run_id,
        }
        if self.source.references is not None:
            provenance[footers.REFERENCES] = self.source.references
        folder = OutputFolder.open(self.out)
        return ShardWriter(folder, self.model, self.revisions(), provenance, logit_scale)

    def open(self) -> Worker:
        """Load the model and make everything ready.

        Raises:
          UsageError: if the weights here are not those that the run was planned with.
        """
        return _EmbedWorker(self)

    def finish(self, total: Report) -> Report:
        """Nothing is left to do."""
        return total


class _EmbedWorker:
    def __init__(self, stage: EmbedStage) -> None:
        from clipsieve.clip.decode import ImageLimits
        from clipsieve.clip.encode import Encoder
        from clipsieve.clip.model import logit_scale
        from clipsieve.clip.open import open_same_model
        from clipsieve.embed.embedder import Embedder

        model = open_same_model(stage.model, stage.device)
        limits = stage.limits
        self._embedder = Embedder(
            encoder=Encoder(model, stage.batch_size, stage.control.step),
            writer=stage.writer(str(model.device), logit_scale(model)),
            source=stage.source,
            limits=ImageLimits(limits.bytes, limits.side, limits.pixels),
            run_id=stage.run_id,
            control=stage.control,
            reprocess=stage.reprocess,
            threads=stage.threads or cores(),
        )

    def work(self, elements: Sequence[str]) -> Iterator[Report]:
        items = [WorkItem.from_json(text) for text in elements]
        for record in self._embedder.embed(items):
            rows = RowCounts(dict(record.states), shards=int(record.state != FAILED))
            yield Report((record.shard,), rows=rows)
