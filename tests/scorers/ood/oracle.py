"""Inputs and values of the methods' own code, and batches made of them."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from clipsieve.scorers.base import Context, Embedded, PairBatch

#: 24 images, 10 classes and 57 labels, made vectors of 32 components, and the values that the code
#: of CLIPN@e465074b, NegLabel@3253db68 and of WinCLIP in anomalib gave for them.
PATH = Path(__file__).parents[2] / "data" / "ood_text.npz"


def load():
    """Return the arrays; vectors as float64 unit rows."""
    with np.load(PATH) as arrays:
        data = dict(arrays)
    return data | {name: unit(data[name]) for name in ("images", "classes", "no_classes", "labels")}


def unit(rows):
    wide = np.asarray(rows, np.float64)
    return wide / np.linalg.norm(wide, axis=-1, keepdims=True)


def batch_of(images, prototypes, missing=()):
    """Return a batch of images of which some have no embedding."""
    valid = np.ones(len(images), bool)
    valid[list(missing)] = False
    vectors = np.where(valid[:, None], images, 0).astype(np.float32)
    uid = pa.array([str(at) for at in range(len(images))])
    return PairBatch(uid, Embedded(vectors, valid), prototypes=prototypes)


def context_of(dim, prototypes=None, logit_scale=100.0):
    return Context(dim=dim, rows=0, logit_scale=logit_scale, prototypes=prototypes or {})


def random_rows(seed, *shape):
    """Return unit rows about a common direction, as embeddings are."""
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=shape) + 0.5)
