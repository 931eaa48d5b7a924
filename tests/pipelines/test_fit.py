"""The fit stage: statistics of any scorer are summed over the dataset before a row is scored."""

import sys
from textwrap import dedent

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clipsieve
from clipsieve.scorers.base import Input
from clipsieve.statistics.hash_sample import row_hashes
from clipsieve.store.pairs import StoredPairs
from tests.pipelines.jobs import manifest_of
from tests.store.folders import DIM, make_folder, shard_of

PLUGIN = """
from dataclasses import dataclass
import numpy as np
import pyarrow as pa
from clipsieve import HashSample, Input, Scorer, score_column


@dataclass(frozen=True)
class Total:
    total: object = 0.0
    count: int = 0
    characters: int = 0

    def __add__(self, other):
        return Total(self.total + other.total, self.count + other.count,
                     self.characters + other.characters)


@dataclass(frozen=True)
class Sum:
    needs = frozenset({Input.IMAGE_EMBEDDING, Input.CAPTION})

    def observe(self, batch, context):
        vectors = batch.image.vectors[batch.image.valid].astype(np.float64)
        characters = sum(len(caption or "") for caption in batch.captions)
        return Total(vectors.sum(axis=0), len(vectors), characters)


class Distance(Scorer):
    name = family = "distance"
    columns = pa.schema([score_column(n, "doc", "none", "any", "test")
                         for n in ("to_mean", "to_nearest", "letters")])

    def statistics(self, known, context):
        if "mean" in known:
            return {}
        return {"sum": Sum(), "some": HashSample(context.rows // 10)}

    def learn(self, sums, known, context):
        both, sample = sums["sum"], sums["some"]
        assert both.total.shape == (context.dim,)
        return {"mean": both.total / both.count, "letters": np.array(both.characters),
                "shards": sample.shards, "rows": sample.rows, "images": sample.images}

    def score(self, batch, known):
        vectors = batch.image.vectors.astype(np.float64)
        apart = np.linalg.norm(vectors[:, None] - known["images"], axis=2)
        rows = np.arange(batch.start, batch.start + len(batch))
        own = (known["rows"] == rows[:, None]) & (known["shards"] == batch.shard)
        nearest = np.where(own, np.inf, apart).min(axis=1)
        away = np.linalg.norm(vectors - known["mean"], axis=1)
        gone = ~batch.image.valid
        return {"to_mean": np.where(gone, np.nan, away),
                "to_nearest": np.where(gone, np.nan, nearest),
                "letters": np.full(len(batch), float(known["letters"]))}
"""


@pytest.fixture
def distance_scorer(tmp_path, monkeypatch):
    """An installed package with a scorer that has statistics and a reference; its name."""
    site = tmp_path / "site"
    info = site / "distance-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "distance_plugin.py").write_text(dedent(PLUGIN))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: distance\nVersion: 1.0\n")
    entry = "[clipsieve.scorers]\ndistance = distance_plugin:Distance\n"
    (info / "entry_points.txt").write_text(entry)
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    yield "distance"
    sys.modules.pop("distance_plugin", None)


def scores_of(root, family):
    rev = manifest_of(root).families[family].revision
    files = sorted((root / "scores" / family / f"rev={rev}").glob("*.parquet"))
    return pa.concat_tables([pq.read_table(f, partitioning=None) for f in files])


@pytest.mark.parametrize("cuts", [[100], [37, 63], [1, 99], [20] * 5], ids=str)
def test_a_scorer_of_another_package_is_fitted_whatever_the_split(tmp_path, distance_scorer, cuts):
    names = "abcdef"
    shards = [
        shard_of(names[n], rows, seed=n, no_image=[0] if rows > 1 else ())
        for n, rows in enumerate(cuts)
    ]
    root = tmp_path / "out"
    folder, manifest = make_folder(root, shards)
    assert clipsieve.score(root, [distance_scorer], device="cpu").done == len(cuts)

    assert manifest.embeddings is not None
    pairs = StoredPairs(folder, manifest.embeddings, DIM)
    batches = [pairs.read(shard, {Input.IMAGE_EMBEDDING}) for shard in folder.shards()]
    images = [b.image for b in batches if b.image is not None]
    vectors = np.concatenate([image.vectors for image in images]).astype(np.float64)
    valid = np.concatenate([image.valid for image in images])
    away = np.linalg.norm(vectors - vectors[valid].mean(axis=0), axis=1)
    scores = scores_of(root, "distance")
    got = scores["to_mean"].to_numpy()
    assert np.allclose(got[valid], away[valid], rtol=1e-6)
    assert np.isnan(got[~valid]).all() and (~valid).any()
    captions = [c for s in shards for c in s.pairs.captions]
    assert set(scores["letters"].to_pylist()) == {float(sum(len(c or "") for c in captions))}
    (fit,) = root.glob("fits/distance/*.npz")
    with np.load(fit) as arrays:
        sampled = arrays["images"].astype(np.float64)
    # The rows whose uids hash lowest, whatever the split.
    usable = np.flatnonzero(valid)
    hashes = np.concatenate([row_hashes(batch.uid) for batch in batches])
    lowest = usable[np.argsort(hashes[usable])][: sum(s.states.count("ok") for s in shards) // 10]
    assert np.array_equal(sampled, vectors[lowest])
    apart = np.linalg.norm(vectors[:, None] - vectors[lowest], axis=2)
    apart[lowest, np.arange(len(lowest))] = np.inf
    nearest = scores["to_nearest"].to_numpy()
    assert np.allclose(nearest[valid], apart.min(axis=1)[valid], rtol=1e-6)
    assert np.isnan(nearest[~valid]).all()


def test_a_sample_that_its_bound_has_cut_short_is_drawn_again(tmp_path):
    root = tmp_path / "out"
    same = pa.array(["one"] * 400)
    make_folder(root, [shard_of(name, 400, seed=ord(name), uids=same) for name in "abc"])
    options = {"density": {"reference": 20}}
    assert clipsieve.score(root, ["density"], device="cpu", scorer_options=options).done == 3
    (fit,) = root.glob("fits/density/*.npz")
    with np.load(fit) as arrays:
        assert arrays["20.shards"].tolist() == ["a"] * 20
        assert arrays["20.rows"].tolist() == list(range(20))
    kdist = scores_of(root, "density")["density_kdist"]
    assert kdist.null_count == 0
