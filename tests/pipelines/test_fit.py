"""The fit stage: statistics of any scorer are summed over the dataset before a row is scored."""

import sys
from textwrap import dedent

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.pipelines.score import score
from clipsieve.store import dataset as datasets
from clipsieve.store.layout import Layout
from clipsieve.stored import StoredPairs
from tests.store.folders import DIM, make_folder, shard_of

PLUGIN = """
from dataclasses import dataclass, replace
import numpy as np, pyarrow as pa
from clipsieve.scorers.base import Input, ReferenceSet, Scorer

@dataclass(frozen=True)
class Sum:
    total: object = 0.0
    count: int = 0
    characters: int = 0
    def __add__(self, other):
        return Sum(self.total + other.total, self.count + other.count,
                   self.characters + other.characters)
    def of(self, batch):
        vectors = batch.image.vectors[batch.image.valid].astype(np.float64)
        return Sum(vectors.sum(axis=0), len(vectors), sum(len(c or "") for c in batch.captions))

class Distance(Scorer):
    family, needs = "distance", frozenset({Input.IMAGE_EMBEDDING, Input.CAPTION})
    columns = pa.schema([pa.field(n, pa.float32()) for n in ("to_mean", "to_nearest", "letters")])
    def statistics(self):
        return {"sum": Sum()}
    def references(self, rows):
        return {"some": ReferenceSet(k=1, size=rows // 10)}
    def fit(self, merged):
        both = merged["sum"]
        return {"mean": both.total / both.count, "letters": np.array(both.characters)}
    def describe(self, neighbours):
        return {"near": neighbours.distances[:, 0]}
    def score(self, batch, fitted):
        assert len(fitted["some.near"]) == len(fitted["some.images"])
        away = np.linalg.norm(batch.image.vectors - fitted["mean"], axis=1)
        nearest = batch.neighbours["some"].distances[:, 0]
        gone = ~batch.image.valid
        letters = np.full(len(batch), float(fitted["letters"]))
        return {"to_mean": np.where(gone, np.nan, away),
                "to_nearest": np.where(gone, np.nan, nearest), "letters": letters}
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
    rev = datasets.require(Layout.at(root)).families[family]
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
    layout, dataset = make_folder(root, shards)
    assert score(str(root), [distance_scorer], device="cpu").done == len(cuts)

    pairs = StoredPairs(layout, dataset.embeddings, DIM)
    batches = [pairs.read(shard) for shard in pairs.shards()]
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
    (fit,) = root.glob("fits/distance/*/fitted.npz")
    with np.load(fit) as arrays:
        assert len(arrays["some.images"]) == int(valid.sum()) // 10


def test_a_sample_that_its_bound_has_cut_short_is_drawn_again(tmp_path):
    root = tmp_path / "out"
    same = pa.array(["one"] * 400)
    make_folder(root, [shard_of(name, 400, seed=ord(name), uids=same) for name in "abc"])
    assert score(str(root), ["density"], device="cpu", options={"density": {"reference": 20}}).done
    (fit,) = root.glob("fits/density/*/fitted.npz")
    with np.load(fit) as arrays:
        assert arrays["20.shards"].tolist() == ["a"] * 20
        assert arrays["20.rows"].tolist() == list(range(20))
    kdist = scores_of(root, "density")["density_kdist"]
    assert kdist.null_count == 0
