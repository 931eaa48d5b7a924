"""Neighbours among a sample are those that a loop over the sample's rows finds."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.fits.sample import SampleSearch, sample_arrays
from clipsieve.scorers.base import Embedded, PairBatch, ReferenceSet
from clipsieve.statistics.sample import Sample
from tests.fits.folders import SHARDS, Naive, assert_lists, make_pairs


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return make_pairs(tmp_path_factory.mktemp("pairs"))[2]


def sampled(pairs, size):
    zero = Sample(size, seed=3, with_texts=True)
    return sum((zero.of(pairs.read(shard)) for shard in pairs.shards()), zero)


def naive_of(sample, texts):
    owners = list(zip(sample.shards.tolist(), sample.rows.tolist(), strict=True))
    vectors = list(sample.images)
    if texts:
        there = [at for at, text in enumerate(sample.texts) if text.any()]
        vectors += [sample.texts[at] for at in there]
        owners += [owners[at] for at in there]
    return Naive(vectors, owners, list(range(len(vectors))))


@pytest.mark.parametrize("texts", [False, True], ids=["images", "texts"])
@pytest.mark.parametrize("size", [1, 12, 1000])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_lists_are_those_of_a_loop(pairs, size, texts, metric):
    sample = sampled(pairs, size)
    wanted = ReferenceSet(k=9, size=size, seed=3, texts=texts, metric=metric)
    search = SampleSearch("s", wanted, sample_arrays("s", sample), "cpu")
    naive = naive_of(sample, texts)
    for shard in SHARDS:
        batch = pairs.read(shard)
        lists = search.of(batch)
        for row in range(len(batch)):
            if batch.image.valid[row]:
                query = batch.image.vectors[row]
                assert_lists(lists, row, naive.nearest(query, (shard, row), 9, metric))
            else:
                assert_lists(lists, row, [])
    within = search.within()
    for number, (vector, owner) in enumerate(zip(naive.vectors, naive.owners, strict=True)):
        assert_lists(within, number, naive.nearest(vector, owner, 9, metric))


def test_a_row_that_took_the_place_of_a_sampled_one_keeps_it_as_a_neighbour(pairs):
    sample = sampled(pairs, 1000)
    wanted = ReferenceSet(k=1, size=1000, seed=3)
    search = SampleSearch("s", wanted, sample_arrays("s", sample), "cpu")
    batch = pairs.read("a")
    assert (search.of(batch).distances[batch.image.valid] > 0).all()
    strangers = pa.array([f"new-{row}" for row in range(len(batch))])
    replaced = search.of(dataclasses.replace(batch, uid=strangers))
    assert (replaced.distances[batch.image.valid] == 0).all()


def test_an_empty_sample_has_no_neighbours():
    wanted = ReferenceSet(k=3, size=5)
    search = SampleSearch("s", wanted, sample_arrays("s", Sample(5)), "cpu")
    one = Embedded(np.ones((1, 4), np.float32), np.array([True]))
    lists = search.of(PairBatch(pa.array(["x"]), one, {"": one}, shard="a"))
    assert_lists(lists, 0, [])
    assert len(search.within().distances) == 0
