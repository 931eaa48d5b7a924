"""Evidence is surprise beyond that of ordinary rows."""

import math

import numpy as np
import pytest

from clipsieve.audit.evidence import binds, evidence, expected_surprise


@pytest.mark.parametrize("tail", [0.01, 0.1, 0.5, 1.0])
def test_expected_surprise_is_the_mean_over_ordinary_rows(tail):
    q = (np.arange(2_000_000) + 0.5) / 2_000_000
    assert expected_surprise(tail) == pytest.approx((-np.log(q) * (q <= tail)).mean(), rel=1e-3)


def test_evidence_by_hand():
    found = evidence(np.array([0.01, 0.05]), rows=3, tail=0.1)
    assert found == pytest.approx(math.log(100) + math.log(20) - 3 * 0.1 * (1 + math.log(10)))


def test_a_frequent_caption_with_ordinary_scores_has_no_evidence():
    # 5 % of a million rows, of which the usual share of 1 % is suspicious.
    tails = np.random.default_rng(0).uniform(0, 0.01, 500)
    assert abs(evidence(tails, rows=50_000, tail=0.01)) < 4 * math.sqrt(50_000 * 0.33)
    assert evidence(np.full(40, 0.01), rows=40, tail=0.01) > 150


def test_many_copies_outrank_a_pair_and_a_single_extreme_row():
    copies = evidence(np.full(40, 0.05), rows=40, tail=0.1)
    pair = evidence(np.array([1e-6, 2e-6]), rows=2, tail=0.1)
    assert copies > 2 * pair > evidence(np.array([1e-6]), rows=1, tail=0.1)


def test_ordinary_rows_of_a_group_take_evidence_away():
    tails = np.full(10, 0.01)
    assert evidence(tails, 10, 0.1) > evidence(tails, 100, 0.1) > evidence(tails, 200, 0.1)


def test_everything_suspicious_and_equal_has_none():
    assert evidence(np.ones(10), rows=10, tail=1.0) < 0


@pytest.mark.parametrize(
    ("suspicious", "rows", "tail", "bound"),
    [
        (1, 1, 0.01, False),  # one row links nothing
        (2, 2, 0.01, True),
        (2, 8, 0.01, True),
        (2, 9, 0.01, False),
        (10, 1000, 0.01, False),
        (10, 25, 0.2, True),
        (10, 26, 0.2, False),
        (5, 5, 0.8, True),
        (5, 6, 0.8, False),
    ],
)
def test_a_caption_binds_if_its_rows_are_suspicious_often_enough(suspicious, rows, tail, bound):
    assert binds(suspicious, rows, tail) is bound
