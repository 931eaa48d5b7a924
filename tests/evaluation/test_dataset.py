"""MaNo, calibration and accuracy: authors' values, naive loops, the same bits for any split."""

import dataclasses
import json
import math
from fractions import Fraction
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pytest

from clipsieve.errors import UsageError
from clipsieve.evaluation.dataset import CalibrationState, LogitTerms, MaNo, MaNoState, logit_terms
from clipsieve.evaluation.exact import exact_total, exact_value

DATA = np.load(Path(__file__).parents[1] / "data" / "ood_evaluation.npz")
VALUES = dict(zip(DATA["names"].tolist(), DATA["values"].tolist(), strict=True))
LOGITS = 100 * (DATA["images"].astype(np.float64) @ DATA["classes"].astype(np.float64).T)


def mano_of(logits, power=4, **settings) -> MaNo:
    mano = MaNoState.from_logits(logits, power).result(**settings)
    assert mano is not None
    return mano


def naive_mano(logits, power=4):
    """Loops over rows and classes: mean criterion, value of the softmax, value of the Taylor."""
    criterion = softmax = taylor = 0.0
    for row in logits:
        log_sum = max(row) + math.log(sum(math.exp(z - max(row)) for z in row))
        criterion += log_sum - sum(row) / len(row)
        softmax += sum(math.exp(z - log_sum) ** power for z in row)
        v = [1 + z + z * z / 2 for z in row]
        v = [each - min(v) for each in v]
        taylor += sum((each / sum(v)) ** power for each in v)
    cells = logits.size
    return criterion / len(logits), *((s / cells) ** (1 / power) for s in (softmax, taylor))


def random_splits(rng, count):
    """Rows in another order, in parts that may be empty."""
    order = rng.permutation(count)
    return np.split(order, np.sort(rng.integers(0, count + 1, size=rng.integers(1, 9))))


# Exact sums


def test_exact_sum_is_the_correctly_rounded_sum_of_fractions():
    rng = np.random.default_rng(0)
    values = rng.normal(size=3000) * 10.0 ** rng.integers(-6, 4, size=3000)
    expected = sum((Fraction(v) for v in values.tolist()), Fraction(0))
    assert exact_value(exact_total(values)) == float(expected)


def test_exact_sum_is_the_same_for_any_split():
    rng = np.random.default_rng(1)
    values = rng.normal(size=500) * 1e3
    parts = random_splits(rng, 500)
    assert sum(exact_total(values[part]) for part in parts) == exact_total(values)


def test_exact_sum_of_no_values_and_of_many_blocks():
    assert exact_total(np.empty(0)) == 0
    assert exact_value(exact_total(np.full(200_001, 2.0**14))) == 200_001 * 2.0**14


# MaNo


def test_mano_equals_the_authors_code():
    mano = mano_of(LOGITS)
    # The authors' code is in float32.
    names = ("softmax branch(delta=6)", "Taylor branch(delta=1)")
    softmax, taylor = (VALUES[f"MaNo_repo {name} p=4 batch=24"] for name in names)
    assert mano.softmax == pytest.approx(softmax, rel=1e-6)
    assert mano.taylor == pytest.approx(taylor, rel=1e-6)
    criterion = VALUES["MaNo criterion: mean CE(uniform,softmax) over all"]
    assert mano.criterion == pytest.approx(criterion, rel=1e-12)
    divergence = VALUES["MaNo criterion: mean KL(uniform||softmax) = CE - log K"]
    assert mano.divergence == pytest.approx(divergence, rel=1e-12)
    assert (mano.branch, mano.value) == ("softmax", mano.softmax)


def test_mean_over_batches_is_what_the_authors_code_gives_for_batches():
    batches = [mano_of(LOGITS[first : first + 10]) for first in (0, 10, 20)]
    for name, field in (
        ("softmax branch(delta=6)", "softmax"),
        ("Taylor branch(delta=1)", "taylor"),
    ):
        mean = np.mean([getattr(batch, field) for batch in batches])
        assert mean == pytest.approx(VALUES[f"MaNo_repo {name} p=4 batch=10"], rel=1e-6)


@pytest.mark.parametrize("power", [1, 2, 4])
@pytest.mark.parametrize("scale", [0.3, 3, 100])
def test_mano_equals_a_naive_loop(power, scale):
    logits = np.random.default_rng(2).normal(size=(40, 7)) * scale
    mano = mano_of(logits, power)
    values = mano.criterion, mano.softmax, mano.taylor
    assert values == pytest.approx(naive_mano(logits, power), rel=1e-12)
    assert mano.branch == ("softmax" if mano.criterion > 5 else "taylor")


def test_mano_is_the_same_bits_for_any_split_and_order():
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(300, 11)) * 20
    whole = MaNoState.from_logits(logits)
    for _ in range(5):
        states = [MaNoState.from_logits(logits[part]) for part in random_splits(rng, 300)]
        assert reduce(add, states) == whole
    assert MaNoState(**json.loads(json.dumps(dataclasses.asdict(whole)))) == whole


