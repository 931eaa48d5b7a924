"""Output folders of made-up embeddings, the engine that runs stages over them, toy scorers."""

from dataclasses import dataclass, field
from functools import reduce
from hashlib import sha256
from operator import add
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.clip.identity import ModelIdentity
from clipsieve.control import Control
from clipsieve.embed.commit import Revisions, ShardWriter, embedded_family, embeddings_entry
from clipsieve.embed.shard import EmbeddedShard
from clipsieve.formats.base import InputFormat, SourceFingerprint, WorkItem
from clipsieve.job.reporter import Reporter
from clipsieve.job.scoring import Scored, Scoring, ScoringSettings
from clipsieve.schemas import footers
from clipsieve.schemas.states import RowState
from clipsieve.scorers.base import Embedded, PairBatch
from clipsieve.scoring.learn import Basis
from clipsieve.stage import Report
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import Manifest
from clipsieve.store.members import read_members
from clipsieve.store.pairs import StoredPairs

DIM = 8
LOGIT_SCALE = 50.0
MODEL = ModelIdentity("toy", None, "0" * 64, False, DIM, 20, {"size": [8, 8]}, "float32")


def made_up(rng, rows, dim, missing):
    valid = ~np.isin(np.arange(rows), list(missing))
    vectors = rng.normal(size=(rows, dim)).astype(np.float32) * valid[:, None]
    return Embedded(vectors, valid)


def make_shard(
    name, rows, seed=0, uids=None, no_image=(), no_text=(), version="1", carried=None, dim=DIM
):
    """One encoded shard; rows without an image or a caption have the states that go with it."""
    rng = np.random.default_rng(seed)
    image, text = made_up(rng, rows, dim, no_image), made_up(rng, rows, dim, no_text)
    states = [
        RowState.OK if i and t else RowState.MISSING_IMAGE if not i else RowState.EMPTY_CAPTION
        for i, t in zip(image.valid, text.valid, strict=True)
    ]
    captions = [f"caption {name} {row}" if ok else None for row, ok in enumerate(text.valid)]
    uids = [f"{name}-{row}" for row in range(rows)] if uids is None else uids
    fingerprint = SourceFingerprint(rows * 100, version, rows)
    sizes = np.where(image.valid, 64, 0).astype(np.int32)
    return EmbeddedShard(
        item=WorkItem(name, f"/in/{name}.parquet", InputFormat.PARQUET, 0, None, fingerprint),
        pairs=PairBatch(pa.array(uids, pa.string()), image, {"": text}, captions=captions),
        states=states,
        errors=[None if state is RowState.OK else f"row is {state}" for state in states],
        widths=sizes,
        heights=sizes,
        digests=[
            sha256(f"{name} {row}".encode()).digest() if sizes[row] else None for row in range(rows)
        ],
        phashes=np.ma.masked_array(rng.integers(1 << 64, size=rows, dtype=np.uint64), sizes == 0),
        carried=carried if carried is not None else pa.table({"n": pa.array(range(rows))}),
    )


def writer_of(root, model=MODEL):
    return ShardWriter(
        OutputFolder.open(root),
        model,
        Revisions.from_settings(model, {}),
        {footers.LAYOUT: footers.LAYOUT_VERSION, footers.RUN_ID: "20260101T000000Z-abcdef"},
        LOGIT_SCALE,
    )


def make_folder(root, shards, model=MODEL):
    """Write an output folder with `shards`."""
    writer = writer_of(root, model)
    for shard in shards:
        writer.commit(shard)
    entry = embeddings_entry(model)
    families = {"clip": embedded_family(entry.revision)}
    writer.folder.save_manifest(Manifest(model=model, embeddings=entry, families=families))
    return writer.folder


#: Rows by shard; some lack an image, a caption, or both; some have equal vectors and equal uids.
SHARDS = {"a": 30, "b": 1, "c": 45, "d": 24}


def varied_shards(shards=None):
    return [
        make_shard(
            name,
            rows,
            seed=7 if name in "cd" else number,  # so that "d" repeats vectors of "c"
            uids=[f"{name}-{row // 2}" for row in range(rows)],
            no_image=[row for row in (1, 5) if row < rows],
            no_text=[row for row in (0, 5) if row < rows],
        )
        for number, (name, rows) in enumerate((shards or SHARDS).items())
    ]


def pairs_of(folder):
    """What reads the pairs of a folder."""
    manifest = folder.require_manifest()
    return StoredPairs(folder, manifest.embeddings, manifest.model.dim)


def basis_of(folder):
    manifest = folder.require_manifest()
    return Basis(manifest.model, manifest.embeddings, LOGIT_SCALE)


@dataclass
class InProcess:
    """Runs stages here: opens each, works over the elements, adds up, finishes.

    Attributes:
      ran: name of each stage that ran, in order, with how many elements.
      stop_in: stop the run in this stage, counted from 0, ...
      stop_after: ... once it has done this many elements.
    """

    ran: list = field(default_factory=list)
    stop_in: int | None = None
    stop_after: int = 0
    is_local: bool = True

    def run(self, stage: Any, elements: Any, here: bool = False) -> Report:
        """Run a stage."""
        stops = len(self.ran) == self.stop_in
        self.ran.append((stage.name, len(elements)))
        worker = stage.open()
        reports: list[Report] = []
        for element in elements:
            if stops and len(reports) == self.stop_after:
                stage.control.stop("test")
            reports += worker.work([element.text])
        return stage.finish(reduce(add, reports, Report()))


class Silent(Reporter):
    """Says nothing."""

    def report(self, event: str, text: str, **fields: Any) -> None:
        """Nothing."""


def score_folder(
    folder, scorers, options=None, engine=None, refit=False, control=None, learn_on=None, asked=None
) -> Scored:
    """Bring scores up to date as `clipsieve score` does, and save the manifest if all is done.

    `asked` are those of the scorers that the user named; None is all of them.
    """
    control = control or Control("run", folder.root)
    settings = ScoringSettings(
        tuple(scorers),
        options or {},
        "cpu",
        "run",
        refit,
        learn_on=learn_on,
        asked=tuple(scorers if asked is None else asked),
    )
    manifest = folder.require_manifest()
    engine = engine or InProcess()
    scored = Scoring(folder, manifest, settings, engine, Silent(), control).run()
    if not scored.left:
        folder.save_manifest(scored.manifest)
    return scored


def read_scores(folder, family, shard):
    """The active file of a family for a shard."""
    revision = folder.require_manifest().families[family].revision
    return folder.read_table(f"scores/{family}/rev={revision}/{shard}.parquet")


def members_of(folder):
    return read_members(folder)
