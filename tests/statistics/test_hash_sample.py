"""A sample by hash: the same rows, whatever the split, the order, the bound."""

from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.scorers.base import Embedded, PairBatch
from clipsieve.statistics.sample import Sample, row_hashes
from clipsieve.transforms.merge import MergeStatistics
from tests.transforms.combining import combined_every_way

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


def same(one, other):
    return all(np.array_equal(getattr(one, f), getattr(other, f)) for f in FIELDS)


@pytest.mark.parametrize("size", [1, 7, 40, 1000])
@pytest.mark.parametrize("seed", [0, 5])
def test_any_split_and_order_gives_the_rows_that_hash_lowest(size, seed):
    zero = Sample(size, seed, with_texts=True)
    results = list(combined_every_way(MergeStatistics(zero), [zero.of(b) for b in BATCHES]))
    assert len(results) == 12
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
    twins = Sample(4).of(batch("eeeee", 9, uids=["twin"] * 9))
    assert twins.rows.tolist() == [0, 1, 2, 3]


def test_a_bound_changes_nothing_but_what_the_parts_hold():
    rows = 5000
    big = batch("big", rows)
    free, bound = Sample(20, 3).of(big), Sample.bounded(20, 3, False, rows)
    assert bound.bound < 2**64 // 20
    assert same(bound.of(big), free)
    wide = Sample(rows, 3, bound=bound.bound).of(big)
    assert 20 < len(wide.hashes) < 150


def test_a_bound_that_was_too_low_is_noticed():
    held = Sample(20, bound=2**64 // 1000).of(batch("big", 500))
    assert held.is_short
    assert not Sample(20).of(batch("big", 500)).is_short
    assert not Sample(20).of(batch("few", 10)).is_short


@pytest.mark.parametrize("rows", [0, 3, 50])
def test_few_or_unknown_rows_have_no_bound(rows):
    assert Sample.bounded(20, 0, True, rows).bound == 2**64 - 1


def test_another_seed_gives_another_sample():
    big = batch("big", 500)
    first, second = (set(Sample(50, seed).of(big).rows.tolist()) for seed in (0, 1))
    assert len(first & second) < 15


def test_samples_are_nested():
    big = batch("big", 500)
    small, large = (set(Sample(size).of(big).rows.tolist()) for size in (20, 200))
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
    assert Sample(5).of(one).texts.shape == (5, 0)
    assert Sample(5, with_texts=True).of(one).texts.shape == (5, 3)
