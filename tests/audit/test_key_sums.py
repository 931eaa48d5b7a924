"""Sums by key equal those of a dictionary, to the last bit, in any split and order."""

from fractions import Fraction
from functools import reduce

import numpy as np
import pytest

from clipsieve.audit.key_sums import SCALE, KeySums, KeySumsBuilder, exact_total, fixed, joined


def rows_of(count, seed, different=20):
    """Keys, scores and surprises of rows, some without a value."""
    rng = np.random.default_rng(seed)
    keys = rng.integers(1, 1 << 63, different, np.uint64)[rng.integers(different, size=count)]
    scores, nats = rng.normal(size=(count, 2)) * 3, rng.exponential(size=(count, 2))
    missing = rng.random((count, 2)) < 0.2
    scores[missing], nats[missing] = np.nan, np.nan
    return keys, scores, nats


def as_dict(sums):
    """What is known of each key, as plain numbers."""
    columns = (sums.rows, sums.scored, sums.scores, sums.surprises)
    return {
        key: tuple(column[place].tolist() for column in columns)
        for place, key in enumerate(sums.keys.tolist())
    }


def naive_sums(keys, scores, nats):
    """The same, row by row, in fractions."""
    found: dict[int, tuple[int, list[int], list[int], list[int]]] = {}
    for key, score, surprise in zip(keys.tolist(), scores.tolist(), nats.tolist(), strict=True):
        rows, scored, sums, total = found.get(key, (0, [0, 0], [0, 0], [0, 0]))
        sums, total, scored = list(sums), list(total), list(scored)
        for n, value in enumerate(score):
            if value == value:
                scored[n] += 1
                sums[n] += round(Fraction(value) * (1 << 24))
                total[n] += round(Fraction(surprise[n]) * (1 << 24))
        found[key] = rows + 1, scored, sums, total
    return found


@pytest.mark.parametrize("seed", range(3))
def test_sums_equal_those_of_a_dictionary(seed):
    keys, scores, nats = rows_of(500, seed)
    sums = KeySums.from_rows(keys, scores, nats)
    assert (np.diff(sums.keys.astype(object)) > 0).all()
    assert as_dict(sums) == naive_sums(keys, scores, nats)


@pytest.mark.parametrize("parts", [1, 2, 13, 500])
def test_any_split_and_order_give_the_sums_of_one_pass(parts):
    keys, scores, nats = rows_of(500, 5)
    whole = as_dict(KeySums.from_rows(keys, scores, nats))
    order = np.random.default_rng(parts).permutation(500)
    split = [
        KeySums.from_rows(keys[rows], scores[rows], nats[rows])
        for rows in np.array_split(order, parts)
    ]
    builder = KeySumsBuilder(2)
    for part in split:
        builder.add(part)
    assert as_dict(builder.total()) == whole
    assert as_dict(joined(split)) == whole
    assert as_dict(reduce(KeySums.__add__, reversed(split))) == whole


def test_a_builder_adds_up_on_the_way_what_outgrows_its_total():
    rng = np.random.default_rng(0)
    builder, counts = KeySumsBuilder(1), np.zeros(150_000, np.int64)
    for _ in range(5):
        rows = rng.integers(150_000, size=60_000)
        np.add.at(counts, rows, 1)
        values = np.ones((60_000, 1))
        builder.add(KeySums.from_rows(rows.astype(np.uint64), values, values))
    total = builder.total()
    assert np.array_equal(total.rows, counts[counts > 0])
    assert np.array_equal(total.keys, np.flatnonzero(counts))
    assert (total.scores[:, 0] == total.rows * (1 << 24)).all()


def test_nothing_is_no_sums():
    none = KeySums.from_rows(np.zeros(0, np.uint64), np.zeros((0, 2)), np.zeros((0, 2)))
    assert as_dict(none) == as_dict(KeySumsBuilder(2).total()) == {}
    keys, scores, nats = rows_of(9, 0)
    some = KeySums.from_rows(keys, scores, nats)
    assert as_dict(some + none) == as_dict(none + some) == as_dict(some)


def test_chosen_keys_keep_what_is_known_of_them():
    keys, scores, nats = rows_of(300, 1)
    sums = KeySums.from_rows(keys, scores, nats)
    chosen = np.arange(len(sums.keys)) % 3 == 0
    kept = as_dict(sums.among(chosen))
    assert kept == {key: known for key, known in as_dict(sums).items() if key in kept}
    assert len(kept) == chosen.sum()


def test_totals_do_not_depend_on_the_order():
    values = np.random.default_rng(2).normal(size=1000) * 1e3
    values[::7] = np.nan
    totals = {exact_total(np.random.default_rng(seed).permutation(values)) for seed in range(20)}
    assert len(totals) == 1
    exact = sum(Fraction(value) for value in values.tolist() if value == value)
    assert totals.pop() == pytest.approx(float(exact), abs=1000 / SCALE)
    assert exact_total(np.array([np.nan])) == 0.0
    assert fixed(np.array([0.5, -1.0])).tolist() == [1 << 23, -(1 << 24)]
