"""Residual and ViM against the authors' values and an explicit projection; edges and refusals."""

import numpy as np
import pytest

from clipsieve.errors import UsageError
from clipsieve.scorers.ood.discriminant import GaussianDiscriminant
from clipsieve.scorers.ood.gaussian import Mahalanobis, RelativeMahalanobis
from clipsieve.scorers.ood.subspace import (
    Residual,
    ResidualTotals,
    VirtualLogitMatching,
    principal_dim,
    residual_basis,
)
from clipsieve.statistics.hashed_array import HashedArray
from tests.scorers.ood.learning import (
    AsGiven,
    cone,
    context,
    learned,
    options,
    pairs,
    same_arrays,
    scored,
)


@pytest.fixture(scope="module")
def bank():
    vectors, labels, prototypes = cone(240, 12, 5)
    return pairs(vectors, prototypes, labels.tolist(), missing=[3, 100])


@pytest.fixture(scope="module")
def queries():
    return pairs(cone(31, 12, 5, seed=8)[0], cone(240, 12, 5)[2], missing=[4, 30], shard="q")


def test_scores_are_those_of_the_authors(oracle, train, test):
    residual = Residual(**options(10))
    values = scored(residual, learned(residual, train), test)["ood_residual"]
    np.testing.assert_allclose(values, -oracle["residual"], rtol=1e-9)
    # Their classifier is float32(100 T).
    prototypes = (np.float32(100) * oracle["T"]).astype(np.float64) / 100
    rows = [pairs(each.image.vectors, prototypes, kind=AsGiven) for each in (train, test)]
    vim = VirtualLogitMatching(**options(10))
    known = learned(vim, rows[0])
    assert known["alpha"] == pytest.approx(oracle["alpha"], rel=1e-12)
    np.testing.assert_allclose(scored(vim, known, rows[1])["ood_vim"], -oracle["vim"], rtol=1e-9)


def test_normalising_in_float64_stays_close_to_the_authors(oracle, train, test):
    vim = VirtualLogitMatching(**options(10))
    rows = [pairs(each.image.vectors, oracle["T"]) for each in (train, test)]
    values = scored(vim, learned(vim, rows[0]), rows[1])["ood_vim"]
    np.testing.assert_allclose(values, -oracle["vim"], rtol=1e-6)


def test_alpha_is_not_made_of_the_eigenvalues(oracle, train):
    known = learned(VirtualLogitMatching(**options(10)), train)
    root_mean_square = np.sqrt(known["eigenvalues"][16:].sum())
    ratio = root_mean_square / known["mean_residual"]
    assert ratio == pytest.approx(float(oracle["rms_ratio"]), rel=1e-9)
    assert ratio > 1.01


def naive(bank, queries, prototypes, dim, scale=100.0):
    """Residual and ViM by projecting on the principal axes, row by row."""
    x = bank.image.unit()[bank.image.valid]
    axes = np.linalg.svd(x)[2][:dim]
    residuals = [np.linalg.norm(row - axes.T @ (axes @ row)) for row in x]
    largest = [max(scale * (prototypes @ row)) for row in x]
    alpha = np.mean(largest) / np.mean(residuals)
    unit = queries.image.unit()
    residual = np.array([np.linalg.norm(row - axes.T @ (axes @ row)) for row in unit])
    logsumexp = np.array([np.log(np.sum(np.exp(scale * (prototypes @ row)))) for row in unit])
    return residual, alpha * residual - logsumexp


@pytest.mark.parametrize("dim", [None, 1, 11])
def test_scores_are_those_of_explicit_projections(bank, queries, dim):
    prototypes = cone(240, 12, 5)[2]
    residual, vim = naive(bank, queries, prototypes, dim or 6)
    valid = queries.image.valid
    for scorer, expected in (
        (Residual(dim, **options(5)), residual),
        (VirtualLogitMatching(dim, **options(5)), vim),
    ):
        values = scored(scorer, learned(scorer, bank), queries)[scorer.columns.names[0]]
        np.testing.assert_allclose(values[valid], expected[valid], rtol=1e-8)
        assert np.isnan(values[~valid]).all()


def test_order_of_batches_changes_no_bit_and_their_size_next_to_nothing(bank, queries):
    vim = VirtualLogitMatching(**options(5))
    known = learned(vim, bank)
    shuffled = learned(vim, bank, order=lambda n: np.random.default_rng(0).permutation(n))
    assert same_arrays(known, shuffled)
    other = scored(vim, learned(vim, bank, rows=7), queries)["ood_vim"]
    np.testing.assert_allclose(scored(vim, known, queries)["ood_vim"], other, rtol=1e-9)


