"""Equal rows are counted as they come; none that could be found is lost."""

import numpy as np
import pytest
import torch

from clipsieve.neighbours import ExactIndex, SearchOptions
from clipsieve.neighbours.copies import earlier_copies
from tests.neighbours.naive import naive_neighbours


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
    copies = earlier_copies(values)
    assert ([0] * rows if copies is None else copies.tolist()) == expected


def test_no_copies():
    assert earlier_copies(torch.arange(10.0)[:, None]) is None


def test_rows_that_only_share_a_hash_are_not_copies(monkeypatch):
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.zeros(1, dtype=torch.int64))
    copies = earlier_copies(torch.tensor([[1.0], [2.0], [1.0], [2.0], [1.0]]))
    # All are compared with the first; what differs from it counts as different.
    assert copies is not None and copies.tolist() == [0, 0, 1, 0, 2]


@pytest.mark.parametrize("left_out", [0, 1, 3])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_as_many_copies_are_measured_as_can_be_found(left_out, metric):
    rng = np.random.default_rng(left_out)
    few = rng.normal(size=(3, 6)).astype(np.float32)
    reference = few[rng.integers(0, 3, 3000)]
    own = np.stack([rng.permutation(12)[:left_out] for _ in range(40)]).reshape(40, left_out)
    queries = rng.normal(size=(40, 6)).astype(np.float32)
    options = SearchOptions(device="cpu", dtype="bfloat16")
    found = ExactIndex(reference, metric=metric, options=options).search(queries, 7, own)
    distances, indices = naive_neighbours(queries, reference, 7, own, metric)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_array_equal(found.distances, distances)
