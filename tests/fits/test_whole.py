"""Neighbours among all rows, or a batch of them, are those that a loop over them finds."""

import dataclasses

import numpy as np
import pytest

from clipsieve.fits.whole import WholeSearch, grouped
from clipsieve.scorers.base import ReferenceSet
from clipsieve.statistics.sample import row_hashes
from tests.fits.folders import SHARDS, Naive, assert_lists, make_pairs

K = 6


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return make_pairs(tmp_path_factory.mktemp("pairs"))[2]


def naive_of(pairs, texts):
    members = pairs.members()
    rows = sum(member.rows for member in members)
    vectors, owners, numbers = [], [], []
    for side in ("image", "text")[: 2 if texts else 1]:
        for member in members:
            batch = pairs.read(member.shard)
            embedded = batch.image if side == "image" else batch.texts[""]
            for row in np.flatnonzero(embedded.valid).tolist():
                vectors.append(embedded.vectors[row])
                owners.append((member.shard, row))
                numbers.append(member.first + row + (rows if side == "text" else 0))
    return Naive(vectors, owners, numbers)


@pytest.mark.parametrize("texts", [False, True], ids=["images", "texts"])
@pytest.mark.parametrize("block_rows", [1, 40, 10_000])
def test_lists_are_those_of_a_loop_in_blocks_of_any_size(pairs, texts, block_rows):
    wanted = ReferenceSet(k=K, size=None, texts=texts)
    search = WholeSearch(pairs, wanted, pairs.members(), "cpu", block_rows)
    naive = naive_of(pairs, texts)
    batches = [pairs.read(shard) for shard in SHARDS]
    for batch, lists in zip(batches, search.of(batches), strict=True):
        for row in range(len(batch)):
            expected = (
                naive.nearest(batch.image.vectors[row], (batch.shard, row), K)
                if batch.image.valid[row]
                else []
            )
            assert_lists(lists, row, expected)
        if texts:
            captions = search.of_captions(batch)
            text = batch.texts[""]
            for row in range(len(batch)):
                expected = (
                    naive.nearest(text.vectors[row], (batch.shard, row), K)
                    if text.valid[row]
                    else []
                )
                assert_lists(captions, row, expected)


@pytest.mark.parametrize("size", [10, 30, 1000])
def test_a_batch_holds_the_rows_with_its_share_of_hashes(pairs, size):
    wanted = ReferenceSet(k=K, size=size, batch=True, seed=5)
    search = WholeSearch(pairs, wanted, pairs.members(), "cpu", block_rows=40)
    batches = {shard: pairs.read(shard) for shard in SHARDS}
    deal = {
        (shard, row): int(hashed) * search.batches >> 64
        for shard, batch in batches.items()
        for row, hashed in enumerate(row_hashes(batch.uid, 5))
    }
    scored = sum(member.scored for member in pairs.members())
    assert search.batches == max(1, round(scored / size))
    naive = naive_of(pairs, texts=False)
    for (shard, batch), lists in zip(
        batches.items(), search.of(list(batches.values())), strict=True
    ):
        for row in np.flatnonzero(batch.image.valid).tolist():
            mine = deal[shard, row]
            expected = naive.nearest(
                batch.image.vectors[row],
                (shard, row),
                K,
                where=lambda owner, mine=mine: deal[owner] == mine,
            )
            assert_lists(lists, row, expected)


def test_rows_of_a_shard_that_came_later_have_all_others_as_neighbours(pairs):
    members = pairs.members()
    search = WholeSearch(pairs, ReferenceSet(k=1, size=None), members, "cpu")
    batch = pairs.read("a")
    newcomer = dataclasses.replace(batch, shard="new")
    (lists,) = search.of([newcomer])
    valid = batch.image.valid
    assert (lists.distances[valid] == 0).all()
    assert lists.indices[valid, 0].tolist() == np.flatnonzero(valid).tolist()


def test_groups_hold_all_shards_in_order_and_no_more_rows_than_asked_for():
    shards = [(str(n), n % 7) for n in range(40)]
    groups = grouped(shards, rows=10)
    assert [name for group in groups for name in group] == [name for name, _ in shards]
    assert all(sum(dict(shards)[n] for n in group) <= 10 for group in groups)
    assert grouped([], rows=10) == []
    assert grouped([("big", 50)], rows=10) == [["big"]]
