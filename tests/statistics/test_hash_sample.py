"""A sample by hash: the same rows, whatever the split, the order, the bound."""

from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.scorers.base import Context, Embedded, Input, PairBatch
from clipsieve.statistics.hash_sample import HashSample, SampleState, row_hashes
from clipsieve.store.pairs import split_batch
from clipsieve.transforms.merge import Merge
from tests.transforms.combining import combined_every_way

CONTEXT = Context(dim=3, rows=120, logit_scale=1.0)
FIELDS = ("seen", "hashes", "shards", "rows", "images", "texts")


def batch(shard, rows, uids=None, missing=(), no_text=()):
    rng = np.random.default_rng(len(shard) * 1000 + rows)
    sides = []
    for gone in (missing, no_text):
        valid = ~np.isin(np.arange(rows), list(gone))
        vectors = rng.normal(size=(rows, 3)).astype(np.float32) * valid[:, None]
        sides.append(Embedded(vectors, valid))
    uids = [f"{shard}/{row}" for row in range(rows)] if uids is None else uids
    return PairBatch(pa.array(uids), sides[0], {"": sides[1]}, shard=shard)


BATCHES = [
    batch("a", 40, missing=[3, 4]),
    batch("bb", 1),
    batch("ccc", 0, uids=pa.array([], pa.string())),
    batch("dddd", 70, no_text=[0, 1, 2]),
    batch("eeeee", 9, uids=["twin"] * 9),
]


def naive(batches, size, seed):
    """(hash, shard, row) of the rows with the lowest hashes, by a plain sort of all of them."""
    salt = seed.to_bytes(8, "little")
    rows = [
        (
            int.from_bytes(blake2b(uid.encode(), digest_size=8, salt=salt).digest(), "little"),
            b.shard,
            row,
        )
        for b in batches
        for row, uid in enumerate(b.uid.to_pylist())
        if b.image.valid[row]
    ]
    return sorted(rows)[:size]


def observe(sample, pairs):
    return sample.observe(pairs, CONTEXT)


def same(one, other):
    return all(np.array_equal(getattr(one, f), getattr(other, f)) for f in FIELDS)


@pytest.mark.parametrize("size", [1, 7, 40, 1000])
@pytest.mark.parametrize("seed", [0, 5])
def test_any_split_and_order_gives_the_rows_that_hash_lowest(size, seed):
    sample = HashSample(size, seed, texts=True)
    results: list = []
    for rows in (1, 7, 1000):  # batches of at most that many rows
        parts = [part for batch in BATCHES for part in split_batch(batch, rows)]
        observed = [sample.observe(part, CONTEXT) for part in parts]
        results += combined_every_way(Merge(SampleState(size)), observed)
    assert len(results) == 36
    expected = naive(BATCHES, size, seed)
    sources = {b.shard: b for b in BATCHES}
    for result in results:
        chosen = zip(result.hashes.tolist(), result.shards, result.rows.tolist(), strict=True)
        assert list(chosen) == expected
        assert same(result, results[0])
        assert result.seen == 118
        assert not result.is_short
        for (_, shard, row), image, text in zip(expected, result.images, result.texts, strict=True):
            assert np.array_equal(image, sources[shard].image.vectors[row])
            assert np.array_equal(text, sources[shard].texts[""].vectors[row])


def test_rows_with_one_uid_are_taken_in_their_order():
    twins = observe(HashSample(4), batch("eeeee", 9, uids=["twin"] * 9))
    assert twins.rows.tolist() == [0, 1, 2, 3]


def test_a_bound_changes_nothing_but_what_the_parts_hold():
    rows = 5000
    big = batch("big", rows)
    free, bounded = HashSample(20, 3), HashSample.bounded(20, 3, False, rows)
    assert bounded.bound < 2**64 // 20
    assert same(observe(bounded, big), observe(free, big))
    wide = observe(HashSample(rows, 3, bound=bounded.bound), big)
    assert 20 < len(wide.hashes) < 150


def test_a_bound_that_was_too_low_is_noticed():
    assert observe(HashSample(20, bound=2**64 // 1000), batch("big", 500)).is_short
    assert not observe(HashSample(20), batch("big", 500)).is_short
    assert not observe(HashSample(20), batch("few", 10)).is_short


@pytest.mark.parametrize("rows", [0, 3, 50])
def test_few_or_unknown_rows_have_no_bound(rows):
    assert HashSample.bounded(20, 0, True, rows).bound == 2**64 - 1


def test_another_seed_gives_another_sample():
    big = batch("big", 500)
    first, second = (set(observe(HashSample(50, seed), big).rows.tolist()) for seed in (0, 1))
    assert len(first & second) < 15


def test_samples_are_nested():
    big = batch("big", 500)
    small, large = (set(observe(HashSample(size), big).rows.tolist()) for size in (20, 200))
    assert small < large


def test_hashes_are_even_and_depend_on_type_only_through_the_text():
    uids = [str(n) for n in range(4000)]
    hashes = row_hashes(pa.array(uids))
    assert np.array_equal(hashes, row_hashes(pa.array(range(4000))))
    assert np.array_equal(hashes, row_hashes(pa.array([u.encode() for u in uids])))
    counts = np.bincount((hashes >> np.uint64(60)).astype(int), minlength=16)
    assert abs(counts - 250).max() < 80
    assert row_hashes(pa.array([None, ""])).tolist() == row_hashes(pa.array(["", None])).tolist()
    assert len(row_hashes(pa.array([], pa.string()))) == 0


def test_captions_are_kept_only_if_wanted():
    one = batch("a", 40)
    assert observe(HashSample(5), one).texts.shape == (5, 0)
    assert HashSample(5).needs == {Input.IMAGE_EMBEDDING}
    assert observe(HashSample(5, texts=True), one).texts.shape == (5, 3)
    assert HashSample(5, texts=True).needs == {Input.IMAGE_EMBEDDING, Input.TEXT_EMBEDDING}


def test_equal_samples_are_one_statistic():
    assert len({HashSample(5, 1), HashSample(5, 1), HashSample(5, 2), HashSample(5, 1, True)}) == 3


def test_rows_of_a_part_have_their_position_in_the_shard():
    whole = batch("a", 40)
    (_, part, *_) = split_batch(whole, 15)
    assert set(observe(HashSample(1000), part).rows.tolist()) == set(range(15, 30))


def test_the_rows_with_the_lowest_hashes_are_in_order():
    state = observe(HashSample(40), batch("big", 500))
    assert (np.diff(state.hashes.astype(object)) >= 0).all()
