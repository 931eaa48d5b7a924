"""Mahalanobis, relative Mahalanobis and GDA against authors' values and explicit inverses."""

import numpy as np
import pytest

from clipsieve.errors import UsageError
from clipsieve.scorers.ood.covariance import (
    SquaredDistances,
    inverse_factor,
    oas_shrinkage,
    shrink,
)
from clipsieve.scorers.ood.discriminant import GaussianDiscriminant
from clipsieve.scorers.ood.gaussian import Mahalanobis, RelativeMahalanobis
from tests.scorers.ood.learning import (
    cone,
    learned,
    options,
    pairs,
    same_arrays,
    scored,
)

KINDS = (Mahalanobis, RelativeMahalanobis, GaussianDiscriminant)
PROTOTYPES = cone(300, 12, 5)[2]


@pytest.fixture(scope="module")
def bank():
    vectors, labels, prototypes = cone(300, 12, 5)
    return pairs(vectors, prototypes, labels.tolist(), missing=[3, 100])


@pytest.fixture(scope="module")
def queries():
    return pairs(cone(31, 12, 5, seed=8)[0], PROTOTYPES, missing=[4, 30], shard="q")


def fitted(bank, labels=None):
    """Unit vectors with a class, and their classes."""
    valid = bank.image.valid
    if labels is None:
        return bank.image.unit()[valid], (bank.image.unit()[valid] @ PROTOTYPES.T).argmax(axis=1)
    kept = valid & np.array([value is not None for value in labels])
    classes = np.array([-1 if value is None else value for value in labels])[kept]
    return bank.image.unit()[kept], classes


def naive(rows, queries):
    """Distances with explicit inverses, and logits of both estimators, row by row."""
    x, classes = rows
    count, dim = x.shape
    present = sorted(set(classes.tolist()))
    means = {k: x[classes == k].mean(axis=0) for k in present}
    within = sum(np.outer(v - means[k], v - means[k]) for v, k in zip(x, classes, strict=True))
    grand = x.mean(axis=0)
    total = (x - grand).T @ (x - grand)
    inverse, background = np.linalg.inv(within / count), np.linalg.inv(total / count)
    ks = dim * np.linalg.inv(within + np.trace(within) / (count - 1) * np.eye(dim))
    unit = queries.image.unit()

    def logits(p):
        def one(q, m):
            return q @ p @ m - 0.5 * m @ p @ m - np.log(len(present))

        return np.array([[one(q, means[k]) for k in present] for q in unit])

    def square(q, m, p):
        return (q - m) @ p @ (q - m)

    nearest = np.array([min(square(q, m, inverse) for m in means.values()) for q in unit])
    far = np.array([square(q, grand, background) for q in unit])
    return nearest, nearest - far, logits(ks), logits(inverse), present


def logsumexp(z):
    return np.log(np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1)) + z.max(axis=1)


def test_distances_are_those_of_the_authors(oracle, train, test):
    for kind, name in (
        (Mahalanobis, "mahalanobis"),
        (RelativeMahalanobis, "relative_mahalanobis"),
    ):
        scorer = kind(labels="label", **options(10))
        values = scored(scorer, learned(scorer, train), test)[f"ood_{name}"]
        np.testing.assert_allclose(values, oracle[name], rtol=1e-9)
        single = {
            "mahalanobis": "vim_repo_mahalanobis",
            "relative_mahalanobis": "openood_relative_mahalanobis",  # a difference, in float32
        }[name]
        np.testing.assert_allclose(values, -oracle[single], rtol=1e-5, atol=1e-5)


def test_the_discriminant_is_that_of_the_authors(oracle, train, test):
    scorer = GaussianDiscriminant(labels="label", **options(10))
    rows = [
        pairs(each.image.vectors, oracle["T"], each.columns.get("label")) for each in (train, test)
    ]
    known = learned(scorer, rows[0])
    np.testing.assert_allclose(known["weights"][:3, 0], oracle["gda_weights"], rtol=1e-9)
    np.testing.assert_allclose(known["bias"], oracle["gda_bias"], rtol=1e-9)
    values = scored(scorer, known, rows[1])
    expected = oracle["gda_logits"][None]
    assert values["ood_gda"][0] == pytest.approx(-logsumexp(expected)[0], rel=1e-7)
    assert values["ood_gda_max"][0] == pytest.approx(-expected.max(), rel=1e-7)
    assert values["ood_gda_class"][0] == f"class {expected.argmax()}"


