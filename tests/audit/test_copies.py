"""Counts of copies equal those of plain lists, in any order of shards."""

import math

import numpy as np
import pytest

from clipsieve.audit.copies import CopiesBuilder, most_frequent
from clipsieve.audit.keys import NO_KEY, Kind, row_keys
from tests.audit.test_near import cosine, unit

KINDS = (Kind.CAPTION, Kind.IMAGE_BYTES, Kind.IMAGE_HASH)


def shard_of(rows, rng, dim=5):
    """Keys, values and vectors of random rows that share much."""
    has_hash = rng.random(rows) < 0.7
    keys = row_keys(
        [None if rng.random() < 0.1 else f"Caption {rng.integers(6)}" for _ in range(rows)],
        [None if rng.random() < 0.2 else f"http://h{rng.integers(3)}/{n}" for n in range(rows)],
        rng.integers(0, 6, rows).astype(np.uint64),
        rng.integers(0, 6, rows).astype(np.uint64),
        has_hash,
    )
    values = {name: rng.normal(size=rows).astype(np.float32) for name in ("clip_score", "kdist")}
    for column in values.values():
        column[rng.random(rows) < 0.3] = np.nan
    vectors = unit(rng.normal(size=(rows, dim)) + 1.0).reshape(rows, dim)
    has_vector = rng.random(rows) < 0.8
    vectors[~has_vector] = 0
    return keys, values, vectors, has_vector


def build(kind, wanted, shards, order):
    builder = CopiesBuilder(kind, wanted, ("clip_score", "kdist"))
    for shard in order:
        builder.add(shard, *shards[shard])
    return builder.build()


def naive_mean(values):
    known = [float(value) for value in values if value == value]
    return math.fsum(known) / len(known) if known else math.nan


def same(copies, other):
    """Whether two results are equal to the last bit."""
    pairs = [
        (getattr(copies, n), getattr(other, n)) for n in ("rows", "embedded", "vectors", "examples")
    ]
    for name in ("pairs", "scored", "values"):
        pairs += [(v, getattr(other, name)[k]) for k, v in getattr(copies, name).items()]
    return all(np.array_equal(one, two) for one, two in pairs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_copies_equal_a_count_over_plain_lists(kind, seed):
    rng = np.random.default_rng(seed)
    shards = [shard_of(rows, rng) for rows in (40, 0, 3, 70)]
    own = [keys.single[kind].tolist() for keys, *_ in shards]
    wanted = sorted({key for part in own for key in part} - {int(NO_KEY)})[1:]
    wanted.append((1 << 64) - 1)  # no row has it
    found = build(kind, np.array(wanted, np.uint64), shards, range(4))
    for place, key in enumerate(wanted):
        rows = [(s, r) for s, part in enumerate(own) for r, each in enumerate(part) if each == key]
        assert found.rows[place] == len(rows)
        if not rows:
            continue
        assert tuple(found.examples[place].tolist()) == min(rows)

        def distinct(of, rows=rows):
            return len({of(shards[s][0], r) for s, r in rows} - {int(NO_KEY)})

        assert found.distinct("captions")[place] == distinct(
            lambda k, r: int(k.single[Kind.CAPTION][r])
        )
        assert found.distinct("hosts")[place] == distinct(lambda k, r: int(k.single[Kind.HOST][r]))
        assert found.distinct("pictures")[place] == distinct(
            lambda k, r: int(k.single[Kind.IMAGE_HASH if k.has_bits[r] else Kind.IMAGE_BYTES][r])
        )
        for column in ("clip_score", "kdist"):
            expected = naive_mean(shards[s][1][column][r] for s, r in rows)
            assert found.means(column)[place] == pytest.approx(expected, abs=1e-6, nan_ok=True)
        vectors = [shards[s][2][r] for s, r in rows if shards[s][3][r]]
        cosines = [cosine(a, b) for n, a in enumerate(vectors) for b in vectors[n + 1 :]]
        assert found.similarity()[place] == pytest.approx(
            naive_mean(cosines), abs=1e-5, nan_ok=True
        )


def test_any_order_of_shards_gives_the_same_copies():
    rng = np.random.default_rng(9)
    shards = [shard_of(20, rng) for _ in range(6)]
    wanted = np.unique(np.concatenate([keys.single[Kind.CAPTION] for keys, *_ in shards]))
    first = build(Kind.CAPTION, wanted, shards, range(6))
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(6).tolist()
        assert same(build(Kind.CAPTION, wanted, shards, order), first)


def test_many_shards_give_the_distinct_values_of_one():
    rng = np.random.default_rng(10)
    whole = shard_of(300, rng)
    wanted = np.unique(whole[0].single[Kind.CAPTION][whole[0].single[Kind.CAPTION] != NO_KEY])
    once = build(Kind.CAPTION, wanted, [whole], [0])
    often = build(Kind.CAPTION, wanted, [whole] * 150, range(150))
    for name in ("hosts", "pictures", "captions"):
        assert np.array_equal(often.pairs[name], once.pairs[name])
    assert np.array_equal(often.rows, 150 * once.rows)


def test_a_shard_without_any_picture_may_come_first():
    rng = np.random.default_rng(11)
    keys, values, vectors, has_vector = shard_of(30, rng)
    # As a folder reads a shard all of whose pictures failed: no width is known.
    failed = keys, values, np.zeros((30, 1), np.float32), np.zeros(30, bool)
    wanted = np.unique(keys.single[Kind.CAPTION])[1:]
    known = build(Kind.CAPTION, wanted, [(keys, values, vectors, has_vector)], [0])
    for shards in ([failed, (keys, values, vectors, has_vector)], [failed]):
        found = build(Kind.CAPTION, wanted, shards, range(len(shards)))
        assert np.array_equal(found.rows, len(shards) * known.rows)
        similarity = known.similarity() if len(shards) > 1 else np.full(len(wanted), np.nan)
        assert np.array_equal(found.similarity(), similarity, equal_nan=True)


def test_equal_pictures_have_a_cosine_of_one():
    keys = row_keys(
        ["a"] * 9, [None] * 9, np.zeros(9, np.uint64), np.zeros(9, np.uint64), np.zeros(9, bool)
    )
    vectors = np.repeat(unit(np.random.default_rng(0).normal(size=(1, 512))), 9, axis=0)
    builder = CopiesBuilder(Kind.CAPTION, keys.single[Kind.CAPTION][:1], ())
    builder.add(0, keys, {}, vectors, np.ones(9, bool))
    assert builder.build().similarity()[0] == pytest.approx(1, abs=1e-5)
    alone = CopiesBuilder(Kind.CAPTION, keys.single[Kind.CAPTION][:1], ())
    alone.add(0, keys, {}, vectors, np.arange(9) == 3)
    assert math.isnan(alone.build().similarity()[0])


def test_the_most_frequent_keys_occur_twice_and_of_equals_the_least_are_taken():
    keys = np.array([50, 40, 30, 20, 10], np.uint64)
    rows = np.array([1, 3, 7, 3, 3])
    assert most_frequent(keys, rows).tolist() == [10, 20, 30, 40]
    assert most_frequent(keys, rows, most=3).tolist() == [10, 20, 30]
    assert most_frequent(keys, rows, most=1).tolist() == [30]
    assert most_frequent(keys[:1], rows[:1]).tolist() == []
