"""Moments by class against plain sums, in any split and order; classes from labels or cosines."""

import pickle
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.scorers.base import Context, Embedded, PairBatch, PromptSet
from clipsieve.statistics.hashed_array import HashedArray
from clipsieve.statistics.moments import ClassMoments, UnitMoments, label_classes
from clipsieve.statistics.row_totals import RowTotals
from clipsieve.store.pairs import split_batch
from clipsieve.transforms.merge import Merge
from tests.scorers.ood.learning import cone, pairs, prompt_set
from tests.transforms.combining import combined_every_way

CONTEXT = Context(dim=8, rows=300, logit_scale=100.0)


@pytest.fixture(scope="module")
def batch():
    vectors, labels, prototypes = cone(300, 8, 5)
    return pairs(vectors, prototypes, labels.tolist(), missing=[0, 7, 299])


def observed(batch, statistic, rows):
    return [statistic.observe(part, CONTEXT) for part in split_batch(batch, rows)]


def total(parts):
    first, *others = parts
    return sum(others, first)


def naive(unit, classes, count):
    """Means by class and scatters, row by row about the means themselves."""
    means = np.zeros((count, unit.shape[1]))
    for k in range(count):
        if (classes == k).any():
            means[k] = unit[classes == k].mean(axis=0)
    within = sum(np.outer(x - means[k], x - means[k]) for x, k in zip(unit, classes, strict=True))
    grand = unit.mean(axis=0)
    return means, within, sum(np.outer(x - grand, x - grand) for x in unit)


def same(one, other):
    return (
        np.array_equal(one.counts, other.counts)
        and one.class_sums == other.class_sums
        and one.products == other.products
        and one.unlabelled == other.unlabelled
    )