def test_order_of_classes_does_not_count(bank, queries):
    turned = [
        pairs(
            each.image.vectors, cone(240, 12, 5)[2][::-1], missing=np.flatnonzero(~each.image.valid)
        )
        for each in (bank, queries)
    ]
    vim = VirtualLogitMatching(**options(5))
    one, other = (
        scored(vim, learned(vim, rows[0]), rows[1])["ood_vim"] for rows in ((bank, queries), turned)
    )
    np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_one_class_and_equal_prototypes_are_no_exception(bank, queries, count):
    prototypes = np.repeat(cone(240, 12, 5)[2][:1], count, axis=0)
    rows = [
        pairs(each.image.vectors, prototypes, missing=np.flatnonzero(~each.image.valid))
        for each in (bank, queries)
    ]
    vim = VirtualLogitMatching(**options(count))
    values = scored(vim, learned(vim, rows[0]), rows[1])["ood_vim"]
    expected = naive(rows[0], rows[1], prototypes, 6)[1]
    valid = queries.image.valid
    np.testing.assert_allclose(values[valid], expected[valid], rtol=1e-8)


def test_the_dimension_is_the_authors():
    assert [principal_dim(dim) for dim in (32, 512, 1024, 4096)] == [16, 256, 512, 1000]


def test_the_basis_is_of_the_smallest_eigenvalues():
    basis, values = residual_basis(np.diag([3.0, 1.0, 2.0]), 1)
    assert values.tolist() == [3.0, 2.0, 1.0]
    np.testing.assert_allclose(basis @ basis.T, np.diag([0.0, 1.0, 1.0]), atol=1e-15)


def test_all_learn_from_one_sum(bank):
    kinds = (
        Residual,
        VirtualLogitMatching,
        Mahalanobis,
        RelativeMahalanobis,
        GaussianDiscriminant,
    )
    scorers = [kind(labels="label", **options(5)) for kind in kinds]
    asked = {next(iter(s.statistics({}, context(bank)).values())) for s in scorers}
    assert len(asked) == 1
    other = Residual(**options(5)).statistics({}, context(bank))
    assert asked != set(other.values())


def test_the_second_pass_is_hashed_by_the_basis(bank):
    known = learned(Residual(**options(5)), bank)
    asked = VirtualLogitMatching(**options(5)).statistics(known, context(bank))["totals"]
    assert isinstance(asked, ResidualTotals)
    assert asked == ResidualTotals(asked.prompts, HashedArray(known["basis"].copy()))


def test_too_few_rows_are_refused(bank):
    few = pairs(bank.image.vectors[:13], cone(240, 12, 5)[2], [0] * 5 + [None] * 8, missing=[1, 2])
    for kind in (Residual, VirtualLogitMatching):
        with pytest.raises(
            UsageError, match=rf"{kind.name} learns of 11 rows .* 12 components .*--learn-on"
        ):
            learned(kind(**options(5)), few)
        with pytest.raises(
            UsageError, match=r"3 rows .*column 'label' \(8 with an image have none\)"
        ):
            learned(kind(labels="label", **options(5)), few)


def test_rows_that_span_too_little_are_refused():
    rng = np.random.default_rng(0)
    flat = pairs(np.pad(rng.normal(size=(40, 3)), ((0, 0), (0, 5))), np.eye(2, 8))
    with pytest.raises(UsageError, match=r"ood.vim: the mean residual outside of 4 .*option dim"):
        learned(VirtualLogitMatching(**options(2)), flat)
    known = learned(VirtualLogitMatching(dim=2, **options(2)), flat)
    assert np.isfinite(known["alpha"])


@pytest.mark.parametrize("dim", [12, 40])
def test_a_dimension_that_leaves_no_residual_is_refused(bank, dim):
    scorer = Residual(dim, **options(5))
    with pytest.raises(UsageError, match=f"option dim of scorer ood.residual is {dim}.* 1 to 11"):
        scorer.statistics({}, context(bank))


@pytest.mark.parametrize("dim", [0, -3, 2.0, True, "8"])
def test_a_dimension_that_is_none_is_refused(dim):
    with pytest.raises(UsageError, match=r"option dim of scorer ood.vim must be an int"):
        VirtualLogitMatching(dim, **options(5))


@pytest.mark.parametrize("labels", ["", 3, ["label"]])
def test_labels_are_a_column(labels):
    with pytest.raises(UsageError, match=r"option labels of scorer ood.vim must be the name"):
        VirtualLogitMatching(labels=labels, **options(5))


def test_options_are_recorded():
    scorer = VirtualLogitMatching(7, labels="label", **options(5))
    assert scorer.parameters() == {"labels": "label", "dim": 7}
