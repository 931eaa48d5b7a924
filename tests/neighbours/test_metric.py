"""Distances are defined operation by operation, whatever the batch."""

import math

import numpy as np
import pytest
import torch

from clipsieve.neighbours.metric import defined_distances, prepare_vectors


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


def test_unit_vectors_do_not_depend_on_their_batch():
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.normal(size=(40, 33)).astype(np.float32)) * 1e-20
    together = prepare_vectors(rows, "cosine", 0, "reference")
    for row in range(40):
        alone = prepare_vectors(rows[row : row + 1], "cosine", 0, "reference")
        assert torch.equal(alone[0], together[row])
    assert together.double().norm(dim=1).sub(1).abs().max() < 1e-6
