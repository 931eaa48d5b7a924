"""A run's embedding work as one value that travels: to a worker process, or to a cluster."""

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clipsieve import versions
from clipsieve.clip.choose import load_fastest
from clipsieve.clip.decode import ImageLimits
from clipsieve.clip.device import resolve_device
from clipsieve.clip.encode import Encoder
from clipsieve.clip.model import ClipModel, ModelIdentity, load_model
from clipsieve.config import RunConfig
from clipsieve.embed.commit import Committer, Revisions
from clipsieve.embed.embedder import Embedder
from clipsieve.errors import UsageError
from clipsieve.formats.base import SourceConfig
from clipsieve.schemas import footers
from clipsieve.scorers.registry import scorers_named
from clipsieve.store.canonical import canonical_json
from clipsieve.store.layout import Layout

_lock = threading.Lock()
_held: dict[tuple[str, str | None, str, str], ClipModel] = {}


def open_model(model: str, pretrained: str | None, device: str, dtype: str) -> ClipModel:
    """The model, loaded once in a process however often it is asked for.

    Only the last one opened is kept.

    Args:
      model: see `clipsieve.clip.model.ModelIdentity`.
      pretrained: likewise.
      device: `auto`, `cpu`, `cuda` or `cuda:N`.
      dtype: `auto` measures; the model it picks is then also held under that format's name.
    """
    with _lock:
        key = (model, pretrained, device, dtype)
        if key not in _held:
            found = resolve_device(device)
            if dtype == "auto":
                loaded = load_fastest(model, pretrained, found.device)
            else:
                loaded = load_model(model, pretrained, found.device, dtype)
            _held.clear()
            _held[key] = _held[(model, pretrained, device, loaded.identity.dtype)] = loaded
        return _held[key]


@dataclass(frozen=True, slots=True)
class EmbedJob:
    """What a process needs to embed any item of a run.

    Attributes:
      config: settings, with `dtype` and `run_id` decided and paths absolute.
      source: how to read.
      identity: the model that the driver planned with; a worker that loads another one refuses.
      scorers: names of those of the run's scorers that are computed with the embeddings.
    """

    config: RunConfig
    source: SourceConfig
    identity: ModelIdentity
    scorers: tuple[str, ...]

    def reading(self) -> dict[str, Any]:
        """What decides a ledger row, besides the source: roles of columns, and limits."""
        return {
            "image": self.source.image,
            "caption": self.source.caption,
            "uid": self.source.uid,
            "references": self.source.references,
            "limits": [
                self.config.max_image_bytes,
                self.config.max_image_side,
                self.config.max_image_pixels,
            ],
        }

    def committer(self, device: str) -> Committer:
        """The writer of this run's files; `device` is recorded in them."""
        scorers = scorers_named(self.scorers, self.config.scorer_options)
        provenance = {
            footers.LAYOUT: footers.LAYOUT_VERSION,
            footers.MODEL: canonical_json(self.identity.meaning()),
            footers.VERSIONS: canonical_json(versions.installed()),
            footers.DEVICE: device,
            footers.RUN_ID: self.config.run_id or "",
        }
        return Committer(
            layout=Layout.at(self.config.out),
            slug=self.identity.slug,
            revisions=Revisions.of(self.identity.meaning(), self.reading(), scorers),
            scorers=scorers,
            provenance=provenance,
        )

    def open(self) -> Embedder:
        """Load the model and make everything ready.

        Raises:
          UsageError: if the weights here are not those that the run was planned with.
        """
        config = self.config
        model = open_model(config.model, config.pretrained, config.device, config.dtype)
        if model.identity.meaning() != self.identity.meaning():
            raise UsageError(
                f"model {config.model!r} on this worker has weights "
                f"{model.identity.weights_sha256[:12]}, the run was planned with "
                f"{self.identity.weights_sha256[:12]}; install the same weights on every worker"
            )
        return Embedder(
            encoder=Encoder(model, config.batch_size),
            committer=self.committer(str(model.device)),
            source=self.source,
            limits=ImageLimits(
                config.max_image_bytes, config.max_image_side, config.max_image_pixels
            ),
            run_id=config.run_id or "",
            reprocess=config.reprocess,
            threads=config.threads or os.cpu_count() or 1,
        )

    def to_json(self) -> str:
        """The job as JSON."""
        identity = {name: getattr(self.identity, name) for name in ModelIdentity.__slots__}
        return json.dumps(
            {
                "config": self.config.to_json(),
                "source": self.source.to_json(),
                "identity": identity,
                "scorers": list(self.scorers),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "EmbedJob":
        """The job that `to_json` gave."""
        value: Mapping[str, Any] = json.loads(text)
        return cls(
            RunConfig.from_json(value["config"]),
            SourceConfig.from_json(value["source"]),
            ModelIdentity(**value["identity"]),
            tuple(value["scorers"]),
        )