@pytest.mark.parametrize("labels", [None, "label"])
def test_moments_are_those_of_plain_loops(batch, labels):
    moments = total(observed(batch, UnitMoments(prompt_set(5), labels), 64))
    valid = batch.image.valid
    unit = batch.image.unit()[valid]
    cosines = batch.image_cosines(prompt_set(5))[valid]
    classes = cosines.argmax(axis=1) if labels is None else np.array(batch.columns["label"])[valid]
    means, within, scatter = naive(unit, classes, 5)
    assert moments.rows == 297
    assert moments.counts.tolist() == np.bincount(classes, minlength=5).tolist()
    np.testing.assert_allclose(moments.class_means(), means, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(moments.mean(), unit.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.within_scatter(), within, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(moments.total_scatter(), scatter, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(moments.second_moment(), unit.T @ unit / 297, rtol=1e-12)
    about = np.arange(8) / 10
    shifted = (unit - about).T @ (unit - about) / 297
    np.testing.assert_allclose(moments.second_moment(about), shifted, rtol=1e-11)


def test_every_order_of_the_same_batches_has_the_same_bits(batch):
    parts = observed(batch, UnitMoments(prompt_set(5)), 41)
    zero = ClassMoments.from_rows(np.empty((0, 8)), np.empty(0, int), 5)
    results = list(combined_every_way(Merge(zero), parts))
    assert all(same(result, total(parts)) for result in results)


def test_other_batches_agree(batch):
    statistic = UnitMoments(prompt_set(5), "label")
    whole = total(observed(batch, statistic, 300))
    for rows in (1, 7, 50):
        other = total(observed(batch, statistic, rows))
        for name in ("within_scatter", "total_scatter", "second_moment", "class_means", "mean"):
            one, two = getattr(whole, name)(), getattr(other, name)()
            assert np.abs(one - two).max() <= 1e-12 * np.abs(one).max(), name


def test_the_smallest_eigenvalue_of_a_cone_is_kept():
    """The precision demo of a mean direction far larger than the spread about it."""
    rng = np.random.default_rng(3)
    basis = np.linalg.qr(rng.normal(size=(64, 64)))[0]
    mean = rng.normal(size=64)
    mean *= 3 / np.linalg.norm(mean)
    x = rng.normal(size=(20_000, 64)) * np.sqrt(np.geomspace(1, 0.01, 64)) @ basis.T + mean
    classes = np.arange(20_000) % 3
    bounds = np.linspace(0, 20_000, 51).astype(int)
    parts = [ClassMoments.from_rows(x[a:b], classes[a:b], 3) for a, b in pairwise(bounds)]
    wide = x.astype(np.longdouble)
    within = np.zeros((64, 64), np.longdouble)
    for k in range(3):
        offset = wide[classes == k] - wide[classes == k].mean(axis=0)
        within += np.einsum("nd,ne->de", offset, offset)
    exact = np.linalg.eigvalsh(within.astype(np.float64))
    whole = total(parts)
    assert whole.within_scatter() == pytest.approx(whole.within_scatter().T, abs=0)
    ours = np.linalg.eigvalsh(whole.within_scatter())
    assert abs(ours[0] / exact[0] - 1) <= 1e-9
    for count in (1, 7, 50):
        order = rng.permutation(50)
        groups = [total([parts[at] for at in group]) for group in np.array_split(order, count)]
        assert same(total([groups[at] for at in rng.permutation(count)]), whole)


def test_a_class_without_rows_is_told_apart(batch):
    labels = [None if value == 3 else value for value in batch.columns["label"]]
    moments = total(
        observed(
            pairs(batch.image.vectors, np.eye(5, 8), labels), UnitMoments(prompt_set(5), "label"), 9
        )
    )
    assert moments.present.tolist() == [True, True, True, False, True]
    assert moments.class_means()[3].tolist() == [0.0] * 8
    assert np.isfinite(moments.within_scatter()).all()


def test_labels_are_names_or_numbers_and_others_are_counted():
    values = ["class 1", 0, None, "class 9", True, 2, -1, 3, 1.0, np.int64(2), "class 0"]
    assert label_classes(values, prompt_set(3).names).tolist() == [
        *(1, 0, -1, -2, -2, 2, -2, -2, 1, 2, 0)
    ]
    rng = np.random.default_rng(0)
    batch = pairs(rng.normal(size=(11, 8)), np.eye(3, 8), values, missing=[2, 5])
    moments = UnitMoments(prompt_set(3), "label").observe(batch, CONTEXT)
    assert moments.counts.tolist() == [2, 2, 1]
    assert moments.unlabelled == 4


def test_of_equal_names_the_first_has_the_rows():
    assert label_classes(["b", "a", 2], ["a", "b", "b"]).tolist() == [1, 0, 2]


def test_of_equal_cosines_the_first_class_has_the_rows():
    batch = pairs(np.ones((4, 8)), np.ones((3, 8)) / np.sqrt(8))
    assert UnitMoments(prompt_set(3)).observe(batch, CONTEXT).counts.tolist() == [4, 0, 0]


def test_no_rows_sum_to_nothing():
    empty = PairBatch(
        pa.array([], pa.string()),
        Embedded(np.empty((0, 8), np.float32), np.empty(0, bool)),
        prototypes={prompt_set(2): np.eye(2, 8)},
    )
    moments = UnitMoments(prompt_set(2)).observe(empty, CONTEXT)
    assert moments.rows == 0
    for values in (moments.mean(), moments.second_moment(), moments.within_scatter()):
        assert not values.any()


def test_equal_statistics_are_equal_and_travel():
    one, other = UnitMoments(prompt_set(3), "label"), UnitMoments(prompt_set(3), "label")
    assert one == other and hash(one) == hash(other)
    assert pickle.loads(pickle.dumps(one)) == one
    assert one != UnitMoments(prompt_set(3)) != UnitMoments(PromptSet(("a",), (("a",),)))
    assert one.source_columns == ("label",) and UnitMoments(prompt_set(3)).source_columns == ()


def test_hashed_arrays_compare_by_content():
    values = np.arange(6.0).reshape(2, 3)
    one = HashedArray(values)
    assert one == HashedArray(values.copy()) == pickle.loads(pickle.dumps(one))
    assert hash(one) == hash(HashedArray(values.copy()))
    for other in (values.reshape(3, 2), values.astype(np.float32), values + 1):
        assert one != HashedArray(other)


def test_row_totals_have_means():
    parts = [RowTotals.from_rows(np.full(n, 0.25), np.arange(n) / 8) for n in (3, 0, 5)]
    state = total(parts)
    assert state.rows == 8
    assert state.means().tolist() == [0.25, (3 + 10) / 8 / 8]
    assert RowTotals.from_rows(np.empty(0)).means().tolist() == [0.0]
