"""Isolation forest: scikit-learn's, turned over; missing rows; refusals."""

import sys

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest

from clipsieve.errors import UsageError
from clipsieve.scorers.isolation import isolation_forest


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)


def test_scores_are_those_of_scikit_learn_with_the_sign_turned(vectors):
    forest = IsolationForest(n_estimators=100, random_state=3).fit(vectors[:200])
    expected = -forest.score_samples(vectors)
    assert np.array_equal(isolation_forest(vectors, vectors[:200], 3), expected)


def test_a_row_apart_has_the_highest_score(vectors):
    far = vectors.copy()
    far[17] = 30
    scores = isolation_forest(far, far, 0)
    assert scores.argmax() == 17
    assert ((scores > 0) & (scores <= 1)).all()


def test_equal_seeds_give_equal_scores_and_others_do_not(vectors):
    first = isolation_forest(vectors, vectors, 1)
    assert np.array_equal(first, isolation_forest(vectors, vectors, 1))
    assert not np.array_equal(first, isolation_forest(vectors, vectors, 2))


def test_a_score_does_not_depend_on_the_other_rows_scored(vectors):
    whole = isolation_forest(vectors, vectors, 0)
    assert np.array_equal(isolation_forest(vectors[40:60], vectors, 0), whole[40:60])


def test_missing_rows_are_undefined_and_not_fitted(vectors):
    holed = vectors.copy()
    holed[5, 1], holed[9] = np.nan, np.inf
    there = np.isfinite(holed).all(axis=1)
    scores = isolation_forest(holed, holed, 0)
    assert np.isnan(scores).tolist() == (~there).tolist()
    assert np.array_equal(scores[there], isolation_forest(holed[there], holed[there], 0))


def test_equal_reference_rows_tell_nothing_apart():
    rows = np.ones((5, 3))
    for reference in (rows, rows[:1]):
        assert isolation_forest(2 * rows, reference, 0).tolist() == pytest.approx([0.5] * 5)


def test_no_rows_give_an_empty_array(vectors):
    assert isolation_forest(vectors[:0], vectors, 0).shape == (0,)
    assert np.isnan(isolation_forest(np.full((2, 4), np.nan), vectors, 0)).all()


def test_a_reference_without_usable_rows_is_refused(vectors):
    with pytest.raises(UsageError, match="none of the 2 reference rows is finite"):
        isolation_forest(vectors, np.full((2, 4), np.nan), 0)


def test_shapes_that_do_not_fit_are_refused(vectors):
    with pytest.raises(UsageError, match=r"\(300, 4\) and reference of shape \(300, 3\)"):
        isolation_forest(vectors, vectors[:, :3], 0)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(vectors, seed):
    with pytest.raises(UsageError, match=f"seed must be from 0 to .*, got {seed}"):
        isolation_forest(vectors, vectors, seed)


def test_a_missing_scikit_learn_is_said_with_its_cure(vectors, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(UsageError, match=r"pip install 'clipsieve\[forest\]'"):
        isolation_forest(vectors, vectors, 0)
