"""k-means against a plain loop, on planted clusters, with duplicates and empty clusters."""

import numpy as np
import pytest

from clipsieve.scorers.spherical_kmeans import spherical_kmeans


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def planted(clusters, each, dim=20, seed=0, noise=0.05):
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(clusters, dim)))
    labels = rng.permutation(np.repeat(np.arange(clusters), each))
    return unit(centres[labels] + noise * rng.normal(size=(len(labels), dim))), labels


def naive(vectors, clusters, iterations, seed):
    """One vector after the other, as the docstring says; without duplicates among the vectors."""
    first = np.random.default_rng(seed).permutation(len(vectors))[:clusters]
    centroids = vectors[first].copy()
    for _ in range(iterations):
        cosines = vectors @ centroids.T
        assigned = cosines.argmax(axis=1)
        own = cosines[np.arange(len(vectors)), assigned]
        lonely = iter(np.argsort(own, kind="stable"))
        for cluster in range(clusters):
            members = vectors[assigned == cluster]
            total = members.sum(axis=0) if len(members) else vectors[next(lonely)]
            centroids[cluster] = total / np.linalg.norm(total)
    return centroids


@pytest.mark.parametrize("clusters", [1, 6, 60])
def test_centroids_are_those_of_a_plain_loop(clusters):
    vectors, _ = planted(9, 30, noise=0.3)
    rounded = vectors.astype(np.float32)
    expected = naive(unit(rounded.astype(np.float64)), clusters, 8, seed=5)
    got = spherical_kmeans(rounded * 3, clusters, 8, seed=5)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)


def test_planted_clusters_are_not_mixed():
    vectors, labels = planted(5, 200)
    centroids = spherical_kmeans(vectors, 15, 20, seed=1)
    assigned = (vectors @ centroids.T).argmax(axis=1)
    pure = [len(set(labels[assigned == at])) for at in range(15) if (assigned == at).any()]
    assert sum(count == 1 for count in pure) >= len(pure) - 1


def test_a_centroid_without_vectors_goes_to_the_one_that_fits_least():
    """The centroid that begins between two others loses all its vectors."""
    angles = np.radians([0, 1, 2, 3, 4, 5, 6, 90, 91, 170])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for seed in range(20):
        centroids = spherical_kmeans(vectors, 3, 30, seed)
        assigned = (vectors @ centroids.T).argmax(axis=1)
        assert len(set(assigned.tolist())) == 3, seed


def test_equal_vectors_begin_as_one_centroid():
    vectors = np.repeat(np.eye(4), [50, 1, 30, 2], axis=0)
    centroids = spherical_kmeans(vectors, 10, 5, seed=0)
    assert sorted(map(tuple, centroids.tolist())) == sorted(map(tuple, np.eye(4).tolist()))


def test_vectors_that_cancel_out_leave_their_centroid_where_it_is():
    vectors = np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert np.abs(spherical_kmeans(vectors, 1, 3, seed=0)).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("threads", ["1", "3"])
def test_the_number_of_threads_changes_no_bit(monkeypatch, threads):
    vectors, _ = planted(30, 400, noise=0.4)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    expected = spherical_kmeans(vectors, 40, 4, seed=2)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert np.array_equal(spherical_kmeans(vectors, 40, 4, seed=2), expected)
    assert not np.array_equal(spherical_kmeans(vectors, 40, 4, seed=3), expected)
