"""Near-duplicates and their components equal those of a search over the whole matrix."""

import numpy as np
import pytest

from clipsieve.audit.components import Components
from clipsieve.audit.near import near_duplicates


def sets(labels):
    """The sets that labels stand for."""
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in set(labels.tolist())}


def naive_components(size, edges):
    """Sets found by following every edge from every number not yet seen."""
    near: dict[int, set[int]] = {n: set() for n in range(size)}
    for one, other in edges:
        near[one].add(other)
        near[other].add(one)
    found, seen = set(), set()
    for start in range(size):
        if start in seen:
            continue
        reached, todo = {start}, [start]
        while todo:
            new = near[todo.pop()] - reached
            reached |= new
            todo += new
        seen |= reached
        found.add(frozenset(reached))
    return found


def unit(vectors):
    wide = np.asarray(vectors, np.float64)
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("seed", range(6))
def test_components_equal_a_naive_search_in_any_order_of_edges(seed):
    rng = np.random.default_rng(seed)
    edges = rng.integers(0, 60, (int(rng.integers(1, 70)), 2))
    found = Components(60)
    for block in np.array_split(rng.permutation(edges), 5):
        found.join(block[:, 0], block[:, 1])
    assert sets(found.labels()) == naive_components(60, edges.tolist())
    smallest = [min(s) for n in range(60) for s in sets(found.labels()) if n in s]
    assert found.labels().tolist() == smallest


def test_a_long_chain_is_one_component():
    chain = np.random.default_rng(0).permutation(500)
    found = Components(500)
    found.join(chain[:-1], chain[1:])
    assert (found.labels() == 0).all()


def test_a_copy_is_joined_on_its_own():
    found = Components(3)
    other = found.copy()
    other.join(np.array([0]), np.array([2]))
    assert found.labels().tolist() == [0, 1, 2] and other.labels().tolist() == [0, 1, 0]
    assert other.apart(np.array([0, 0]), np.array([1, 2])).tolist() == [True, False]


@pytest.mark.parametrize("block_rows", [1, 7, 64, 2048])
@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95, 1.0])
def test_near_duplicates_equal_a_full_matrix(block_rows, threshold):
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(25, 6))
    vectors = unit(centres[rng.integers(25, size=150)] + rng.normal(size=(150, 6)) * 0.25)
    cosine = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    edges = np.argwhere(cosine >= threshold).tolist()
    found = near_duplicates(vectors, threshold, block_rows)
    assert sets(found.labels()) == naive_components(150, edges)


def test_order_of_rows_changes_nothing():
    rng = np.random.default_rng(4)
    vectors = unit(rng.normal(size=(120, 3)))
    order = rng.permutation(120)
    there = sets(near_duplicates(vectors, 0.97, 16).labels())
    back = sets(near_duplicates(vectors[order], 0.97, 16).labels())
    assert {frozenset(order[list(s)].tolist()) for s in back} == there


def test_cosine_of_exactly_the_threshold_is_near():
    vectors = np.array([[1, 0], [0.6, 0.8]], np.float32)
    exact = float(np.dot(*vectors.astype(np.float64)))
    assert len(sets(near_duplicates(vectors, exact).labels())) == 1
    assert len(sets(near_duplicates(vectors, np.nextafter(exact, 1)).labels())) == 2


def test_copies_in_every_block_are_one_set():
    vectors = np.repeat(unit([[1, 2, 3]]), 300, axis=0)
    assert (near_duplicates(vectors, 0.99, 32).labels() == 0).all()


def test_no_rows_have_no_sets():
    assert len(near_duplicates(np.zeros((0, 0), np.float32), 0.9).labels()) == 0
