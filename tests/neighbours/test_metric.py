"""Distances are defined operation by operation, and quicker sums never change them."""

import math

import numpy as np
import pytest
import torch

from clipsieve.neighbours.exact import PairMeter
from clipsieve.neighbours.metric import defined_distances, round_lengths, unit_rows


def by_halves(squares):
    """The defined sum, a list at a time."""
    squares = list(squares)
    while len(squares) > 1:
        half = len(squares) // 2
        tail = squares[len(squares) - half :]
        middle = squares[half : len(squares) - half]
        squares = [one + other for one, other in zip(squares[:half], tail, strict=True)] + middle
    return squares[0]


@pytest.mark.parametrize("dim", [1, 2, 3, 7, 64, 100])
def test_distances_follow_the_definition(dim):
    rng = np.random.default_rng(dim)
    differences = rng.normal(size=(50, dim)) * 10.0 ** rng.integers(-12, 12, (50, dim))
    sums = [by_halves([value * value for value in row]) for row in differences.tolist()]
    tensor = torch.from_numpy(differences)
    euclidean = defined_distances(tensor.clone(), "euclidean")
    assert euclidean.tolist() == [float(np.float32(math.sqrt(s))) for s in sums]
    cosine = defined_distances(tensor.clone(), "cosine")
    assert cosine.tolist() == [float(np.float32(s / 2)) for s in sums]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_quick_distances_are_the_defined_ones_at_the_edges(metric, dim):
    """In one dimension every second difference lies on the edge of two float32 numbers."""
    rng = np.random.default_rng(dim)
    rows = torch.from_numpy(rng.normal(size=(3000, dim)).astype(np.float32))
    queries = torch.from_numpy(rng.normal(size=(1, dim)) * 8).float().double()
    every = torch.arange(3000)
    quick = PairMeter.of(rows, metric, 128).measure(queries, torch.zeros_like(every), every)
    assert torch.equal(quick, defined_distances(rows.double() - queries, metric))
    unsure = round_lengths((rows.double() - queries).norm(dim=1), dim, metric)[1]
    assert len(unsure) > 100 or dim > 1 or metric == "cosine"


def test_unit_rows_do_not_depend_on_their_batch():
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.normal(size=(40, 33)).astype(np.float32)) * 1e-20
    together = unit_rows(rows, 0, "reference")
    for row in range(40):
        assert torch.equal(unit_rows(rows[row : row + 1], 0, "reference")[0], together[row])
    assert together.double().norm(dim=1).sub(1).abs().max() < 1e-6
