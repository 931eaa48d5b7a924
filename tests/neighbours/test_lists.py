"""Lists over parts of a reference add up to the lists over all of it."""

from itertools import pairwise

import numpy as np
import pytest

from clipsieve.errors import UsageError
from clipsieve.neighbours import ExactIndex, Neighbours, merge_neighbours


def assert_same(one, other):
    np.testing.assert_array_equal(one.indices, other.indices)
    assert one.distances.tobytes() == other.distances.tobytes()


@pytest.fixture
def vectors():
    rng = np.random.default_rng(0)
    few = rng.integers(-2, 3, size=(300, 4)).astype(np.float32)
    return few[rng.integers(0, 300, 1000)], few[rng.integers(0, 300, 50)]


@pytest.mark.parametrize("parts", [1, 2, 7, 40])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_any_split_in_any_order_gives_the_search_over_all(vectors, parts, metric):
    reference, queries = (each + np.float32(0.5) for each in vectors)
    rng = np.random.default_rng(parts)
    own = rng.integers(-1, 1000, (50, 2))
    whole = ExactIndex(reference, metric=metric).search(queries, 30, own)
    cuts = [0, *np.sort(rng.integers(0, 1001, parts - 1)).tolist(), 1000]
    lists = [
        ExactIndex(reference[start:stop], start, metric).search(queries, 30, own)
        for start, stop in pairwise(cuts)
    ]
    assert len(lists) == parts
    for _ in range(3):
        assert_same(merge_neighbours([lists[n] for n in rng.permutation(parts)], 30), whole)
    assert_same(
        merge_neighbours(
            [merge_neighbours(lists[: parts // 2 + 1], 30), *lists[parts // 2 + 1 :]], 30
        ),
        whole,
    )


def test_shorter_lists_are_filled_up():
    one = Neighbours(np.array([[2.0, np.inf]], np.float32), np.array([[4, -1]]))
    merged = merge_neighbours([one, Neighbours.none(1, 5)], 3)
    assert merged.indices.tolist() == [[4, -1, -1]]
    assert merged.distances.tolist() == [[2.0, np.inf, np.inf]]
    assert (merged.distances.dtype.name, merged.indices.dtype.name) == ("float32", "int64")


def test_ties_go_to_the_lower_number_whatever_the_order():
    one = Neighbours(np.array([[1.0, 1.0]], np.float32), np.array([[3, 8]]))
    other = Neighbours(np.array([[1.0, 1.0]], np.float32), np.array([[2, 5]]))
    for parts in ([one, other], [other, one]):
        assert merge_neighbours(parts, 3).indices.tolist() == [[2, 3, 5]]


def test_none_changes_nothing():
    one = Neighbours(np.array([[1.0, 4.0]], np.float32), np.array([[3, 8]]))
    assert_same(merge_neighbours([one, Neighbours.none(1, 2)], 2), one)
    assert_same(merge_neighbours([Neighbours.none(1, 2), one], 2), one)


@pytest.mark.parametrize("k", [0, -1, 1.5, True, None])
def test_k_must_be_a_number_of_neighbours(k):
    with pytest.raises(UsageError, match=f"k must be an int of at least 1, got {k}"):
        merge_neighbours([Neighbours.none(1, 1)], k)


def test_different_queries_are_refused():
    with pytest.raises(UsageError, match=r"different numbers of queries .* got \[1, 2\]"):
        merge_neighbours([Neighbours.none(1, 1), Neighbours.none(2, 1)], 1)
    with pytest.raises(UsageError, match="no lists were given"):
        merge_neighbours([], 1)
