"""The search finds the pairs that comparing all finds, each once."""

from math import comb

import numpy as np
import pytest

from clipsieve.errors import UsageError
from clipsieve.scorers.duplicates import hamming
from clipsieve.scorers.duplicates.hamming import hamming_pairs


def brute_force(values, distance):
    numbers = [int(value) for value in values]
    return sorted(
        (i, j)
        for j in range(len(numbers))
        for i in range(j)
        if (numbers[i] ^ numbers[j]).bit_count() <= distance
    )


def found(values, distance, agreeing=None):
    pairs = [
        pair
        for one, other in hamming_pairs(values, distance, agreeing)
        for pair in zip(one.tolist(), other.tolist(), strict=True)
    ]
    assert len(pairs) == len(set(pairs))
    return sorted(pairs)


def flipped(rng, values, most):
    """Copies of values with up to `most` bits changed."""
    copies = values.copy()
    for at in range(len(copies)):
        for bit in rng.choice(64, rng.integers(0, most + 1), replace=False):
            copies[at] ^= np.uint64(1) << np.uint64(bit)
    return copies


def planted(rng, count, most):
    values = rng.integers(1 << 64, size=count, dtype=np.uint64)
    made = np.concatenate([values, flipped(rng, values[: count // 2], most)])
    return rng.permutation(np.unique(made))


@pytest.mark.parametrize("distance", range(9))
def test_random_and_planted(distance):
    values = planted(np.random.default_rng(distance), 300, distance + 2)
    assert found(values, distance) == brute_force(values, distance)


@pytest.mark.parametrize("agreeing", [1, 2, 3, 4])
@pytest.mark.parametrize("distance", [1, 4, 6])
def test_whatever_the_number_of_blocks(distance, agreeing):
    values = planted(np.random.default_rng(agreeing), 120, distance + 1)
    assert found(values, distance, agreeing) == brute_force(values, distance)


@pytest.mark.parametrize("kept", [3, 10, 20])
@pytest.mark.parametrize("pairs", [100, 1 << 22])
def test_values_that_share_most_bits(monkeypatch, kept, pairs):
    """Few bits are free, so that many values share each key, on both sides of a long run."""
    monkeypatch.setattr(hamming, "_PAIRS", pairs)
    monkeypatch.setattr(hamming, "_LONG_RUN", 40)
    rng = np.random.default_rng(kept)
    free = np.uint64(sum(1 << int(bit) for bit in rng.choice(64, kept, replace=False)))
    common = rng.integers(1 << 64, dtype=np.uint64)
    values = np.unique(rng.integers(1 << 64, size=250, dtype=np.uint64) & free | common & ~free)
    assert found(values, 2) == brute_force(values, 2)
    assert found(values, 4) == brute_force(values, 4)


def test_all_neighbours_of_a_value():
    ones = [1 << bit for bit in range(64)]
    values = np.array([0, *ones, 3, 7, 15, 31], np.uint64)
    at_most_one = found(values, 1)
    assert {pair for pair in at_most_one if 0 in pair} == {(0, i) for i in range(1, 65)}
    assert len([pair for pair in found(values, 2) if pair[1] <= 64]) == 64 + comb(64, 2)


@pytest.mark.parametrize("count", [0, 1])
def test_no_pair(count):
    assert found(np.arange(count, dtype=np.uint64), 4) == []


def test_different_values_have_no_pair_at_distance_0():
    assert found(np.arange(10, dtype=np.uint64), 0) == []


@pytest.mark.parametrize("distance", [-1, 9, 2.0, True, "4"])
def test_other_distances_are_refused(distance):
    with pytest.raises(UsageError, match="Hamming distance must be"):
        list(hamming_pairs(np.arange(3, dtype=np.uint64), distance))
