"""Published scores of batches against themselves: textbook values, pairs, missing rows."""

import numpy as np
import pytest

from clipsieve.scorers.density import reference_density
from tests.scorers import naive_density as naive
from tests.scorers.published import published_scores
from tests.scorers.test_density_released import ORACLE


@pytest.fixture(scope="module")
def oracle():
    with np.load(ORACLE) as arrays:
        yield dict(arrays)


@pytest.fixture(scope="module")
def pairs():
    """24 images and captions; some images alike, captions a little apart as CLIP's are."""
    rng = np.random.default_rng(4)
    images, texts = rng.normal(size=(2, 24, 3)).astype(np.float32)
    images[5], images[9:13] = images[2], images[8]
    return images, texts + np.float32(0.3)


@pytest.mark.parametrize("k", [8, 16])
def test_published_scores_are_those_of_the_textbook(oracle, k):
    scores = published_scores(oracle["image"], k=k, lid_k=k)
    for theirs, ours in {"kdist": "k_distance", "slof": "slof", "lid_mle": "lid_mle"}.items():
        np.testing.assert_allclose(scores[ours], oracle[f"{theirs}_k{k}_textbook"], rtol=1e-5)


def test_published_lof_is_that_of_scikit_learn(oracle):
    lof = published_scores(oracle["image"])["lof"]
    np.testing.assert_allclose(lof, oracle["lof_k16_sklearn"], rtol=1e-5)


def test_published_scores_of_pairs_are_those_of_naive_loops(pairs):
    images, texts = pairs
    both = np.concatenate([images, texts]).astype(float)
    own = [[i, i + 24] for i in range(24)] + [[i + 24, i] for i in range(24)]
    distances, indices = lists = naive.lists(both, both, own, 7)
    scores = published_scores(images, texts, k=4, lid_k=7)
    expected = {
        "k_distance": [naive.k_distance(distances, i, 4) for i in range(24)],
        "lid_mle": [naive.lid(distances, i, 7) for i in range(24)],
        "lid_mom": [naive.lid_moments(distances, i, 7) for i in range(24)],
        "slof": [naive.slof(distances, indices, i, lists, 4) for i in range(24)],
        "dao": [naive.dao(distances, indices, i, lists, 4, 4) for i in range(24)],
        "lof": [naive.lof(distances, indices, i, lists, 4) for i in range(24)],
    }
    assert scores.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(scores[name], value, rtol=1e-9, err_msg=name)


def test_the_own_caption_is_no_neighbour(pairs):
    images, texts = pairs
    beside = texts.copy()
    beside[0] = images[0]
    assert published_scores(images, beside, k=1)["k_distance"][0] > 0
    beside[1] = images[0]
    assert published_scores(images, beside, k=1)["k_distance"][0] == 0


@pytest.mark.parametrize("paired", [False, True])
def test_missing_rows_are_undefined_and_in_no_reference(pairs, paired):
    images, texts = pairs[0].copy(), pairs[1].copy()
    valid = np.arange(24) % 5 != 0
    images[0], images[10], texts[~valid] = np.nan, 0, np.inf
    given = texts if paired else None
    scores = published_scores(images, given, 4, 7, valid=valid)
    kept = published_scores(images[valid], texts[valid] if paired else None, 4, 7)
    for name, value in kept.items():
        assert np.isnan(scores[name][~valid]).all()
        assert np.array_equal(scores[name][valid], value)


def test_an_image_without_caption_is_scored(pairs):
    images, texts = pairs
    there = np.arange(24) != 3
    scores = published_scores(images, texts, 4, 7, text_valid=there)
    assert np.isfinite([value[3] for value in scores.values()]).all()
    far = texts.copy()
    far[3] = 1e6
    moved = published_scores(images, far, 4, 7)
    for name, value in scores.items():
        assert np.array_equal(value, moved[name])


def test_a_caption_without_image_stays_in_the_reference(pairs):
    images, texts = pairs[0], pairs[1].copy()
    texts[3] = images[0]
    there = np.arange(24) != 3
    scores = published_scores(images, texts, 1, 7, valid=there)
    assert np.isnan(scores["slof"]).tolist() == (~there).tolist()
    assert scores["k_distance"][0] == 0
    lacking = published_scores(images, texts, 1, 7, valid=there, text_valid=there)
    assert lacking["k_distance"][0] > 0


def test_a_batch_of_one_image_has_no_reference():
    for paired in (False, True):
        one = np.ones((1, 3), np.float32)
        for value in published_scores(one, one if paired else None).values():
            assert np.isnan(value).all()


@pytest.mark.parametrize("paired", [False, True])
def test_empty_batches_give_empty_arrays(paired):
    nothing = np.zeros((0, 3), np.float32)
    scores = published_scores(nothing, nothing if paired else None)
    assert all(value.shape == (0,) for value in scores.values())


def test_small_batches_use_the_neighbours_there_are(pairs):
    few, many = published_scores(pairs[0][:5], k=4, lid_k=4), published_scores(pairs[0][:5])
    for name, value in few.items():
        np.testing.assert_allclose(many[name], value, rtol=1e-12)


def test_zero_vectors_are_vectors(pairs):
    images = pairs[0].copy()
    images[4] = 0
    expected = np.sort(np.linalg.norm(np.delete(images, 4, axis=0).astype(float), axis=1))[3]
    assert published_scores(images, k=4)["k_distance"][4] == pytest.approx(expected)


def test_scores_are_those_of_the_functions_of_lists(pairs):
    distances, indices = naive.within(pairs[0].astype(float), 16)
    density = reference_density(distances, indices)
    scores = published_scores(pairs[0])
    np.testing.assert_allclose(scores["k_distance"], density.k_distance, rtol=1e-12)
