"""Published density scores: by hand, against naive loops and scikit-learn, and at the edges."""

import numpy as np
import pytest
from sklearn.neighbors import LocalOutlierFactor

from clipsieve.errors import UsageError
from clipsieve.scorers.density import (
    LID_MAX,
    RATIO_MAX,
    RATIO_TO_ZERO,
    ReferenceDensity,
    dao,
    k_distance,
    lid_mle,
    lid_mom,
    lof,
    reference_density,
    slof,
)
from tests.scorers import naive_density as naive

RELATIVE = {"slof": slof, "dao": dao, "lof": lof}
LIST_ONLY = {"k_distance": k_distance, "lid_mle": lid_mle, "lid_mom": lid_mom}


def gaussian(rng, rows):
    return rng.normal(size=(rows, 6))


def clustered(rng, rows):
    """Clusters of very different spread, and a few rows far from all."""
    spread = np.array([0.001, 0.1, 3.0])[rng.integers(3, size=rows)]
    rows = rng.normal(size=(rows, 6)) * spread[:, None] + 10 * np.sign(spread - 0.01)[:, None]
    rows[:3] += 100
    return rows


def duplicated(rng, rows):
    """Few places, so that many rows share one and most distances are tied."""
    return rng.integers(3, size=(rows, 2)).astype(float)


def with_copies(rng, rows):
    """Distinct rows, some copied twice or often enough for a k-distance of 0."""
    kinds = np.minimum(rng.integers(rows, size=rows), rows // 2)
    return rng.normal(size=(rows, 3))[kinds]


DATA = {made.__name__: made for made in (gaussian, clustered, duplicated, with_copies)}


@pytest.fixture(params=DATA)
def rows(request):
    return DATA[request.param](np.random.default_rng(5), 60)


def close(value, expected):
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)


def scores_within(rows, k=5, lid_k=5, make=naive.within):
    """All scores of rows among themselves."""
    distances, indices = make(rows, max(k, lid_k))
    density = reference_density(distances, indices, k)
    return {name: score(distances, indices, density, k) for name, score in RELATIVE.items()} | {
        "k_distance": k_distance(distances, k),
        "lid_mle": lid_mle(distances, lid_k),
        "lid_mom": lid_mom(distances, lid_k),
    }


# Against naive loops.


def test_scores_within_a_set_are_those_of_naive_loops(rows):
    k, lid_k = 5, 8
    distances, indices = lists = naive.within(rows, lid_k)
    every = range(len(rows))
    scores = scores_within(rows, k, lid_k)
    close(scores["k_distance"], [naive.k_distance(distances, i, k) for i in every])
    close(scores["lid_mle"], [naive.lid(distances, i, lid_k) for i in every])
    close(scores["lid_mom"], [naive.lid_moments(distances, i, lid_k) for i in every])
    close(scores["slof"], [naive.slof(distances, indices, i, lists, k) for i in every])
    close(scores["lof"], [naive.lof(distances, indices, i, lists, k) for i in every])
    close(scores["dao"], [naive.dao(distances, indices, i, lists, k, k) for i in every])


def test_scores_against_a_fixed_reference_are_those_of_naive_loops(rows):
    k = 5
    queries = np.concatenate([rows[:10], rows[20:30] + 0.3])
    reference = rows[:40]
    own = [[i] for i in range(10)] + [[]] * 10
    far, near = naive.lists(queries, reference, own, k)
    inner = naive.within(reference, 7)
    density = reference_density(inner[0], inner[1], k, lid_k=7)
    every = range(len(queries))
    close(slof(far, near, density, k), [naive.slof(far, near, i, inner, k) for i in every])
    close(lof(far, near, density, k), [naive.lof(far, near, i, inner, k) for i in every])
    close(dao(far, near, density, k), [naive.dao(far, near, i, inner, k, 7) for i in every])


