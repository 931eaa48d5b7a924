"""Counts of slots, distinct values and best rows: any split, any order, one answer."""

import pickle
from functools import reduce
from operator import add

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.statistics import best_rows
from clipsieve.statistics.best_rows import BestRows, KeyRows, ordered_bytes
from clipsieve.statistics.hashed_array import HashedArray, LocalArray
from clipsieve.statistics.repeated_values import RepeatedValues
from clipsieve.statistics.slot_counts import SlotCounts, has_slot, slot_bits, slots_of


def pieces(rng, count, parts):
    """Positions of `count` rows dealt into parts, in any order, some of them empty."""
    ends = np.sort(rng.integers(0, count + 1, parts - 1))
    return [rng.permutation(part) for part in np.split(rng.permutation(count), ends)]


def summed(rng, states):
    """The sum of states, added in a random tree."""
    states = list(states)
    while len(states) > 1:
        at = rng.integers(len(states) - 1)
        states[at : at + 2] = [states[at] + states[at + 1]]
    return pickle.loads(pickle.dumps(states[0]))


@pytest.mark.parametrize("seed", range(5))
def test_slots_hit_twice(seed):
    rng = np.random.default_rng(seed)
    slots = rng.integers(0, 1024, 700).astype(np.uint64)
    hits = np.bincount(slots.astype(int), minlength=1024)
    for parts in (1, 2, 30):
        states = [SlotCounts(10, (slots[at],)) for at in pieces(rng, 700, parts)]
        bitmap = summed(rng, states).repeated()
        everything = np.arange(1024, dtype=np.uint64)
        assert np.array_equal(has_slot(bitmap, everything), hits > 1)
        assert np.array_equal(bitmap, reduce(add, states[::-1]).repeated())


def test_many_small_states_settle_into_bitmaps():
    states = [SlotCounts(10, (np.array([at % 300], np.uint64),)) for at in range(500)]
    total = reduce(add, states)
    assert total.seen is not None and len(total.pending) < 40
    bitmap = total.repeated()
    assert np.array_equal(has_slot(bitmap, np.arange(300, dtype=np.uint64)), np.arange(300) < 200)


def test_no_hit_is_no_slot():
    nothing = SlotCounts(10, (np.empty(0, np.uint64),))
    assert not (nothing + nothing).repeated().any()


def test_number_of_slots():
    assert [slot_bits(rows) for rows in (0, 1, 64, 65, 10**6, 10**12)] == [10, 10, 10, 11, 24, 33]
    assert slots_of(np.array([2**64 - 1, 1 << 54, 0], np.uint64), 10).tolist() == [1023, 1, 0]


@pytest.mark.parametrize("seed", range(5))
def test_distinct_values(seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 400, 500).astype(np.uint64)
    distinct, counts = np.unique(values, return_counts=True)
    for parts in (1, 2, 40):
        states = [RepeatedValues.of(values[at]) for at in pieces(rng, 500, parts)]
        got, repeated = summed(rng, states).sorted()
        assert np.array_equal(got, distinct)
        assert np.array_equal(repeated, counts > 1)


def made_rows(rng, count):
    """Keys, scores with ties and NaN, uids with ties and NULL, shard and row of some rows."""
    return [
        (
            (int(rng.integers(3)), int(rng.integers(12))),
            float(rng.choice([0.5, 0.7, np.nan])),
            None if rng.random() < 0.1 else f"u{rng.integers(4)}",
            f"s{rng.integers(3)}",
            row,
        )
        for row in range(count)
    ]


def state_of(rows):
    parts = []
    for shard in {row[3] for row in rows}:
        mine = [row for row in rows if row[3] == shard]
        parts.append(
            KeyRows.of(
                np.array([row[0] for row in mine], np.uint64),
                np.array([row[1] for row in mine]),
                pa.array([row[2] for row in mine], pa.string()),
                shard,
                np.array([row[4] for row in mine]),
            )
        )
    empty = KeyRows.of(
        np.empty((0, 2), np.uint64), np.empty(0), pa.array([], pa.string()), "s9", np.empty(0)
    )
    return reduce(add, [BestRows((part.by_key(),)) for part in parts], BestRows((empty.by_key(),)))


def naive_order(row):
    _, score, uid, shard, number = row
    return (np.isnan(score), -score if score == score else 0, uid is None, uid or "", shard, number)


@pytest.mark.parametrize("seed", range(5))
def test_best_row_of_each_key(seed):
    rng = np.random.default_rng(seed)
    rows = made_rows(rng, 200)
    expected = {}
    for key in sorted({row[0] for row in rows}):
        mine = sorted((row for row in rows if row[0] == key), key=naive_order)
        expected[key] = (len(mine), mine[0][3], mine[0][4])
    for parts in (1, 3, 50):
        states = [state_of([rows[at] for at in part]) for part in pieces(rng, 200, parts)]
        best = summed(rng, states).by_key()
        got = {
            (int(best.keys[at, 0]), int(best.keys[at, 1])): (
                int(best.counts[at]),
                best.shards[best.shard[at]],
                int(best.rows[at]),
            )
            for at in range(len(best))
        }
        assert got == expected
        assert list(got) == sorted(got)
        by_rank = [(best.shards[best.shard[at]], int(best.rows[at])) for at in best.by_rank()]
        winners = sorted((row for row in rows if row[3:] in set(by_rank)), key=naive_order)
        assert by_rank == [(row[3], row[4]) for row in winners]


def test_rows_of_no_key():
    best = state_of([]).by_key()
    assert (len(best), best.by_rank().tolist()) == (0, [])


def test_adding_many_states_sorts_each_row_a_few_times(monkeypatch):
    sorted_rows = []
    whole = best_rows.joined

    def counting(parts):
        sorted_rows.append(sum(map(len, parts)))
        return whole(parts)

    monkeypatch.setattr(best_rows, "joined", counting)
    rng = np.random.default_rng(0)
    states = []
    for at in range(300):
        keys = rng.integers(1 << 63, size=(5, 2)).astype(np.uint64)
        part = KeyRows.of(keys, np.zeros(5), pa.array(range(5)), f"s{at}", np.arange(5))
        states.append(BestRows((part.by_key(),)))
    assert len(reduce(add, states).by_key()) == 1500
    assert sum(sorted_rows) < 6 * 1500


@pytest.mark.parametrize(
    "uids",
    [
        pa.array(["b", "a", "aa", "é", "", "B"]),
        pa.array([5, -1, 0, 256, 255, -(2**63), 2**63 - 1]),
        pa.array([5, 2**64 - 1, 0, 256], pa.uint64()),
        pa.array([3, -128, 127], pa.int8()),
        pa.array([b"b", b"a\xff", b"a"]),
        pa.array([b"ba", b"a\xff", b"aa"], pa.binary(2)),
    ],
)
def test_bytes_are_ordered_as_uids(uids):
    made = ordered_bytes(uids).to_pylist()
    order = sorted(range(len(made)), key=made.__getitem__)
    assert [uids[at].as_py() for at in order] == sorted(uids.to_pylist())


def test_null_uids_stay_null():
    assert ordered_bytes(pa.array([1, None])).is_null().to_pylist() == [False, True]


def test_a_local_array_travels_as_its_digest():
    array = LocalArray(np.arange(10_000))
    pickled = pickle.dumps(array)
    assert len(pickled) < 300
    arrived = pickle.loads(pickled)
    assert arrived == array and hash(arrived) == hash(array)
    assert {arrived: "sum"}[array] == "sum"
    assert arrived != LocalArray(np.arange(9_999))
    assert arrived == HashedArray(np.arange(10_000))
