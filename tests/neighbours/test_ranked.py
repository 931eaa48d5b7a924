"""Keys order like (distance, row), and the best are kept however they come."""

import numpy as np
import pytest
import torch

from clipsieve.neighbours.ranked import NOTHING, admit, distances_of, pack, rows_of


def test_keys_order_by_distance_and_then_row():
    distances = torch.tensor([0.0, 0.0, 1e-45, 1e-3, 1e-3, 1.0, 3e38])
    rows = torch.tensor([0, 2**31 - 1, 5, 3, 4, 0, 1])
    keys = pack(distances, rows)
    assert (keys[1:] > keys[:-1]).all() and (keys < NOTHING).all()
    assert distances_of(keys).tolist() == distances.tolist()
    assert rows_of(keys).tolist() == rows.tolist()


def test_no_row_is_infinitely_far():
    keys = torch.tensor([NOTHING])
    assert distances_of(keys).tolist() == [np.inf] and rows_of(keys).tolist() == [-1]


@pytest.mark.parametrize("most", [1, 3, 40, 400])
def test_the_best_are_kept(most):
    rng = np.random.default_rng(most)
    k, queries = 5, 30
    had = [sorted(rng.choice(10**6, k, replace=False).tolist()) for _ in range(queries)]
    new = [rng.choice(10**6, rng.integers(0, most + 1), replace=False).tolist() for _ in had]
    new[3] = []
    owners = torch.tensor([n for n, keys in enumerate(new) for _ in keys])
    keys = torch.tensor([2 * key + 1 for each in new for key in each], dtype=torch.int64)
    best = admit(torch.tensor(had) * 2, owners.long(), keys)
    for query in range(queries):
        both = [2 * key for key in had[query]] + [2 * key + 1 for key in new[query]]
        assert best[query].tolist() == sorted(both)[:k]


def test_lists_that_are_not_full_yet():
    best = torch.full((2, 3), NOTHING)
    best = admit(best, torch.tensor([1, 1]), torch.tensor([9, 4]))
    assert best.tolist() == [[NOTHING] * 3, [4, 9, NOTHING]]
