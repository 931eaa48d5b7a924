"""Output folders written with the library itself, from made-up embeddings."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from clipsieve.embed.commit import Committer, Revisions
from clipsieve.embed.shard import EmbeddedShard
from clipsieve.formats.base import InputFormat, SourceFingerprint, WorkItem
from clipsieve.schemas import footers
from clipsieve.schemas.states import RowState
from clipsieve.scorers.base import Embedded, PairBatch
from clipsieve.scorers.registry import scorers_named
from clipsieve.sql.views import write_sql
from clipsieve.store import dataset as datasets
from clipsieve.store.compact import plan_build, write_part
from clipsieve.store.dataset import Dataset
from clipsieve.store.layout import Layout
from clipsieve.store.runs import DONE, ShardRecord, append_record, write_manifest

DIM = 8
MODEL = {"model": "tiny", "pretrained": None, "dim": DIM, "dtype": "float32"}
RUN_ID = "20260101T000000Z-abcdef"


def embedded(rng, rows, missing=()):
    valid = np.ones(rows, bool)
    valid[list(missing)] = False
    vectors = rng.normal(size=(rows, DIM)).astype(np.float32)
    vectors[~valid] = 0
    return Embedded(vectors, valid)


def item(shard, rows, start=0, version="1"):
    fingerprint = SourceFingerprint(rows * 100, version, rows)
    return WorkItem(shard, f"/in/{shard}.parquet", InputFormat.PARQUET, start, None, fingerprint)


def shard_of(name, rows, seed=0, uids=None, carried=None, no_image=(), no_text=(), version="1"):
    """One encoded shard; rows without an image or a caption have the states that go with it."""
    rng = np.random.default_rng(seed)
    image, text = embedded(rng, rows, no_image), embedded(rng, rows, no_text)
    states = [
        RowState.MISSING_IMAGE
        if row in no_image
        else RowState.EMPTY_CAPTION
        if row in no_text
        else RowState.OK
        for row in range(rows)
    ]
    captions = [None if row in no_text else f"caption {name} {row}" for row in range(rows)]
    uids = pa.array([f"{name}-{row}" for row in range(rows)]) if uids is None else uids
    sizes = np.where(image.valid, 64, 0).astype(np.int32)
    return EmbeddedShard(
        item=item(name, rows, version=version),
        pairs=PairBatch(uids, image, {"": text}, {}, captions),
        states=states,
        errors=[None if state is RowState.OK else f"row is {state}" for state in states],
        widths=sizes,
        heights=sizes,
        carried=carried if carried is not None else pa.table({"n": pa.array(range(rows))}),
    )


def committer(root, scorers: Sequence[str] = ("clip",)):
    chosen = scorers_named(scorers)
    return Committer(
        layout=Layout.at(root),
        slug="tiny",
        revisions=Revisions.of(MODEL, {}, chosen),
        scorers=chosen,
        provenance={footers.LAYOUT: footers.LAYOUT_VERSION, footers.RUN_ID: RUN_ID},
    )


def dataset_of(writer):
    return Dataset(
        model=MODEL,
        embeddings={"model": writer.slug, "rev": writer.revisions.embeddings},
        families=dict(writer.revisions.families),
    )


def compacted(layout, dataset, part_rows=1_000_000):
    build = plan_build(layout, dataset.families, part_rows)
    for part in build.parts:
        write_part(layout, build, part)
    return build, dataclasses.replace(dataset, wide={"build": build.id, "rows": build.rows})


def make_folder(root, shards, wide=True):
    """A finished output folder with `shards`; its layout and dataset."""
    writer = committer(root)
    layout, dataset = writer.layout, dataset_of(writer)
    for shard in shards:
        writer.commit(shard)
        append_record(
            layout,
            ShardRecord(
                RUN_ID,
                shard.item.shard,
                shard.item.uri,
                DONE,
                len(shard.pairs),
                shard.counts(),
                ended_at=1.0,
            ),
        )
    if wide:
        _, dataset = compacted(layout, dataset)
    datasets.save(layout, dataset)
    write_manifest(layout, RUN_ID, {"status": "ok"})
    write_sql(layout, dataset)
    return layout, dataset
