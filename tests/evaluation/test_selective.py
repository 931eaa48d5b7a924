"""Risk by coverage: the authors' value, a naive loop, ties."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from clipsieve.evaluation.dataset import logit_terms
from clipsieve.evaluation.selective import aurc, risk_coverage

DATA = np.load(Path(__file__).parents[1] / "data" / "ood_evaluation.npz")
VALUES = dict(zip(DATA["names"].tolist(), DATA["values"].tolist(), strict=True))


def naive(confidence, correct):
    """The area for one order of the rows, the most confident first."""
    order = sorted(range(len(confidence)), key=lambda row: -confidence[row])
    risks, errors = [0.0], 0
    for number, row in enumerate(order, 1):
        errors += not correct[row]
        risks.append(errors / number)
    pairs = pairwise(risks)
    return sum((one + other) / 2 for one, other in pairs) / len(order)


def test_area_equals_the_authors_code():
    images, classes = (DATA[name].astype(np.float64) for name in ("images", "classes"))
    terms = logit_terms(100 * (images[:12] @ classes.T))
    area = aurc(terms.confidence, DATA["risk"] == 0)
    assert area == pytest.approx(VALUES["FixSC.AURC(MSP)"], rel=1e-6)  # it is in float32


def test_area_equals_a_naive_loop():
    rng = np.random.default_rng(0)
    confidence, correct = rng.random(80), rng.random(80) < 0.7
    assert aurc(confidence, correct) == pytest.approx(naive(confidence, correct), rel=1e-12)


def test_equal_confidences_give_the_mean_over_their_orders():
    confidence, correct = np.array([0.9, 0.5, 0.5, 0.5, 0.1]), np.array([1, 1, 0, 0, 1], bool)
    rng = np.random.default_rng(1)
    orders = [rng.permutation(5) for _ in range(4000)]
    mean = np.mean([naive(confidence[order], correct[order]) for order in orders])
    assert aurc(confidence, correct) == pytest.approx(mean, abs=3e-3)
    assert {aurc(confidence[order], correct[order]) for order in orders[:50]} == {
        aurc(confidence, correct)
    }


def test_curve_begins_at_zero_and_ends_at_the_error_rate():
    coverage, risk = risk_coverage(np.array([0.2, 0.4, 0.3]), np.array([False, True, False]))
    assert coverage == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert risk == pytest.approx([0, 0, 1 / 2, 2 / 3])


def test_no_rows_one_row_and_only_correct_ones():
    assert aurc(np.empty(0), np.empty(0, bool)) is None
    assert aurc(np.array([0.5]), np.array([False])) == 0.5
    assert aurc(np.array([0.5, 0.6]), np.array([True, True])) == 0
