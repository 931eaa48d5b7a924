"""The highest cosine with an earlier vector: the released code's values, a loop, block sizes."""

from pathlib import Path

import numpy as np
import pytest

from clipsieve.scorers.earlier_similarity import max_earlier_similarity

ORACLE = Path(__file__).resolve().parents[1] / "data" / "semdedup.npz"


def naive(vectors):
    wide = vectors.astype(np.float64)
    return [max([0.0, *(float(wide[i] @ wide[j]) for i in range(j))]) for j in range(len(wide))]


def random(rows, dim, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_values_are_those_of_the_released_code():
    with np.load(ORACLE) as oracle:
        got = max_earlier_similarity(oracle["vectors"])
        np.testing.assert_allclose(got, oracle["similarities"], atol=1e-6)


@pytest.mark.parametrize("rows", [0, 1, 2, 64, 65, 200])
@pytest.mark.parametrize("block", [1, 64, 1024])
def test_values_are_those_of_a_plain_loop_in_blocks_of_any_size(rows, block):
    vectors = random(rows, 12)
    vectors[rows // 2 :: 9] = vectors[: len(vectors[rows // 2 :: 9])]
    got = max_earlier_similarity(vectors, block)
    assert got.dtype == np.float32 and got.shape == (rows,)
    np.testing.assert_allclose(got, naive(vectors), atol=1e-6)


def test_no_similarity_is_negative_or_above_one():
    vectors = np.array([[1, 0], [-1, 0], [0, 1], [1, 0]], np.float32)
    assert max_earlier_similarity(vectors).tolist() == [0, 0, 0, 1]
    copies = np.repeat(random(1, 333), 50, axis=0)
    assert max_earlier_similarity(copies).max() <= 1


def test_a_vector_that_is_dropped_still_counts_for_later_ones():
    angles = np.radians([0, 15, 30])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    np.testing.assert_allclose(
        max_earlier_similarity(vectors), [0, np.cos(np.radians(15)), np.cos(np.radians(15))], 1e-6
    )
