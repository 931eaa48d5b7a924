"""Groups of near pictures equal those of plain loops over cosines, and are no chains."""

import math

import numpy as np
import pytest

from clipsieve.audit import near
from clipsieve.audit.near import nearest, representatives


def unit(vectors):
    wide = np.asarray(vectors, np.float64)
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)


def clustered(rows, seed, dim=6):
    """Unit vectors around a few centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(rows // 6, 1), dim))
    return unit(centres[rng.integers(len(centres), size=rows)] + rng.normal(size=(rows, dim)) * 0.2)


def cosine(one, other):
    return math.fsum(float(a) * float(b) for a, b in zip(one, other, strict=True))


def naive_representatives(vectors, threshold, least, most):
    """Each row in turn: no earlier one is near, and enough rows are."""
    chosen: list[int] = []
    for row in range(len(vectors)):
        if len(chosen) == most or any(
            cosine(vectors[row], vectors[c]) >= threshold for c in chosen
        ):
            continue
        if sum(cosine(vectors[row], other) >= threshold for other in vectors) >= least:
            chosen.append(row)
    return chosen


def naive_nearest(vectors, centres, threshold):
    found = []
    for vector in vectors:
        cosines = [cosine(vector, centre) for centre in centres]
        best = max(range(len(cosines)), key=lambda n: (cosines[n], -n))
        found.append(best if cosines[best] >= threshold else -1)
    return found


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.97])
@pytest.mark.parametrize(("least", "most"), [(1, 512), (3, 512), (3, 4)])
def test_representatives_equal_a_plain_loop(threshold, least, most):
    vectors = clustered(120, 1)
    found = representatives(vectors, threshold, least, most).tolist()
    assert found == naive_representatives(vectors, threshold, least, most)
    assert len(found) > 1


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.97])
def test_nearest_equals_a_plain_loop(threshold):
    vectors, centres = clustered(150, 2), clustered(150, 2)[:20]
    found = nearest(vectors, centres, threshold).tolist()
    assert found == naive_nearest(vectors, centres, threshold)
    assert -1 in found and len(set(found)) > 10


def test_sizes_of_blocks_change_nothing(monkeypatch):
    vectors = clustered(200, 3)
    before = representatives(vectors, 0.9, 3, 512)
    numbers = nearest(vectors, vectors[before], 0.9)
    for rows in (1, 7, 64):
        monkeypatch.setattr(near, "BLOCK_ROWS", rows)
        monkeypatch.setattr(near, "_ROWS_AT_ONCE", rows)
        assert np.array_equal(representatives(vectors, 0.9, 3, 512), before)
        assert np.array_equal(nearest(vectors, vectors[before], 0.9), numbers)


def test_a_chain_of_pictures_is_no_group():
    turn = math.acos(0.975)
    chain = unit([[math.cos(n * turn), math.sin(n * turn)] for n in range(12)])
    assert all(cosine(chain[n], chain[n + 1]) >= 0.97 for n in range(11))
    chosen = representatives(chain, 0.97, 2, 512)
    numbers = nearest(chain, chain[chosen], 0.97)
    groups = [np.flatnonzero(numbers == n).tolist() for n in range(len(chosen))]
    assert len(groups) > 3 and max(map(len, groups)) <= 3
    for number, rows in enumerate(groups):
        assert all(cosine(chain[row], chain[chosen[number]]) >= 0.97 for row in rows)


def test_rows_in_front_are_preferred():
    vectors = unit([[1, 0], [1, 0.1], [1, 0.2], [0, 1], [0.05, 1], [0.1, 1]])
    assert representatives(vectors, 0.97, 3, 512).tolist() == [0, 3]
    assert representatives(vectors[[1, 0, 2, 5, 4, 3]], 0.97, 3, 512).tolist() == [0, 3]
    assert representatives(vectors, 0.97, 4, 512).tolist() == []


def test_among_equal_centres_the_first_is_the_nearest():
    centres = unit([[0, 1], [1, 0], [1, 0], [1, 1]])
    assert nearest(unit([[1, 0.01], [0, 1]]), centres, 0.9).tolist() == [1, 0]
    # As near to one centre as to the other.
    between = unit([[1, 0]])
    centres = unit([[1, -0.2], [1, 0.2]])
    assert nearest(between, centres, 0.9).tolist() == [0]
    assert nearest(between, centres[::-1], 0.9).tolist() == [0]


@pytest.mark.parametrize("dim", [8, 64, 512])
@pytest.mark.parametrize("threshold", [0.97, 1.0])
def test_a_picture_is_near_itself_whatever_the_threshold(dim, threshold):
    rng = np.random.default_rng(dim)
    vectors = unit(np.concatenate([rng.normal(size=(50, dim)), np.ones((1, dim))]))
    assert nearest(vectors, vectors, threshold).tolist() == list(range(51))
    twice = np.concatenate([vectors, vectors])
    assert representatives(twice, threshold, 2, 512).tolist() == list(range(51))


def test_nothing_is_near_nothing():
    none = np.zeros((0, 4), np.float32)
    assert representatives(none, 0.9, 1, 512).tolist() == []
    assert nearest(none, unit(np.eye(4)), 0.9).tolist() == []
    assert nearest(unit(np.eye(4)), none, 0.9).tolist() == [-1] * 4
