"""Batches of given vectors and prototypes, and what a scorer learns of them."""

import numpy as np
import pyarrow as pa

from clipsieve.scorers.base import Context, Embedded, PairBatch, PromptSet
from clipsieve.statistics.exact_sum import ExactSum
from clipsieve.store.pairs import split_batch

SCALE = 100.0


class AsGiven(Embedded):
    """Vectors that are taken as unit vectors without another normalisation, as the oracles do."""

    def unit(self):
        return self.vectors.astype(np.float64)

    def part(self, rows):
        return AsGiven(self.vectors[rows], self.valid[rows])


def names(count):
    return [f"class {k}" for k in range(count)]


def prompt_set(count):
    """The one that scorers with `classes=names(count), templates=["{}"]` make."""
    return PromptSet.from_templates(names(count), ["{}"])


def options(count):
    return {"classes": names(count), "templates": ["{}"]}


def pairs(vectors, prototypes, labels=None, missing=(), kind=Embedded, shard="s"):
    """A batch; rows of `missing` have no image."""
    valid = ~np.isin(np.arange(len(vectors)), list(missing))
    image = kind(np.where(valid[:, None], vectors, 0).astype(np.float32), valid)
    columns = {} if labels is None else {"label": list(labels)}
    return PairBatch(
        pa.array([f"{shard}/{row}" for row in range(len(vectors))]),
        image,
        columns=columns,
        shard=shard,
        prototypes={prompt_set(len(prototypes)): np.asarray(prototypes, np.float64)},
    )


def context(batch, scale=SCALE):
    return Context(
        batch.image.vectors.shape[1], len(batch), scale, "cpu", prototypes=batch.prototypes
    )


def learned(scorer, batch, rows=64, scale=SCALE, order=None):
    """What a scorer knows after as many passes as it asks for, over batches in a given order."""
    around = context(batch, scale)
    known: dict = {}
    parts = list(split_batch(batch, rows))
    parts = [parts[at] for at in order(len(parts))] if order else parts
    for _ in range(4):
        asked = scorer.statistics(known, around)
        if not asked:
            return known
        sums = {}
        for name, statistic in asked.items():
            first, *others = [statistic.observe(part, around) for part in parts]
            sums[name] = sum(others, first)
        known = scorer.learn(sums, known, around)
    raise AssertionError("more than four passes")


def scored(scorer, known, batch, rows=50, scale=SCALE):
    """Columns over batches of some rows."""
    loaded = scorer.load(known, context(batch, scale))
    parts = [scorer.score(part, loaded) for part in split_batch(batch, rows)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def same_arrays(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def cone(rows, dim, classes, seed=0, noise=0.35):
    """Unit vectors about some prototypes, all about one mean direction; their classes."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=dim)
    prototypes = mean + rng.normal(size=(classes, dim))
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    labels = rng.integers(classes, size=rows)
    vectors = prototypes[labels] + noise * rng.normal(size=(rows, dim)) * np.geomspace(1, 0.1, dim)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)), labels, prototypes


def exact(values, limbs=2):
    return ExactSum.from_values(np.asarray(values, np.float64), limbs)