@pytest.mark.parametrize("labels", [None, "label"])
def test_scores_are_those_of_explicit_inverses(bank, queries, labels):
    rows = fitted(bank, labels and bank.columns["label"])
    nearest, relative, ks, lda, present = naive(rows, queries)
    valid = queries.image.valid
    expected = {
        "ood_mahalanobis": (Mahalanobis, {}, nearest),
        "ood_relative_mahalanobis": (RelativeMahalanobis, {}, relative),
        "ood_gda": (GaussianDiscriminant, {}, -logsumexp(ks)),
        "ood_gda_max": (GaussianDiscriminant, {"estimator": "lda"}, -lda.max(axis=1)),
    }
    for column, (kind, others, values) in expected.items():
        scorer = kind(labels=labels, **others, **options(5))
        ours = scored(scorer, learned(scorer, bank), queries)[column]
        np.testing.assert_allclose(ours[valid], values[valid], rtol=1e-8)
        assert np.isnan(ours[~valid]).all()
    assert present == [0, 1, 2, 3, 4]


def test_the_class_has_the_largest_logit(bank, queries):
    scorer = GaussianDiscriminant(labels="label", **options(5))
    names = scored(scorer, learned(scorer, bank), queries)["ood_gda_class"]
    ks = naive(fitted(bank, bank.columns["label"]), queries)[2]
    valid = queries.image.valid
    assert names[valid].tolist() == [f"class {k}" for k in ks.argmax(axis=1)[valid]]
    assert names[~valid].tolist() == [None, None]


def test_the_ensemble_adds_the_zero_shot_logits(bank, queries):
    scorer = GaussianDiscriminant(alpha=0.3, labels="label", **options(5))
    values = scored(scorer, learned(scorer, bank), queries)
    ks = naive(fitted(bank, bank.columns["label"]), queries)[2]
    both = 100 * queries.image.unit() @ PROTOTYPES.T + 0.3 * ks
    valid = queries.image.valid
    np.testing.assert_allclose(values["ood_gda"][valid], -logsumexp(both)[valid], rtol=1e-10)
    np.testing.assert_allclose(values["ood_gda_max"][valid], -both.max(axis=1)[valid], rtol=1e-10)


def test_lda_logits_are_distances_up_to_what_classes_share(bank, queries):
    """x W + b = -MD / 2 + x P x / 2 + log prior, for the nearest class too."""
    lda = GaussianDiscriminant(estimator="lda", labels="label", **options(5))
    near = Mahalanobis(labels="label", **options(5))
    known = learned(near, bank)
    precision = known["factor"] @ known["factor"].T
    unit = queries.image.unit()
    own = np.einsum("nd,de,ne->n", unit, precision, unit)
    left = -scored(lda, learned(lda, bank), queries)["ood_gda_max"]
    right = -scored(near, known, queries)["ood_mahalanobis"] / 2 + own / 2 - np.log(5)
    np.testing.assert_allclose(left, right, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_classes_without_rows_are_left_out(bank, queries, kind):
    labels = [None if value in (0, 3) else value for value in bank.columns["label"]]
    some = pairs(bank.image.vectors, PROTOTYPES, labels, missing=[3, 100])
    nearest, relative, ks, _, present = naive(fitted(some, labels), queries)
    assert present == [1, 2, 4]
    column, expected = {
        Mahalanobis: ("ood_mahalanobis", nearest),
        RelativeMahalanobis: ("ood_relative_mahalanobis", relative),
        GaussianDiscriminant: ("ood_gda", -logsumexp(ks)),
    }[kind]
    scorer = kind(labels="label", **options(5))
    known = learned(scorer, some)
    assert known["counts"].tolist()[0] == known["counts"].tolist()[3] == 0
    assert known["unlabelled"] == sum(value is None for value in labels)
    values = scored(scorer, known, queries)
    valid = queries.image.valid
    np.testing.assert_allclose(values[column][valid], expected[valid], rtol=1e-8)
    if kind is GaussianDiscriminant:
        names = [f"class {present[k]}" for k in ks.argmax(axis=1)[valid]]
        assert values["ood_gda_class"][valid].tolist() == names


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_batches_changes_no_bit_and_order_of_classes_no_score(bank, queries, kind):
    scorer = kind(**options(5))
    known = learned(scorer, bank)
    shuffled = learned(scorer, bank, order=lambda n: np.random.default_rng(0).permutation(n))
    assert same_arrays(known, shuffled)
    turned = [
        pairs(each.image.vectors, PROTOTYPES[::-1], missing=np.flatnonzero(~each.image.valid))
        for each in (bank, queries)
    ]
    column = scorer.columns.names[0]
    one = scored(scorer, known, queries)[column]
    np.testing.assert_allclose(one, scored(scorer, known, queries, rows=7)[column], rtol=1e-9)
    other = scored(scorer, learned(scorer, turned[0]), turned[1])[column]
    np.testing.assert_allclose(one, other, rtol=1e-9)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_one_class_and_equal_prototypes_are_no_exception(bank, queries, kind, count):
    prototypes = np.repeat(PROTOTYPES[:1], count, axis=0)
    rows = [
        pairs(each.image.vectors, prototypes, missing=np.flatnonzero(~each.image.valid))
        for each in (bank, queries)
    ]
    scorer = kind(**options(count))
    values = scored(scorer, learned(scorer, rows[0]), rows[1])
    valid = queries.image.valid
    for name, column in values.items():
        if name == "ood_gda_class":
            assert set(column[valid]) == {"class 0"}
        else:
            assert np.isfinite(column[valid]).all()
    if kind is RelativeMahalanobis:
        # One class has the mean and covariance of all.
        np.testing.assert_allclose(values["ood_relative_mahalanobis"][valid], 0, atol=1e-8)


def test_directions_without_spread_are_left_out():
    vectors, labels, prototypes = cone(200, 6, 3)
    flat = np.pad(vectors, ((0, 0), (0, 2)))
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    factor = inverse_factor(
        rotation @ np.diag([3.0, 2.0, 1.0, 1e-3, 1e-16, 0, -1e-17, 0]) @ rotation.T
    )
    assert factor.shape == (8, 4)
    small = pairs(vectors, prototypes, labels.tolist())
    large = pairs(flat, np.pad(prototypes, ((0, 0), (0, 2))), labels.tolist())
    for kind in (Mahalanobis, RelativeMahalanobis):
        scorer = kind(labels="label", **options(3))
        column = scorer.columns.names[0]
        one, other = (
            scored(scorer, learned(scorer, each), each)[column] for each in (small, large)
        )
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)