@pytest.mark.parametrize("k", [1, 2, 10, 16])
@pytest.mark.parametrize("make", [gaussian, clustered])
def test_lof_is_that_of_scikit_learn(make, k):
    rows = make(np.random.default_rng(2), 80)
    forty = LocalOutlierFactor(n_neighbors=k, novelty=True).fit(rows[:40])
    distances, indices = naive.within(rows[:40], k)
    density = reference_density(distances, indices, k)
    inside = lof(distances, indices, density, k)
    np.testing.assert_allclose(inside, -forty.negative_outlier_factor_, rtol=1e-5)
    distances, indices = naive.lists(rows[40:], rows[:40], [[]] * 40, k)
    outside = lof(distances, indices, density, k)
    np.testing.assert_allclose(outside, -forty.score_samples(rows[40:]), rtol=1e-5)


# By hand.


def test_scores_on_a_line_by_hand():
    rows = np.array([[0.0], [1.0], [3.0], [10.0]])
    distances, indices = naive.within(rows, 2)
    assert distances.tolist() == [[1, 3], [1, 2], [2, 3], [7, 9]]
    density = reference_density(distances, indices, 2)
    assert density.k_distance.tolist() == [3, 2, 3, 9]
    # -2 / log(1 / 3), -2 / log(1 / 2), ...
    assert density.lid.tolist() == pytest.approx(2 / np.log([3, 2, 1.5, 9 / 7]))
    # Row 0: max(2, 1) and max(3, 3); row 3: max(3, 7) and max(2, 9).
    assert density.reachability.tolist() == pytest.approx([2.5, 3, 2.5, 8])
    last = distances[3:], indices[3:], density, 2
    assert slof(*last).tolist() == pytest.approx([(9 / 3 + 9 / 2) / 2])
    assert lof(*last).tolist() == pytest.approx([(8 / 2.5 + 8 / 3) / 2])
    power = (3 ** (2 / np.log(1.5)) + 4.5 ** (2 / np.log(2))) / 2
    assert dao(*last).tolist() == pytest.approx([power])
    # Mean 8; 8 / (9 - 8).
    assert lid_mom(distances[3:], 2).tolist() == pytest.approx([8])


def test_lid_finds_the_dimension_of_a_ball():
    rng = np.random.default_rng(0)
    for dimension in (2, 7):
        radii = np.sort(rng.random((2000, 100)) ** (1 / dimension), axis=1)
        assert np.median(lid_mle(radii, 100)) == pytest.approx(dimension, rel=0.05)
        assert np.median(lid_mom(radii, 100)) == pytest.approx(dimension, rel=0.05)


def test_a_row_apart_has_the_highest_scores():
    rows = gaussian(np.random.default_rng(0), 100)
    rows[7] = 20
    scores = scores_within(rows)
    assert all(scores[name].argmax() == 7 for name in ("k_distance", "slof", "dao", "lof"))


# Invariance.


def test_scores_go_with_the_rows_when_they_are_permuted():
    rng = np.random.default_rng(1)
    rows = clustered(rng, 60)
    order = rng.permutation(60)
    before, after = scores_within(rows), scores_within(rows[order])
    for name, score in before.items():
        np.testing.assert_allclose(after[name], score[order], rtol=1e-12)


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
def test_only_the_k_distance_follows_the_scale(rows, scale):
    before, after = scores_within(rows), scores_within(scale * rows)
    np.testing.assert_allclose(after.pop("k_distance"), scale * before.pop("k_distance"))
    for name, score in before.items():
        np.testing.assert_allclose(after[name], score, rtol=1e-9)


def test_columns_beyond_k_change_nothing(rows):
    distances, indices = naive.within(rows, 12)
    density = reference_density(distances, indices, 5)
    short = reference_density(distances[:, :5], indices[:, :5], 5)
    for name in ("k_distance", "lid", "reachability"):
        assert np.array_equal(getattr(density, name), getattr(short, name))
    for score in RELATIVE.values():
        wide = score(distances, indices, density, 5)
        assert np.array_equal(wide, score(distances[:, :5], indices[:, :5], density, 5))


