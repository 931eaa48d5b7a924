"""The best centroid against float64 products, ties, near ties, and batches of any size."""

import numpy as np
import pytest

from clipsieve.scorers.centroids import Centroids


def unit(rng, rows, dim):
    vectors = rng.normal(size=(rows, dim))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(("rows", "count", "dim"), [(500, 37, 16), (50, 1, 3), (7, 400, 65)])
def test_it_is_the_argmax_of_inner_products(rows, count, dim):
    rng = np.random.default_rng(count)
    vectors = unit(rng, rows, dim)
    centroids = rng.normal(size=(count, dim)).astype(np.float32) * rng.uniform(0.1, 9, (count, 1))
    rounded = centroids.astype(np.float32).astype(np.float64)
    assigned = Centroids(centroids).assign(vectors)
    assert assigned.dtype == np.int32
    assert assigned.tolist() == (vectors @ rounded.T).argmax(axis=1).tolist()


def test_the_first_of_equal_products_wins():
    centroids = np.array([[0.0, 1.0], [1.0, 0.5], [1.0, -0.5], [1.0, 0.5]])
    vectors = np.array([[1.0, 0.0], [1.0, 1e-9], [1.0, -1e-9], [0.0, 2.0], [-1.0, 0.0]])
    assert Centroids(centroids).assign(vectors).tolist() == [1, 1, 2, 0, 0]


def test_near_ties_are_decided_in_float64_in_batches_of_any_size():
    """Centroids that differ by less than float32 products are exact to."""
    rng = np.random.default_rng(3)
    base = unit(rng, 5, 512).astype(np.float32)
    copies = np.repeat(base, 8, axis=0)
    copies[np.arange(40), rng.integers(0, 512, 40)] *= np.float32(1 + 2e-6)
    centroids = Centroids(rng.permutation(copies))
    vectors = unit(rng, 300, 512) * 0.02 + np.repeat(base, 60, axis=0)
    expected = (vectors @ centroids.vectors.astype(np.float64).T).argmax(axis=1).tolist()
    for size in (1, 7, 64, 300):
        parts = [centroids.assign(vectors[at : at + size]) for at in range(0, 300, size)]
        assert np.concatenate(parts).tolist() == expected
    plain = (vectors.astype(np.float32) @ centroids.vectors.T).argmax(axis=1)
    assert plain.tolist() != expected  # so the case is one in which float32 is not enough


def test_the_scale_of_a_vector_does_not_count():
    rng = np.random.default_rng(4)
    vectors, centroids = unit(rng, 90, 12), Centroids(rng.normal(size=(30, 12)))
    assert np.array_equal(centroids.assign(vectors), centroids.assign(vectors * 37.5))
    half = vectors.astype(np.float16)
    assert np.array_equal(centroids.assign(half), centroids.assign(half.astype(np.float64)))


def test_equal_vectors_have_equal_products_wherever_they_stand():
    rng = np.random.default_rng(5)
    centroids = Centroids(unit(rng, 3, 129))
    vectors = unit(rng, 9000, 129)
    vectors[[1, 4095, 4096, 8999]] = vectors[17]
    assigned = centroids.assign(vectors)
    products = centroids.products(vectors, assigned)
    assert len(set(products[[17, 1, 4095, 4096, 8999]].tolist())) == 1
    expected = (vectors * centroids.vectors[assigned].astype(np.float64)).sum(axis=1)
    np.testing.assert_allclose(products, expected, rtol=1e-12, atol=1e-14)


def test_no_vectors_have_no_centroids():
    centroids = Centroids(np.ones((2, 3)))
    assert len(centroids) == 2
    assert centroids.assign(np.empty((0, 3))).tolist() == []
    assert centroids.products(np.empty((0, 3)), np.empty(0, np.int32)).tolist() == []