def test_a_mean_direction_far_larger_than_the_spread_costs_no_digits():
    rng = np.random.default_rng(1)
    dim, spread = 16, np.geomspace(1e-2, 1e-4, 16)
    points = np.full(dim, 0.25) + rng.normal(size=(400, dim)) * spread
    means = np.full((3, dim), 0.25) + rng.normal(size=(3, dim)) * spread
    distances = SquaredDistances.from_means(np.diag(1 / spread), points.mean(axis=0), means)
    exact = [min(((p - m) ** 2 / spread**2).sum() for m in means) for p in points]
    np.testing.assert_allclose(distances.nearest(points), exact, rtol=1e-10)
    assert distances.nearest(means).max() < 1e-10
    assert distances.nearest(means).min() >= 0


def test_few_rows_shrink_the_covariance_and_it_is_recorded(bank, queries):
    few = pairs(bank.image.vectors[4:30], PROTOTYPES)
    for kind in KINDS[:2]:
        scorer = kind(**options(5))
        known = learned(scorer, few)
        assert 0 < known["shrinkage"] <= 1
        assert known["rows_per_component"] == 26 / 12
        values = scored(scorer, known, queries)[scorer.columns.names[0]]
        assert np.isfinite(values[queries.image.valid]).all()
        assert learned(scorer, bank)["shrinkage"] == 0


def test_shrinkage_is_that_of_the_paper():
    s = np.diag([4.0, 1.0, 1.0])
    trace, square, n, p = 6.0, 18.0, 5, 3
    rho = ((1 - 2 / p) * square + trace**2) / ((n + 1 - 2 / p) * (square - trace**2 / p))
    assert oas_shrinkage(s, n) == pytest.approx(min(rho, 1))
    rho = ((1 - 2 / p) * square + trace**2) / ((50 + 1 - 2 / p) * (square - trace**2 / p))
    assert oas_shrinkage(s, 50) == pytest.approx(rho)
    assert rho < 0.2
    assert oas_shrinkage(np.eye(4), 9) == 1.0
    shrunk, weight = shrink(s, n)
    assert np.trace(shrunk) == pytest.approx(6.0)
    assert weight == oas_shrinkage(s, n)
    assert shrink(s, 6)[1] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_rows_are_refused(bank, kind):
    few = pairs(bank.image.vectors[:13], PROTOTYPES, missing=[1, 2])
    message = rf"{kind.name} learns of 11 rows .* 12 components need 12 rows .*--learn-on"
    with pytest.raises(UsageError, match=message):
        learned(kind(**options(5)), few)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_alike_are_refused(kind):
    alike = pairs(np.tile([[1.0, 2.0]], (9, 1)), np.eye(2))
    with pytest.raises(UsageError, match=rf"{kind.name}: the 9 rows are in 1 classes, each with"):
        learned(kind(**options(2)), alike)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"alpha": 0}, "alpha of scorer ood.gda must be a number above 0, got 0"),
        ({"alpha": "1"}, "alpha of scorer ood.gda must be a number"),
        ({"alpha": np.inf}, "alpha of scorer ood.gda must be a number"),
        ({"estimator": "oas"}, "estimator of scorer ood.gda must be one of ks, lda, got 'oas'"),
    ],
)
def test_wrong_options_are_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        GaussianDiscriminant(**wrong, **options(5))


def test_options_are_recorded():
    scorer = GaussianDiscriminant(2, "lda", **options(5))
    assert scorer.parameters() == {"labels": None, "alpha": 2.0, "estimator": "lda"}
    assert Mahalanobis(labels="a", **options(5)).parameters() == {"labels": "a"}