def test_lists_in_float32_are_computed_in_float64(rows):
    distances, indices = naive.within(rows, 5)
    narrow = distances.astype(np.float32)
    density = reference_density(narrow, indices, 5)
    for score in RELATIVE.values():
        value = score(narrow, indices, density, 5)
        assert value.dtype == np.float64
        assert np.array_equal(value, score(narrow.astype(float), indices, density, 5))


# Edges.


def test_identical_rows_are_as_dense_as_their_neighbours():
    scores = scores_within(np.ones((9, 4)))
    for name in ("slof", "dao", "lof"):
        assert scores[name].tolist() == [1.0] * 9
    for name in ("k_distance", "lid_mle", "lid_mom"):
        assert scores[name].tolist() == [0.0] * 9


def test_a_row_beside_identical_rows_scores_a_thousand():
    rows = np.zeros((9, 4))
    rows[8] = 1
    scores = scores_within(rows)
    for name in ("slof", "dao", "lof"):
        assert scores[name].tolist() == [1.0] * 8 + [RATIO_TO_ZERO]


def test_ratios_are_bounded_and_never_fall_when_neighbours_get_denser():
    near = 10.0 ** np.arange(1, -320, -1)
    lists = np.ones((len(near), 1)), np.arange(len(near))[:, None]
    for score in (slof, dao):
        scores = score(lists[0], lists[1], reference(near), 1)
        assert (np.diff(scores) >= 0).all()
        assert scores[:3].tolist() == pytest.approx([0.1, 1, 10])
        assert scores[-1] == pytest.approx(RATIO_MAX)
        assert np.isfinite(scores.astype(np.float32)).all()


def reference(k_distance, lid=None, reachability=None):
    one = np.ones(len(k_distance))
    return ReferenceDensity(
        np.array(k_distance, float),
        one if lid is None else np.array(lid, float),
        one if reachability is None else np.array(reachability, float),
    )


def test_dao_is_bounded_and_never_falls_with_the_distance():
    far = np.array([0.0, 1e-30, 0.5, 1.0, 1.001, 2.0, 100.0, 1e5, 1e30, 3e38])
    one = np.zeros((len(far), 1), int)
    for lid in (0.5, 30.0, LID_MAX):
        scores = dao(far[:, None], one, reference([1.0], [lid]), 1)
        assert (np.diff(scores) >= 0).all()
        assert scores[0] == 0
        assert scores[3] == 1
        assert np.isfinite(scores.astype(np.float32)).all()
    assert scores[-1] == pytest.approx(RATIO_MAX)


def test_dao_of_many_bounded_terms_fits_into_float32():
    scores = dao(np.full((1, 16), 9.0), np.arange(16)[None], reference([1] * 16, [9999] * 16))
    assert scores.tolist() == pytest.approx([RATIO_MAX])
    assert np.isfinite(scores.astype(np.float32)).all()


def test_dao_with_no_dimension_counts_the_neighbour_as_one():
    for far in (0.0, 5.0):
        assert dao(np.full((1, 1), far), np.zeros((1, 1), int), reference([1.0], [0.0]), 1) == 1