def test_order_of_classes_does_not_matter():
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(50, 9)) * 30
    one, other = (mano_of(z) for z in (logits, logits[:, ::-1]))
    assert other.softmax == pytest.approx(one.softmax, rel=1e-13)
    assert other.taylor == pytest.approx(one.taylor, rel=1e-13)


def test_the_threshold_decides_on_the_branch():
    mano = mano_of(LOGITS)
    at, below = mano.criterion, np.nextafter(mano.criterion, 0)
    assert mano_of(LOGITS, threshold=at).branch == "taylor"
    assert mano_of(LOGITS, threshold=at).value == mano.taylor
    assert mano_of(LOGITS, threshold=below).branch == "softmax"


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_equal_logits_are_uniform_in_both_branches(classes):
    mano = mano_of(np.full((3, classes), 7.0))
    expected = (classes**-3 / classes) ** 0.25
    assert (mano.softmax, mano.taylor) == pytest.approx((expected, expected))
    assert mano.divergence == pytest.approx(0, abs=1e-12)


def test_logits_of_hundreds_neither_overflow_nor_underflow():
    mano = mano_of(np.array([[100.0, -100.0, 0.0]] * 4))
    assert mano.softmax == pytest.approx(3**-0.25)
    assert np.isfinite([mano.taylor, mano.criterion]).all()


def test_no_rows_have_no_mano_and_other_classes_are_not_merged():
    empty = MaNoState.from_logits(np.empty((0, 3)))
    assert empty.result() is None
    assert empty + MaNoState.from_logits(LOGITS[:, :3]) == MaNoState.from_logits(LOGITS[:, :3])
    with pytest.raises(ValueError, match="MaNo of 3 classes and power 4 cannot be merged with 10"):
        empty + MaNoState.from_logits(LOGITS)


def test_a_power_below_one_and_no_class_are_refused():
    with pytest.raises(UsageError, match="got power 0"):
        logit_terms(LOGITS, 0)
    with pytest.raises(UsageError, match=r"shape \(2, 0\)"):
        logit_terms(np.empty((2, 0)))


def test_confidence_is_the_softmax_of_the_first_largest_logit():
    terms = logit_terms(np.array([[1.0, 3.0, 3.0], [500.0, -500.0, 0.0]]))
    assert terms.predicted.tolist() == [1, 0]
    assert terms.confidence == pytest.approx([1 / (2 + math.exp(-2)), 1.0])
    joined = LogitTerms.concatenate([terms.take(np.array([0])), terms.take(np.array([1]))])
    assert joined.confidence.tolist() == terms.confidence.tolist()


# Calibration


@pytest.mark.parametrize("bins", [10, 15])
def test_calibration_error_equals_the_authors_code(bins):
    # It sums float32; five of the confidences are edges of bins.
    state = CalibrationState.from_rows(DATA["confidence"], DATA["correct"], bins)
    assert state.error() == pytest.approx(VALUES[f"ECE FixSC (lo,hi] n_bins={bins}"], rel=1e-6)


def naive_ece(confidence, correct, bins):
    total = 0.0
    for number in range(bins):
        rows = [
            n
            for n, value in enumerate(confidence)
            if np.linspace(0, 1, bins + 1)[number]
            < value
            <= np.linspace(0, 1, bins + 1)[number + 1]
        ]
        if rows:
            mean = sum(confidence[n] for n in rows) / len(rows)
            share = sum(bool(correct[n]) for n in rows) / len(rows)
            total += len(rows) / len(confidence) * abs(mean - share)
    return total


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_calibration_error_equals_a_naive_loop(bins):
    rng = np.random.default_rng(5)
    confidence = np.round(rng.random(200), 2)
    correct = rng.random(200) < confidence
    state = CalibrationState.from_rows(confidence, correct, bins)
    assert state.error() == pytest.approx(naive_ece(confidence, correct, bins), rel=1e-9)
    assert state.accuracy() == correct.mean()


def test_calibration_is_the_same_bits_for_any_split_and_order():
    rng = np.random.default_rng(6)
    confidence, correct = rng.random(400), rng.random(400) < 0.5
    whole = CalibrationState.from_rows(confidence, correct)
    parts = [CalibrationState.from_rows(confidence[p], correct[p]) for p in random_splits(rng, 400)]
    assert reduce(add, parts, CalibrationState.empty()) == whole


def test_edges_belong_to_the_bin_below_and_zero_to_none():
    state = CalibrationState.from_rows(np.array([0.0, 0.5, 1.0]), np.array([True, False, True]), 2)
    assert (state.rows, state.unbinned) == ((1, 1), 1)
    assert state.accuracy() == pytest.approx(2 / 3)
    assert state.error() == pytest.approx(0.5 / 3)


def test_no_rows_have_no_calibration_and_no_bins_are_refused():
    assert CalibrationState.empty().error() is None
    assert CalibrationState.empty().accuracy() is None
    with pytest.raises(UsageError, match="one bin at least, got 0"):
        CalibrationState.from_rows(np.ones(1), np.ones(1, bool), 0)
