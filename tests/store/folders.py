"""Output folders written with the library itself, from made-up embeddings."""

import dataclasses
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa

from clipsieve.clip.identity import ModelIdentity
from clipsieve.embed.commit import Revisions, ShardWriter, embedded_family, embeddings_entry
from clipsieve.embed.shard import EmbeddedShard
from clipsieve.formats.base import InputFormat, SourceFingerprint, WorkItem
from clipsieve.schemas import footers
from clipsieve.schemas.states import RowState
from clipsieve.scorers.base import Embedded, PairBatch
from clipsieve.scorers.registry import EMBEDDED
from clipsieve.sql.views import write_sql
from clipsieve.store.compact import Build, plan_build, write_part
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import Manifest, WideEntry
from clipsieve.store.records import DONE, ShardRecord, add_record, write_run

DIM = 8
MODEL = ModelIdentity(
    model="tiny",
    pretrained=None,
    weights_sha256="0" * 64,
    quick_gelu=False,
    dim=DIM,
    context_length=16,
    preprocess={"size": 32},
    dtype="float32",
)
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
        digests=[
            sha256(f"{name} {row}".encode()).digest() if sizes[row] else None for row in range(rows)
        ],
        phashes=np.ma.masked_array(rng.integers(1 << 64, size=rows, dtype=np.uint64), sizes == 0),
        carried=carried if carried is not None else pa.table({"n": pa.array(range(rows))}),
    )


def shard_writer(root):
    return ShardWriter(
        folder=OutputFolder.open(root),
        model=MODEL,
        revisions=Revisions.from_settings(MODEL, {}),
        provenance={footers.LAYOUT: footers.LAYOUT_VERSION, footers.RUN_ID: RUN_ID},
    )


def path_of(folder, name):
    """Path of a file of a folder, by its name there."""
    return Path(folder.files.url(name))


def paths_of(writer, shard):
    """Path of every file of a shard, by family."""
    return {family: path_of(writer.folder, name) for family, name in writer.names(shard).items()}


def manifest_of(writer):
    """The manifest after a run of `writer`, before compaction."""
    entry = embeddings_entry(writer.model)
    families = {EMBEDDED: embedded_family(entry.revision)}
    return Manifest(model=writer.model, embeddings=entry, families=families)


def compacted(folder, manifest, part_rows=1_000_000) -> tuple[Build, Manifest]:
    build = plan_build(folder, manifest.revisions(), part_rows)
    for part in build.parts:
        write_part(folder, build, part)
    return build, dataclasses.replace(manifest, wide=WideEntry(build.id, build.rows))


def make_folder(root, shards, wide=True) -> tuple[OutputFolder, Manifest]:
    """A finished output folder with `shards`, and its manifest."""
    writer = shard_writer(root)
    folder, manifest = writer.folder, manifest_of(writer)
    for shard in shards:
        writer.commit(shard)
        record = ShardRecord(
            RUN_ID,
            shard.item.shard,
            shard.item.uri,
            DONE,
            len(shard.pairs),
            shard.counts(),
            ended_at=1.0,
        )
        add_record(folder, record)
    if wide:
        _, manifest = compacted(folder, manifest)
    folder.save_manifest(manifest)
    write_run(folder, RUN_ID, {"status": "ok"})
    write_sql(folder, manifest)
    return folder, manifest