def test_lid_is_zero_if_one_distance_is_and_moments_if_all_are():
    distances = np.array([[0.0, 1.0, 2.0], [0.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    assert lid_mle(distances, 3).tolist() == [0, 0, 0]
    assert lid_mom(distances, 3).tolist() == pytest.approx([1, 0, 0.5])


@pytest.mark.parametrize("lid", [lid_mle, lid_mom])
def test_lid_of_equal_distances_is_the_bound(lid):
    distances = np.full((2, 7), 0.1)
    distances[1] = np.nextafter(0.1, 1)
    distances[1, 0] = 0.1
    assert lid(distances, 7).tolist() == [LID_MAX, LID_MAX]
    assert lid(np.array([[3.0]]), 1).tolist() == [LID_MAX]


def test_fewer_than_k_neighbours_are_used_as_if_k_were_fewer():
    rows = gaussian(np.random.default_rng(3), 5)
    few, many = scores_within(rows, 4, 4), scores_within(rows, 16, 20)
    for name, score in few.items():
        np.testing.assert_allclose(many[name], score, rtol=1e-12)


def test_rows_without_neighbours_are_undefined():
    distances, indices = naive.within(gaussian(np.random.default_rng(3), 6), 3)
    density = reference_density(distances, indices, 3)
    distances[2], indices[2] = np.inf, -1
    for of_lists in LIST_ONLY.values():
        assert np.isnan(of_lists(distances, 3)).tolist() == [False, False, True] + 3 * [False]
    for score in RELATIVE.values():
        value = score(distances, indices, density, 3)
        assert np.isnan(value).tolist() == [False, False, True] + 3 * [False]


def test_a_neighbour_of_undefined_density_makes_a_score_undefined():
    density = reference_density(np.full((1, 2), np.inf), np.full((1, 2), -1), 2)
    assert np.isnan([density.k_distance, density.lid, density.reachability]).all()
    for score in RELATIVE.values():
        value = score(np.array([[1.0, np.inf]]), np.array([[0, -1]]), density, 2)
        assert np.isnan(value).all()


def test_a_distance_that_is_nan_makes_its_row_undefined():
    distances, indices = naive.within(gaussian(np.random.default_rng(3), 6), 3)
    density = reference_density(distances, indices, 3)
    distances[1, 2] = np.nan
    for of_lists in LIST_ONLY.values():
        assert np.isnan(of_lists(distances, 3)).tolist() == [False, True] + 4 * [False]
    for score in RELATIVE.values():
        value = score(distances, indices, density, 3)
        assert np.isnan(value).tolist() == [False, True] + 4 * [False]


def test_no_rows_give_empty_arrays():
    distances, indices = np.zeros((0, 64)), np.zeros((0, 64), int)
    density = reference_density(distances, indices)
    for of_lists in LIST_ONLY.values():
        assert of_lists(distances, 16).shape == (0,)
    for score in RELATIVE.values():
        assert score(distances, indices, density, 16).shape == (0,)


def test_an_empty_reference_leaves_every_row_undefined():
    density = reference_density(np.zeros((0, 2)), np.zeros((0, 2), int), 2)
    for score in RELATIVE.values():
        assert np.isnan(score(np.full((3, 2), np.inf), np.full((3, 2), -1), density, 2)).all()


def test_inputs_are_left_as_they_are():
    distances, indices = naive.within(np.zeros((4, 2)), 5)
    before = distances.copy(), indices.copy()
    density = reference_density(distances, indices, 5)
    dao(distances, indices, density, 5)
    lid_mle(distances, 5)
    assert np.array_equal(distances, before[0])
    assert np.array_equal(indices, before[1])


# Refusals.


@pytest.mark.parametrize("k", [0, -3])
def test_k_below_one_is_refused(k):
    distances, indices = naive.within(np.eye(4), 2)
    density = reference_density(distances, indices, 2)
    for of_lists in LIST_ONLY.values():
        with pytest.raises(UsageError, match=f"k must be at least 1, got {k}"):
            of_lists(distances, k)
    for score in RELATIVE.values():
        with pytest.raises(UsageError, match=f"k must be at least 1, got {k}"):
            score(distances, indices, density, k)
    with pytest.raises(UsageError, match=f"k must be at least 1, got {k}"):
        reference_density(distances, indices, 2, lid_k=k)


def test_lists_shorter_than_k_are_refused():
    with pytest.raises(UsageError, match=r"at least 64 columns, got distances of shape \(4, 2\)"):
        lid_mle(np.ones((4, 2)))


def test_lists_that_are_not_one_set_are_refused():
    with pytest.raises(UsageError, match=r"\(4, 2\) and indices of shape \(4, 3\)"):
        reference_density(np.ones((4, 2)), np.ones((4, 3), int), 2)


@pytest.mark.parametrize("number", [4, -2])
def test_neighbours_outside_the_reference_are_refused(number):
    distances, indices = naive.within(np.eye(4), 2)
    density = reference_density(distances, indices, 2)
    indices[1, 1] = number
    for score in RELATIVE.values():
        with pytest.raises(UsageError, match="not all in a reference of 4 rows"):
            score(distances, indices, density, 2)
