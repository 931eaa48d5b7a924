"""All against all: equal to naive loops, whatever the block; ties, own rows, too few rows."""

import numpy as np
import pytest

from clipsieve.scorers import brute_force
from clipsieve.scorers.brute_force import nearest
from tests.scorers import naive_density as naive


@pytest.mark.parametrize("block", [1, 100, 1 << 22])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_lists_are_those_of_naive_loops(monkeypatch, block, k):
    monkeypatch.setattr(brute_force, "_BLOCK", block)
    rng = np.random.default_rng(0)
    # Whole numbers: many ties, and distances that both ways round alike.
    queries = rng.integers(3, size=(20, 3)).astype(float)
    reference = rng.integers(3, size=(30, 3)).astype(float)
    own = rng.integers(-1, 30, size=(20, 2))
    distances, indices = nearest(queries, reference, own, k)
    expected = naive.lists(queries, reference, own, k)
    assert np.array_equal(distances, expected[0])
    assert np.array_equal(indices, expected[1])


def test_equal_rows_far_from_the_origin_are_at_distance_zero():
    rows = np.full((3, 100), 1e4, np.float32) + np.float32(0.1)
    distances, indices = nearest(rows, rows, np.arange(3)[:, None], 2)
    assert distances.dtype == np.float32
    assert distances.tolist() == [[0, 0]] * 3
    assert indices.tolist() == [[1, 2], [0, 2], [0, 1]]


def test_an_empty_reference_gives_no_neighbours():
    distances, indices = nearest(np.ones((2, 3)), np.ones((0, 3)), np.zeros((2, 0), int), 2)
    assert np.isposinf(distances).all()
    assert (indices == -1).all()
