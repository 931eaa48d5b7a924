"""The value of a rank, against np.sort, over random splits."""

import numpy as np
import pytest

from clipsieve.statistics.radix import (
    ALL_ROWS,
    DigitCounts,
    RankSearch,
    ordered_bits,
    sorted_groups,
    values_of_bits,
)

KINDS = ["float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint32", "uint64"]


def values_of(kind, rng, size):
    """Numbers with ties, both signs where there are signs, and the ends of the type."""
    dtype = np.dtype(kind)
    if dtype.kind == "f":
        values = rng.normal(size=size).round(int(rng.integers(1, 8))).astype(dtype)
        values[: size // 9] = values[0]
        ends = np.finfo(dtype)
        return np.concatenate([values, [ends.min, ends.max, ends.tiny, -0.0, 0.0]]).astype(dtype)
    info = np.iinfo(dtype)
    values = rng.integers(max(info.min, -50), 50, size).astype(dtype)
    return np.concatenate([values, np.array([info.min, info.max], dtype)])


def search(parts, kind, rank, rng=None):
    """The value of a rank over parts of a dataset: (values, groups) each."""
    bits = 64 if np.dtype(kind).itemsize == 8 else 32
    state = RankSearch(bits)
    while not state.is_done:
        states = []
        for values, names in parts:
            groups = sorted_groups(set(names))
            codes = np.array([groups.index(name) for name in names], np.int64)
            states.append(state.observe(ordered_bits(values), groups, codes))
        if rng is not None:
            rng.shuffle(states)
        total = DigitCounts()
        for each in states:
            total = total + each
        state = RankSearch.from_json(state.narrowed(total, rank).to_json())
    return dict(zip(state.groups, values_of_bits(state.prefixes, np.dtype(kind)), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_bits_have_the_order_of_the_values_and_lead_back(kind):
    values = np.sort(values_of(kind, np.random.default_rng(0), 300))
    bits = ordered_bits(values)
    assert (np.diff(bits.astype(object)) >= 0).all()
    back = values_of_bits(bits, np.dtype(kind))
    assert back.dtype == np.dtype(kind)
    np.testing.assert_array_equal(back, values)
    assert ordered_bits(np.array([-0.0])) == ordered_bits(np.array([0.0]))


@pytest.mark.parametrize("case", range(50))
def test_thresholds_equal_a_sort_over_any_split(case):
    rng = np.random.default_rng(case)
    kind = KINDS[case % len(KINDS)]
    values = values_of(kind, rng, int(rng.integers(1, 400)))
    if case % 7 == 0:
        values[:] = values[0]  # a constant column
    cuts = np.sort(rng.integers(0, len(values) + 1, int(rng.integers(0, 9))))
    parts = [(part, [None] * len(part)) for part in np.split(values, cuts)]
    for place in {1, len(values), int(rng.integers(1, len(values) + 1))}:
        found = search(parts, kind, lambda rows, place=place: min(place, rows), rng)
        expected = np.sort(values)[::-1][place - 1]
        assert found[None] == expected and found[None].dtype == values.dtype


@pytest.mark.parametrize("case", range(10))
def test_groups_are_ranked_apart(case):
    rng = np.random.default_rng(case)
    values = values_of("float32", rng, 300)
    names = [None if n == 0 else f"g{n}" for n in rng.integers(0, 12, len(values))]
    cuts = np.sort(rng.integers(0, len(values), 5))
    parts = [
        (values[rows], [names[row] for row in rows])
        for rows in np.split(np.arange(len(values)), cuts)
        if len(rows)
    ]
    found = search(parts, "float32", lambda rows: int(rows * 0.3) + 1, rng)
    for name in set(names):
        own = values[[at for at, each in enumerate(names) if each == name]]
        assert found[name] == -np.sort(-own)[int(len(own) * 0.3)]
    assert set(found) == set(names)


def test_order_of_addition_does_not_matter():
    rng = np.random.default_rng(3)
    parts = [
        DigitCounts.from_digits(("a", f"b{at}"), rng.integers(0, 2, 40), rng.integers(0, 99, 40))
        for at in range(4)
    ]
    forward = parts[0] + parts[1] + parts[2] + parts[3]
    backward = (parts[3] + parts[2]) + (parts[1] + parts[0]) + DigitCounts()
    assert forward.groups == backward.groups == ("a", "b0", "b1", "b2", "b3")
    np.testing.assert_array_equal(forward.keys, backward.keys)
    np.testing.assert_array_equal(forward.counts, backward.counts)
    assert forward.counts.sum() == 160


def test_no_value_has_no_threshold():
    empty = RankSearch(32).observe(np.empty(0, np.uint32), ALL_ROWS, np.empty(0, np.int64))
    assert len(empty.keys) == 0 and len((empty + DigitCounts()).keys) == 0
