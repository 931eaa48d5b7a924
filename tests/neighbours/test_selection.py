"""High numbers and low keys are found wherever they are, negative zero and ties included."""

import numpy as np
import pytest
import torch

from clipsieve.neighbours.selection import (
    NO_KEY,
    TiledTable,
    keep_lowest,
    key_distances,
    key_rows,
    make_keys,
)

LOWEST = -60000.0


def table(rows, columns, dtype, seed=0, lift=0.0):
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(rows, columns)) + lift
    numbers[rng.random(numbers.shape) < 0.05] = -np.inf
    numbers[rng.random(numbers.shape) < 0.05] = 0.0
    numbers[rng.random(numbers.shape) < 0.05] = -0.0
    return torch.from_numpy(numbers).to(dtype)


def finds(tiled, low, below=None):
    pairs = [pair for part in tiled.find(low, below) for pair in zip(*part, strict=True)]
    columns = [int(column) for column, _ in pairs]
    assert columns == sorted(columns)
    return sorted((int(column), int(row)) for column, row in pairs)


def expected(numbers, low, below=None):
    good = numbers >= low
    if below is not None:
        good &= numbers < below
    return sorted((int(column), int(row)) for row, column in good.nonzero())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rows, tile", [(1, 1), (64, 1), (64, 4), (96, 8), (512, 64), (384, 128)])
def test_finds_what_a_plain_comparison_finds(dtype, rows, tile, monkeypatch):
    monkeypatch.setattr("clipsieve.neighbours.selection.PORTION", 500)
    numbers = table(rows, 13, dtype, seed=tile)
    low = table(1, 13, dtype, seed=99).nan_to_num(neginf=LOWEST)[0]
    below = low + 0.7
    ordered = TiledTable.from_numbers(numbers.clone(), tile, ordered=True)
    assert finds(ordered, low) == expected(numbers, low)
    assert finds(ordered, low, below) == expected(numbers, low, below)
    assert len(expected(numbers, low, below)) > 0 or rows == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_positive_numbers_are_found_without_ordering(dtype):
    numbers = table(256, 9, dtype)
    low = torch.linspace(1e-3, 3, 9).to(dtype)
    plain = TiledTable.from_numbers(numbers, 32, ordered=False)
    assert plain.covering(low) is plain
    assert finds(plain, low) == expected(numbers, low)
    assert finds(plain, low, low + 1) == expected(numbers, low, low + 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("least", [0.0, -0.0, -1.5])
def test_a_table_is_ordered_when_it_must_be(dtype, least):
    numbers = table(256, 9, dtype)
    low = torch.full((9,), least, dtype=dtype)
    plain = TiledTable.from_numbers(numbers.clone(), 32, ordered=False)
    assert finds(plain.covering(low), low) == expected(numbers, low)
    assert plain.covering(low).ordered


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("lift", [-1.0, 0.0, 2.0])
def test_as_many_numbers_as_asked_for_are_as_high(ordered, lift):
    numbers = table(512, 20, torch.bfloat16, lift=lift)
    for k in (1, 4, 8):
        high = TiledTable.from_numbers(numbers.clone(), 8, ordered).kth_highest(k)
        enough = (numbers.double() >= high).sum(0) >= k
        assert enough.all()
        falling = numbers.double().sort(0, descending=True).values
        assert (high <= falling[k - 1]).all()
        if ordered or lift > 0:
            assert (high >= falling[2 * k + 4]).all()


def test_too_few_tiles_say_nothing():
    assert (
        TiledTable.from_numbers(torch.ones(64, 3), 8, ordered=True).kth_highest(9).tolist()
        == [-np.inf] * 3
    )


def test_keys_order_by_distance_and_then_row():
    distances = torch.tensor([0.0, 0.0, 1e-45, 1e-3, 1e-3, 1.0, 3e38])
    rows = torch.tensor([0, 2**31 - 1, 5, 3, 4, 0, 1])
    keys = make_keys(distances, rows)
    assert (keys[1:] > keys[:-1]).all() and (keys < NO_KEY).all()
    assert key_distances(keys).tolist() == distances.tolist()
    assert key_rows(keys).tolist() == rows.tolist()


def test_no_row_is_infinitely_far():
    keys = torch.tensor([NO_KEY])
    assert key_distances(keys).tolist() == [np.inf] and key_rows(keys).tolist() == [-1]


@pytest.mark.parametrize("most", [1, 3, 40, 400])
def test_the_best_are_kept(most):
    rng = np.random.default_rng(most)
    k, queries = 5, 30
    old = [sorted(rng.choice(10**6, k, replace=False).tolist()) for _ in range(queries)]
    new = [rng.choice(10**6, rng.integers(0, most + 1), replace=False).tolist() for _ in old]
    new[3] = []
    owners = torch.tensor([n for n, keys in enumerate(new) for _ in keys])
    keys = torch.tensor([2 * key + 1 for each in new for key in each], dtype=torch.int64)
    best = keep_lowest(torch.tensor(old) * 2, owners.long(), keys)
    for query in range(queries):
        union = [2 * key for key in old[query]] + [2 * key + 1 for key in new[query]]
        assert best[query].tolist() == sorted(union)[:k]


def test_lists_that_are_not_full_yet():
    best = torch.full((2, 3), NO_KEY)
    best = keep_lowest(best, torch.tensor([1, 1]), torch.tensor([9, 4]))
    assert best.tolist() == [[NO_KEY] * 3, [4, 9, NO_KEY]]
