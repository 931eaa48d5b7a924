"""The line through the scores is exact, whatever the stream looks like."""

import math

import numpy as np
import pytest

from clipsieve.audit.selection import TopFraction, rows_to_select
from clipsieve.errors import UsageError


def threshold_of(scores, fraction, at_most=200_000, parts=1):
    top = TopFraction(at_most)
    for part in np.array_split(np.asarray(scores, np.float32), parts):
        top.add(part)
    return top.threshold(fraction)


def naive_selected(scores, wanted, at_most):
    """Scores at or above the line, by sorting everything."""
    real = sorted((s for s in scores if not math.isnan(s)), reverse=True)
    if not real or not wanted:
        return []
    above = [s for s in real if s >= real[wanted - 1]]
    return above if len(above) <= at_most else [s for s in real if s > real[wanted - 1]]


@pytest.mark.parametrize(
    ("scored", "fraction", "wanted"),
    [
        (0, 0.01, 0),
        (1, 0.01, 1),
        (15, 0.01, 2),
        (2_000, 0.01, 200),
        (20_000, 0.01, 2_000),
        (199_900, 0.01, 2_000),
        (300_001, 0.01, 3_001),
        (100, 1.0, 100),
        (100_000_000, 0.01, 200_000),
    ],
)
def test_rows_to_select(scored, fraction, wanted):
    assert rows_to_select(scored, fraction) == wanted


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, math.nan])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(UsageError, match="fraction must be above 0 and at most 1, got"):
        rows_to_select(10, fraction)


@pytest.mark.parametrize("parts", [1, 3, 40])
@pytest.mark.parametrize("at_most", [3, 10, 10_000])
@pytest.mark.parametrize("levels", [4, 30, 100_000])
def test_selection_equals_sorting_everything(parts, at_most, levels):
    rng = np.random.default_rng(levels + at_most)
    scores = rng.integers(levels, size=400).astype(np.float32)
    scores[rng.random(400) < 0.1] = np.nan
    threshold = threshold_of(scores, 0.2, at_most, parts)
    scored = int((~np.isnan(scores)).sum())
    expected = naive_selected(scores.tolist(), rows_to_select(scored, 0.2, at_most), at_most)
    assert threshold.scored == scored
    assert sorted(scores[threshold.selects(scores)], reverse=True) == expected
    assert threshold.tail == pytest.approx(len(expected) / scored)


def test_ties_at_the_line_are_all_in_or_all_out():
    scores = [5.0, *[3.0] * 20, *[1.0] * 79]
    assert len(threshold_of(scores, 0.1, at_most=50).values) == 21
    assert len(threshold_of(scores, 0.1, at_most=15).values) == 1
    assert len(threshold_of([3.0] * 100, 0.1, at_most=15).values) == 0


def test_tails_count_rows_at_least_as_high():
    scores = np.array([9, 7, 7, 5, 1, 1, 1, 1, 1, 1], np.float32)
    threshold = threshold_of(scores, 0.4)
    assert threshold.tails(scores[:4]).tolist() == [0.1, 0.3, 0.3, 0.4]


def test_no_scores_select_nothing():
    threshold = threshold_of([math.nan] * 5, 0.5)
    assert (threshold.scored, threshold.tail, len(threshold.values)) == (0, 0.0, 0)
    assert not threshold.selects(np.array([1, np.nan], np.float32)).any()
