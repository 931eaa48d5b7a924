"""Neighbours among a sample are those that a loop over the sample's rows finds."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.scorers.base import Context, Embedded, Input, PairBatch
from clipsieve.scorers.sample_search import SampleSearch, sample_arrays
from clipsieve.statistics.hash_sample import HashSample, SampleState
from clipsieve.store.pairs import split_batch
from tests.neighbours.stored_pairs import Naive, assert_lists
from tests.scoring.folders import DIM, SHARDS, make_folder, pairs_of, varied_shards

NEEDS = (Input.IMAGE_EMBEDDING, Input.TEXT_EMBEDDING)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return pairs_of(make_folder(tmp_path_factory.mktemp("pairs"), varied_shards()))


def draw(pairs, size):
    sample, context = HashSample(size, seed=3, texts=True), Context(DIM, 100, 1.0)
    parts = [sample.observe(pairs.read(shard, NEEDS), context) for shard in SHARDS]
    return sum(parts, SampleState(size))


def search_in(sample, k, metric="euclidean", texts=False):
    return SampleSearch("s", sample_arrays("s", sample), k, metric, 3, texts, "cpu")


def naive_of(sample, texts):
    owners = list(zip(sample.shards.tolist(), sample.rows.tolist(), strict=True))
    vectors = list(sample.images)
    if texts:
        encoded = [at for at, text in enumerate(sample.texts) if text.any()]
        vectors += [sample.texts[at] for at in encoded]
        owners += [owners[at] for at in encoded]
    return Naive(vectors, owners, list(range(len(vectors))))


@pytest.mark.parametrize("texts", [False, True], ids=["images", "texts"])
@pytest.mark.parametrize("size", [1, 12, 1000])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_lists_are_those_of_a_loop(pairs, size, texts, metric):
    sample = draw(pairs, size)
    search = search_in(sample, 9, metric, texts)
    naive = naive_of(sample, texts)
    for shard in SHARDS:
        batch = pairs.read(shard, NEEDS)
        lists = search.search(batch)
        for row in range(len(batch)):
            if batch.image.valid[row]:
                query = batch.image.vectors[row]
                assert_lists(lists, row, naive.nearest(query, (shard, row), 9, metric))
            else:
                assert_lists(lists, row, [])
    within = search.search_sample()
    for number, (vector, owner) in enumerate(zip(naive.vectors, naive.owners, strict=True)):
        assert_lists(within, number, naive.nearest(vector, owner, 9, metric))


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_a_row_is_not_its_own_neighbour_in_any_part_of_its_shard(pairs, rows):
    search = search_in(draw(pairs, 1000), 9)
    for shard in SHARDS:
        batch = pairs.read(shard, NEEDS)
        whole = search.search(batch)
        parts = [search.search(part) for part in split_batch(batch, rows)]
        assert np.array_equal(np.concatenate([p.distances for p in parts]), whole.distances)
        assert np.array_equal(np.concatenate([p.indices for p in parts]), whole.indices)


def test_a_row_that_took_the_place_of_a_sampled_one_keeps_it_as_a_neighbour(pairs):
    search = search_in(draw(pairs, 1000), 1)
    batch = pairs.read("a", NEEDS)
    assert (search.search(batch).distances[batch.image.valid] > 0).all()
    new_uids = pa.array([f"new-{row}" for row in range(len(batch))])
    replaced = search.search(dataclasses.replace(batch, uid=new_uids))
    assert (replaced.distances[batch.image.valid] == 0).all()


def test_an_empty_sample_has_no_neighbours():
    search = search_in(SampleState(5), 3)
    one = Embedded(np.ones((1, 4), np.float32), np.array([True]))
    lists = search.search(PairBatch(pa.array(["x"]), one, {"": one}, shard="a"))
    assert_lists(lists, 0, [])
    assert len(search.search_sample().distances) == 0
