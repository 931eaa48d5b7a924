"""Lists over parts of a reference add up to those over all of it; gaps and tables keep them."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.errors import UsageError
from clipsieve.neighbours.index import ExactIndex
from clipsieve.neighbours.lists import (
    NeighbourLists,
    fill_missing,
    lists_from_table,
    lists_table,
    merge_lists,
)


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
        assert_same(merge_lists([lists[n] for n in rng.permutation(parts)], 30), whole)
    assert_same(
        merge_lists([merge_lists(lists[: parts // 2 + 1], 30), *lists[parts // 2 + 1 :]], 30),
        whole,
    )


def test_shorter_lists_are_filled_up():
    one = NeighbourLists(np.array([[2.0, np.inf]], np.float32), np.array([[4, -1]]))
    merged = merge_lists([one, NeighbourLists.empty(1, 5)], 3)
    assert merged.indices.tolist() == [[4, -1, -1]]
    assert merged.distances.tolist() == [[2.0, np.inf, np.inf]]
    assert (merged.distances.dtype.name, merged.indices.dtype.name) == ("float32", "int64")


def test_ties_go_to_the_lower_number_whatever_the_order():
    one = NeighbourLists(np.array([[1.0, 1.0]], np.float32), np.array([[3, 8]]))
    other = NeighbourLists(np.array([[1.0, 1.0]], np.float32), np.array([[2, 5]]))
    for parts in ([one, other], [other, one]):
        assert merge_lists(parts, 3).indices.tolist() == [[2, 3, 5]]


def test_empty_lists_change_nothing():
    one = NeighbourLists(np.array([[1.0, 4.0]], np.float32), np.array([[3, 8]]))
    assert_same(merge_lists([one, NeighbourLists.empty(1, 2)], 2), one)
    assert_same(merge_lists([NeighbourLists.empty(1, 2), one], 2), one)


@pytest.mark.parametrize("k", [0, -1, 1.5, True, None])
def test_k_must_be_a_number_of_neighbours(k):
    with pytest.raises(UsageError, match=f"k must be an int of at least 1, got {k}"):
        merge_lists([NeighbourLists.empty(1, 1)], k)


def test_different_queries_are_refused():
    with pytest.raises(UsageError, match=r"different numbers of queries .* got \[1, 2\]"):
        merge_lists([NeighbourLists.empty(1, 1), NeighbourLists.empty(2, 1)], 1)
    with pytest.raises(UsageError, match="no lists were given"):
        merge_lists([], 1)


def test_rows_that_are_missing_get_empty_lists():
    lists = NeighbourLists(
        np.array([[0.5, 1], [2, np.inf]], np.float32), np.array([[4, 2], [9, -1]])
    )
    filled = fill_missing(lists, np.array([False, True, False, True]))
    assert filled.indices.tolist() == [[-1, -1], [4, 2], [-1, -1], [9, -1]]
    assert filled.distances.tolist() == [[np.inf] * 2, [0.5, 1], [np.inf] * 2, [2, np.inf]]
    assert (filled.distances.dtype.name, filled.indices.dtype.name) == ("float32", "int64")
    assert_same(fill_missing(lists, np.ones(2, bool)), lists)
    assert_same(
        fill_missing(NeighbourLists.empty(0, 3), np.zeros(5, bool)), NeighbourLists.empty(5, 3)
    )


@pytest.mark.parametrize("valid", [[True], [True, True, True], [False, False], []])
def test_lists_of_other_rows_than_the_valid_ones_are_refused(valid):
    with pytest.raises(UsageError, match=f"2 lists do not go with {sum(valid)} valid rows"):
        fill_missing(NeighbourLists.empty(2, 3), np.array(valid, bool))


def test_a_table_gives_the_lists_back():
    lists = NeighbourLists(
        np.array([[0.5, 1], [np.inf, np.inf], [2, np.inf]], np.float32),
        np.array([[4, 2], [-1, -1], [9, -1]]),
    )
    table = lists_table(pa.array(["x", "y", "z"]), lists)
    assert table.schema.field("neighbours").type == pa.list_(pa.int64())
    assert table.schema.field("distances").type == pa.list_(pa.float32())
    assert table.to_pydict() == {
        "uid": ["x", "y", "z"],
        "neighbours": [[4, 2], [], [9]],
        "distances": [[0.5, 1.0], [], [2.0]],
    }
    again = lists_from_table(table, 2)
    assert_same(again, lists)
    assert again.indices.dtype == np.int64


def test_a_table_in_pieces_gives_the_lists_back(vectors):
    reference, queries = vectors
    lists = ExactIndex(reference[:3]).search(queries, 5)
    table = lists_table(pa.array(range(50)), lists)
    pieces = pa.concat_tables([table.slice(0, 7), table.slice(7, 0), table.slice(7)])
    assert pieces["neighbours"].num_chunks > 1
    assert_same(lists_from_table(pieces, 5), lists)
    assert_same(
        lists_from_table(table.slice(20, 4), 5),
        NeighbourLists(lists.distances[20:24], lists.indices[20:24]),
    )
    nothing = lists_table(pa.array([], pa.string()), NeighbourLists.empty(0, 4))
    assert_same(lists_from_table(nothing, 4), NeighbourLists.empty(0, 4))
