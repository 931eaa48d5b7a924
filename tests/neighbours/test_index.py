"""The search finds what a full sort of all distances finds, to the last bit, whatever the data."""

import numpy as np
import pytest

from clipsieve.neighbours import ExactIndex, SearchOptions
from tests.neighbours.naive import naive_neighbours

FORMATS = ["float32", "bfloat16"]
SHAPES = [(300, 8, 5), (2000, 64, 16), (500, 1, 7), (4, 3, 16), (1, 33, 1), (700, 129, 64)]


def options(dtype, **sizes):
    return SearchOptions(device="cpu", dtype=dtype, **sizes)


def assert_exact(queries, rows, k, dtype, own=None, metric="euclidean", first=0, **sizes):
    index = ExactIndex(rows, first, metric, options(dtype, **sizes))
    found = index.search(queries, k, own)
    distances, indices = naive_neighbours(queries, rows, k, own, metric, first)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_array_equal(found.distances, distances)
    assert (found.distances.dtype, found.indices.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("rows, dim, k", SHAPES)
def test_random_vectors(rows, dim, k, dtype, metric):
    rng = np.random.default_rng(rows)
    reference = rng.normal(size=(rows, dim)).astype(np.float32)
    queries = rng.normal(size=(90, dim)).astype(np.float32)
    assert_exact(queries, reference, k, dtype, metric=metric)
