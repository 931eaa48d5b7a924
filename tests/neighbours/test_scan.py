"""High numbers are found in a tiled table wherever they are, negative zero and ties included."""

import numpy as np
import pytest
import torch

from clipsieve.neighbours.scan import TiledTable

LOWEST = -60000.0


def table(rows, columns, dtype, seed=0, lift=0.0):
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(rows, columns)) + lift
    numbers[rng.random(numbers.shape) < 0.05] = -np.inf
    numbers[rng.random(numbers.shape) < 0.05] = 0.0
    numbers[rng.random(numbers.shape) < 0.05] = -0.0
    return torch.from_numpy(numbers).to(dtype)


def found(tiled, low, below=None):
    pairs = [pair for part in tiled.at_least(low, below) for pair in zip(*part, strict=True)]
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
    monkeypatch.setattr("clipsieve.neighbours.scan.PORTION", 500)
    numbers = table(rows, 13, dtype, seed=tile)
    low = table(1, 13, dtype, seed=99).nan_to_num(neginf=LOWEST)[0]
    below = low + 0.7
    ordered = TiledTable.of(numbers.clone(), tile, ordered=True)
    assert found(ordered, low) == expected(numbers, low)
    assert found(ordered, low, below) == expected(numbers, low, below)
    assert len(expected(numbers, low, below)) > 0 or rows == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_positive_numbers_are_found_without_ordering(dtype):
    numbers = table(256, 9, dtype)
    low = torch.linspace(1e-3, 3, 9).to(dtype)
    plain = TiledTable.of(numbers, 32, ordered=False)
    assert plain.down_to(low) is plain
    assert found(plain, low) == expected(numbers, low)
    assert found(plain, low, low + 1) == expected(numbers, low, low + 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("least", [0.0, -0.0, -1.5])
def test_a_table_is_ordered_when_it_must_be(dtype, least):
    numbers = table(256, 9, dtype)
    low = torch.full((9,), least, dtype=dtype)
    plain = TiledTable.of(numbers.clone(), 32, ordered=False)
    assert found(plain.down_to(low), low) == expected(numbers, low)
    assert plain.down_to(low).ordered


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("lift", [-1.0, 0.0, 2.0])
def test_as_many_numbers_as_asked_for_are_as_high(ordered, lift):
    numbers = table(512, 20, torch.bfloat16, lift=lift)
    for k in (1, 4, 8):
        high = TiledTable.of(numbers.clone(), 8, ordered).high(k)
        enough = (numbers.double() >= high).sum(0) >= k
        assert enough.all()
        falling = numbers.double().sort(0, descending=True).values
        assert (high <= falling[k - 1]).all()
        if ordered or lift > 0:
            assert (high >= falling[2 * k + 4]).all()


def test_too_few_tiles_say_nothing():
    assert TiledTable.of(torch.ones(64, 3), 8, ordered=True).high(9).tolist() == [-np.inf] * 3
