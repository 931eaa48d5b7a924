"""Output folders of made-up rows with many duplicates."""

import dataclasses

import numpy as np
import pyarrow as pa

from clipsieve.scorers.base import Embedded
from tests.scoring.folders import DIM, make_shard

SHARDS = {"a": 40, "b": 0, "c": 25, "d": 61}
CAPTIONS = ["a cat", "a dog", "a cat ", "A cat", "", "  ", None]


def near_hashes(rng, count):
    """Perceptual hashes in chains, each within three bits of the one before."""
    values = [int(rng.integers(1 << 64, dtype=np.uint64))]
    while len(values) < count:
        value = values[-1]
        for bit in rng.choice(64, 3, replace=False):
            value ^= 1 << int(bit)
        values.append(value if rng.random() < 0.8 else int(rng.integers(1 << 64, dtype=np.uint64)))
    return values


def near_vectors(rng, count):
    """(count, DIM) vectors in clusters: neighbours within 0.9 to 1 of each other."""
    centres = rng.normal(size=(count // 4 + 1, DIM))
    noise = rng.normal(size=(count, DIM)) * rng.choice([0.0, 0.1, 0.25], (count, 1))
    return (centres[rng.integers(len(centres), size=count)] + noise).astype(np.float32)


def duplicated_shards(seed, shards=None, uids="text"):
    """Shards whose rows repeat bytes, captions, hashes and vectors, and some lack each."""
    rng = np.random.default_rng(seed)
    digests = [rng.bytes(32) for _ in range(30)]
    hashes = near_hashes(rng, 40)
    vectors, texts = near_vectors(rng, 50), rng.normal(size=(6, DIM)).astype(np.float32)
    made = []
    for name, rows in (SHARDS if shards is None else shards).items():
        no_image = [row for row in range(rows) if rng.random() < 0.1]
        captions = [CAPTIONS[i] for i in rng.integers(len(CAPTIONS), size=rows)]
        captions = [f"{name} {at}" if rng.random() < 0.2 else c for at, c in enumerate(captions)]
        no_text = [row for row, c in enumerate(captions) if c is None or not c.strip()]
        shard = make_shard(name, rows, 0, None, no_image, no_text)
        image, text = (
            Embedded(pool[rng.integers(len(pool), size=rows)] * side.valid[:, None], side.valid)
            for pool, side in (
                (vectors, shard.pairs.image),
                (texts, shard.pairs.texts[""]),
            )
        )
        numbers = rng.integers(0, 50, rows)
        made_uids = pa.array([f"u{n}" for n in numbers], pa.string())
        if uids == "int":
            made_uids = pa.array([None if n == 7 else int(n) - 25 for n in numbers], pa.int64())
        pairs = dataclasses.replace(
            shard.pairs, uid=made_uids, image=image, texts={"": text}, captions=captions
        )
        phashes = np.array([hashes[i] for i in rng.integers(40, size=rows)], np.uint64)
        made.append(
            dataclasses.replace(
                shard,
                pairs=pairs,
                digests=[
                    None if row in no_image and row % 2 else digests[rng.integers(30)]
                    for row in range(rows)
                ],
                phashes=np.ma.masked_array(phashes, shard.widths == 0),
            )
        )
    return made
