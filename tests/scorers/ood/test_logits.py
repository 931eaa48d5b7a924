"""Formulas of the logits against the papers' own code, naive float64, and 60 digits."""

from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pytest

from clipsieve.scorers.ood.geometry import euclidean_similarities, lorentz_similarities
from clipsieve.scorers.ood.logits import (
    generalized_entropy,
    logsumexp_rows,
    max_over_norm,
    softmax,
    top_two,
)

SCALE = 100.0


@pytest.fixture(scope="module")
def oracle():
    with np.load(Path(__file__).parents[2] / "data" / "ood_zero_shot.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def cosines(oracle):
    return oracle["images"].astype(np.float64) @ oracle["texts"].astype(np.float64).T


def naive_softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def made_up(rows, classes, seed=0, spread=0.05):
    rng = np.random.default_rng(seed)
    return np.clip(0.2 + spread * rng.normal(size=(rows, classes)), -1, 1)


def test_logits_equal_the_values_of_the_methods_own_code(oracle, cosines):
    top, at_scale = top_two(cosines), softmax(top_two(cosines), SCALE)
    # These are of float32 weights 100 T.
    assert np.allclose(at_scale.largest_probability(), oracle["msp"], rtol=1e-6)
    assert np.allclose(SCALE * top.largest, oracle["max_logit"], rtol=1e-6)
    energy = SCALE * top.largest + at_scale.logsumexp_above_largest()
    assert np.allclose(energy, oracle["energy"], rtol=1e-6)
    assert np.allclose(-at_scale.entropy(), oracle["shannon"], rtol=1e-9, atol=1e-15)


def test_cosine_scores_equal_those_of_the_code_of_mcm(oracle, cosines):
    top, at_one = top_two(cosines), softmax(top_two(cosines), 1.0)
    assert np.allclose(-at_one.largest_probability(), oracle["mcm"], rtol=1e-6)
    energy = -(top.largest + at_one.logsumexp_above_largest())
    assert np.allclose(energy, oracle["energy_cosine"], rtol=1e-6)
    assert np.allclose(at_one.entropy(), oracle["entropy_cosine"], rtol=1e-6)
    assert np.allclose(-at_one.variance(10), oracle["variance"], rtol=5e-6)


@pytest.mark.parametrize("p", [0, 1, 2, 4, 5])
def test_pnorm_equals_the_authors_code(oracle, cosines, p):
    values = max_over_norm(top_two(cosines).gaps, p) * (SCALE if p == 0 else 1)
    assert np.allclose(values, oracle[f"pnorm_{p}"], rtol=1e-9)


def exact_gen(logits, gamma, most):
    """GEN of one row with 60 digits."""
    with localcontext() as context:
        context.prec = 60
        powers = [(Decimal(float(z)) - Decimal(float(max(logits)))).exp() for z in logits]
        total = sum(powers)
        shares = sorted(power / total for power in powers)[-most:]
        return float(sum((p * (1 - p)) ** Decimal(gamma) for p in shares if p < 1))


@pytest.mark.parametrize("most", [1, 3, 5, 10, 100])
def test_gen_equals_sixty_digits(cosines, most):
    top = top_two(cosines)
    made = generalized_entropy(top, softmax(top, SCALE), SCALE, 0.1, most)
    expected = [exact_gen(SCALE * row, 0.1, most) for row in cosines]
    assert np.allclose(made, expected, rtol=1e-11)


def test_gen_is_near_the_authors_float64_and_exact_where_their_float32_is_not(oracle, cosines):
    top = top_two(cosines)
    made = generalized_entropy(top, softmax(top, SCALE), SCALE, 0.1, 5)
    assert np.allclose(made, -oracle["gen_5"], rtol=5e-4)
    peaked = np.abs(generalized_entropy(top, softmax(top, SCALE), SCALE, 0.1, 100))
    assert 0.2 < np.abs(peaked / -oracle["gen_f32"] - 1).max() < 0.5


@pytest.mark.parametrize(("classes", "most"), [(1000, 100), (300, 100), (101, 100), (1000, 999)])
@pytest.mark.parametrize("kind", ["normal", "skewed", "ties", "equal"])
def test_gen_takes_the_likeliest_classes_whatever_the_distribution(classes, most, kind):
    similarities = made_up(40, classes)
    if kind == "skewed":  # few entries above a line that a normal distribution would suggest
        similarities = np.full((40, classes), 0.3)
        similarities[:, : most // 2] = made_up(40, most // 2, 1) - 1.0
    elif kind == "ties":
        similarities = np.round(similarities, 2)
    elif kind == "equal":
        similarities[:] = 0.25
    top = top_two(similarities)
    made = generalized_entropy(top, softmax(top, 10.0), 10.0, 0.1, most)
    p = np.sort(naive_softmax(10.0 * similarities), axis=1)[:, -most:]
    assert np.allclose(made, ((p * (1 - p)) ** 0.1).sum(axis=1), rtol=1e-11)


def test_what_one_minus_p_would_lose_is_kept():
    # A gap of 0.5 at scale 100: 1 - p is e^-50, which float64 cannot hold beside 1.
    top = top_two(np.array([[0.7, 0.2]]))
    row = softmax(top, SCALE)
    assert row.rest_probability()[0] == pytest.approx(np.exp(-50), rel=1e-12)
    assert row.entropy()[0] == pytest.approx(51 * np.exp(-50), rel=1e-12)
    assert row.largest_probability()[0] == 1.0
    far = softmax(top_two(np.array([[1.0, -1.0, -1.0]])), SCALE)
    assert far.rest_probability()[0] == pytest.approx(2 * np.exp(-200), rel=1e-12)
    assert np.isfinite(generalized_entropy(top, row, SCALE, 0.1, 100)).all()


@pytest.mark.parametrize("classes", [1, 2, 3, 17])
@pytest.mark.parametrize("scale", [1.0, 100.0, 117.0])
def test_softmax_equals_a_naive_one(classes, scale):
    similarities = made_up(50, classes)
    p = naive_softmax(scale * similarities)
    row = softmax(top_two(similarities), scale)
    assert np.allclose(row.largest_probability(), p.max(axis=1), rtol=1e-12)
    entropy = -(p * np.log(p)).sum(axis=1)
    assert np.allclose(row.entropy(), entropy, rtol=1e-9, atol=1e-15)
    assert np.allclose(row.variance(classes), p.var(axis=1), rtol=1e-9, atol=1e-18)
    above = np.log(np.exp(scale * similarities).sum(axis=1)) - scale * similarities.max(axis=1)
    assert np.allclose(row.logsumexp_above_largest(), above, atol=1e-12)


def test_one_class_is_certain():
    top = top_two(np.array([[0.3], [-0.2]]))
    row = softmax(top, SCALE)
    for values in (row.rest_probability(), row.entropy(), row.variance(1)):
        assert values.tolist() == [0, 0]
    assert generalized_entropy(top, row, SCALE, 0.1, 100).tolist() == [0, 0]
    assert np.isnan(top.second).all()


def test_ties_go_to_the_first_and_have_no_margin():
    top = top_two(np.array([[0.1, 0.4, 0.4], [0.2, 0.2, 0.2]]))
    assert top.best.tolist() == [1, 0]
    assert top.second.tolist() == top.largest.tolist()


def test_pnorm_does_not_depend_on_scale_or_shift_and_is_zero_for_equal_logits():
    similarities = made_up(20, 9)
    made = max_over_norm(top_two(similarities).gaps, 4)
    moved = 3.7 * similarities + 0.9
    assert np.allclose(made, max_over_norm(top_two(moved).gaps, 4), rtol=1e-9)
    for count in (3, 6, 1000):
        equal = np.repeat(np.linspace(-0.3, 0.9, 50)[:, None], count, axis=1)
        assert not max_over_norm(top_two(equal).gaps, 4).any()
        assert not max_over_norm(top_two(equal).gaps, 3).any()
    high = max_over_norm(top_two(similarities).gaps, 600)
    centred = similarities - similarities.mean(axis=1, keepdims=True)
    assert np.allclose(high, centred.max(axis=1) / np.abs(centred).max(axis=1), rtol=1e-2)


def test_rows_without_numbers_stay_without():
    similarities = made_up(3, 4)
    similarities[1] = np.nan
    top = top_two(similarities)
    row = softmax(top, SCALE)
    made = [row.entropy(), row.rest_probability(), top.second, top.largest]
    made += [generalized_entropy(top, row, SCALE, 0.1, 2), row.variance(4)]
    made += [max_over_norm(top.gaps, 4), logsumexp_rows(similarities)]
    for values in made:
        assert np.isnan(values).tolist() == [False, True, False]


def test_no_rows_have_no_scores():
    top = top_two(np.empty((0, 5)))
    row = softmax(top, SCALE)
    assert row.entropy().shape == generalized_entropy(top, row, SCALE, 0.1, 2).shape == (0,)


def test_geometries_equal_the_code_of_the_checkpoints(oracle):
    images, texts = (oracle[name].astype(np.float64) for name in ("images", "texts"))
    euclidean = euclidean_similarities(9 * images[:1], 7 * texts)[0]
    assert np.allclose(euclidean, oracle["euclidean_row0"], rtol=1e-6)
    lorentz = lorentz_similarities(9 * images[:1], 7 * texts, 1.0)[0]
    assert np.allclose(lorentz, oracle["lorentz_row0"], rtol=1e-6)


def naive_lorentz(x, t, curvature):
    """Distance of two points that are lifted one after the other."""
    lifted = []
    for vector in (x, t):
        vector = vector / np.sqrt(len(vector))
        length = np.sqrt(curvature) * np.linalg.norm(vector)
        space = vector * (np.sinh(length) / length if length else 1.0)
        lifted.append((space, np.sqrt(1 / curvature + space @ space)))
    (a, a_time), (b, b_time) = lifted
    return np.arccosh(max(curvature * (a_time * b_time - a @ b), 1.0)) / np.sqrt(curvature)


@pytest.mark.parametrize("curvature", [0.1, 1.0, 10.0])
def test_lorentz_distances_equal_a_naive_loop_and_keep_digits_of_close_points(curvature):
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(6, 8)), rng.normal(size=(3, 8))
    images[2] = 0
    made = lorentz_similarities(images, texts, curvature)
    expected = [[-naive_lorentz(x, t, curvature) for t in texts] for x in images]
    assert np.allclose(made, expected, rtol=1e-8)
    near = texts[:1] * (1 + 1e-9)
    step = np.linalg.norm(texts[0]) / np.sqrt(8) * 1e-9
    assert lorentz_similarities(near, texts, curvature)[0, 0] == pytest.approx(-step, rel=1e-3)


def test_euclidean_similarities_equal_a_naive_loop_and_are_never_positive():
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(6, 8)), rng.normal(size=(3, 8))
    expected = [[-((x - t) ** 2).sum() / 8 for t in texts] for x in images]
    assert np.allclose(euclidean_similarities(images, texts), expected, rtol=1e-12)
    assert (euclidean_similarities(texts, texts) <= 0).all()
