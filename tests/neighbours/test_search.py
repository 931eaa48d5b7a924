"""Parts of the search: exact distances of pairs, copies of a row, tables in large pages."""

import gc

import numpy as np
import pytest
import torch

from clipsieve.neighbours.index import ExactIndex, SearchOptions
from clipsieve.neighbours.metric import defined_distances, round_lengths
from clipsieve.neighbours.search import (
    LARGE_PAGE,
    PairMeter,
    count_earlier_copies,
    empty_table,
)
from tests.neighbours.naive import naive_neighbours


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_quick_distances_are_the_defined_ones_at_the_edges(metric, dim):
    """In one dimension every second difference lies on the edge of two float32 numbers."""
    rng = np.random.default_rng(dim)
    rows = torch.from_numpy(rng.normal(size=(3000, dim)).astype(np.float32))
    queries = torch.from_numpy(rng.normal(size=(1, dim)) * 8).float().double()
    every = torch.arange(3000)
    quick = PairMeter(rows, metric, 128).measure(queries, torch.zeros_like(every), every)
    assert torch.equal(quick, defined_distances(rows.double() - queries, metric))
    unsure = round_lengths((rows.double() - queries).norm(dim=1), dim, metric)[1]
    assert len(unsure) > 100 or dim > 1 or metric == "cosine"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("rows, dim", [(1, 3), (200, 1), (9000, 5)])
def test_counts_equal_rows_before_each(rows, dim, dtype):
    rng = np.random.default_rng(rows)
    values = torch.from_numpy(rng.integers(0, 4, (rows, dim))).to(dtype)
    seen: dict[tuple, int] = {}
    expected = []
    for row in map(tuple, values.tolist()):
        expected.append(seen.get(row, 0))
        seen[row] = expected[-1] + 1
    copies = count_earlier_copies(values)
    assert ([0] * rows if copies is None else copies.tolist()) == expected


def test_no_copies():
    assert count_earlier_copies(torch.arange(10.0)[:, None]) is None


def test_rows_that_only_share_a_hash_are_not_copies(monkeypatch):
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.zeros(1, dtype=torch.int64))
    copies = count_earlier_copies(torch.tensor([[1.0], [2.0], [1.0], [2.0], [1.0]]))
    # All are compared with the first; what differs from it counts as different.
    assert copies is not None and copies.tolist() == [0, 0, 1, 0, 2]


@pytest.mark.parametrize("left_out", [0, 1, 3])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_as_many_copies_are_measured_as_can_be_lists(left_out, metric):
    rng = np.random.default_rng(left_out)
    few = rng.normal(size=(3, 6)).astype(np.float32)
    reference = few[rng.integers(0, 3, 3000)]
    own = np.stack([rng.permutation(12)[:left_out] for _ in range(40)]).reshape(40, left_out)
    queries = rng.normal(size=(40, 6)).astype(np.float32)
    options = SearchOptions(device="cpu", dtype="bfloat16")
    lists = ExactIndex(reference, metric=metric, options=options).search(queries, 7, own)
    distances, indices = naive_neighbours(queries, reference, 7, own, metric)
    np.testing.assert_array_equal(lists.indices, indices)
    np.testing.assert_array_equal(lists.distances, distances)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(0, 4), (7,), (LARGE_PAGE // 2, 3), (LARGE_PAGE + 1,)])
def test_a_table_holds_what_is_written(shape, dtype):
    table = empty_table(shape, dtype, torch.device("cpu"))
    assert (table.shape, table.dtype, table.is_contiguous()) == (shape, dtype, True)
    table.fill_(3.0)
    assert (table == 3).all()
    if table.numel() * dtype.itemsize >= LARGE_PAGE:
        assert table.data_ptr() % LARGE_PAGE == 0


def test_a_view_keeps_the_memory():
    last = empty_table((LARGE_PAGE,), torch.float32, torch.device("cpu")).fill_(5.0)[-1:]
    gc.collect()
    assert last.item() == 5.0
