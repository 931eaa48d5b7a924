"""AUROC, AUPR and FPR95: the authors' values, scikit-learn, naive loops, ties, intervals."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from clipsieve.errors import UsageError
from clipsieve.evaluation import ranking
from clipsieve.evaluation.ranking import ScoreCounts, auroc, detect

DATA = np.load(Path(__file__).parents[1] / "data" / "ood_evaluation.npz")
VALUES = dict(zip(DATA["names"].tolist(), DATA["values"].tolist(), strict=True))


def measured(inside, outside, **settings):
    return detect(ScoreCounts.from_scores(np.array(inside), np.array(outside)), **settings)


def point(inside, outside):
    """AUROC, AUPR in, AUPR out, FPR95."""
    found = measured(inside, outside, replicates=0)
    return found.auroc[0], found.aupr_in[0], found.aupr_out[0], found.fpr95[0]


def test_measures_equal_the_authors_code():
    # There higher is in-distribution.  The scores are not kept with the values; these, drawn as
    # normals of seed 11 rounded to two digits, give all values that are kept.
    roc, aupr_in, _, fpr = point(-DATA["inside"], -DATA["outside"])
    assert roc == pytest.approx(VALUES["AUROC"], rel=1e-12)
    assert aupr_in == pytest.approx(VALUES["AUPR-in MCM (average_precision)"], rel=1e-12)
    assert fpr == VALUES["FPR95 vim/GEN (thr = sorted[-floor(.95 n)], >=)"]


@pytest.mark.parametrize("digits", [0, 1, 8], ids=["many ties", "ties", "none"])
def test_measures_equal_scikit_learn(digits):
    rng = np.random.default_rng(digits)
    inside, outside = rng.normal(0, 1, 300).round(digits), rng.normal(1, 2, 170).round(digits)
    scores, is_out = np.append(inside, outside), np.repeat([0, 1], [300, 170])
    roc, aupr_in, aupr_out, _ = point(inside, outside)
    assert roc == pytest.approx(roc_auc_score(is_out, scores), rel=1e-12)
    assert aupr_out == pytest.approx(average_precision_score(is_out, scores), rel=1e-12)
    assert aupr_in == pytest.approx(average_precision_score(1 - is_out, -scores), rel=1e-12)


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 40, 237])
def test_fpr95_equals_the_rule_on_sorted_scores(count):
    rng = np.random.default_rng(count)
    inside, outside = rng.normal(0, 1, count).round(1), rng.normal(1, 1, 60).round(1)
    rising = sorted(-inside)  # higher is in-distribution
    threshold = rising[-max(int(0.95 * count), 1)]
    assert point(inside, outside)[3] == np.mean(-outside >= threshold)


def test_auroc_equals_a_count_of_pairs():
    inside, outside = np.array([1.0, 2, 2, 3]), np.array([2.0, 2, 4])
    wins = sum((o > i) + (o == i) / 2 for o in outside for i in inside)
    assert auroc(ScoreCounts.from_scores(inside, outside)) == wins / 12


def test_only_the_order_of_scores_counts():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(0, 1, 90), rng.normal(1, 1, 50)
    assert measured(np.exp(inside[::-1]), np.exp(outside)) == measured(inside, outside)


def test_constant_scores_are_chance():
    assert point([3.0] * 4, [3.0] * 6) == (0.5, 0.4, 0.6, 1.0)


def test_separated_scores_are_perfect_and_the_wrong_way_round_worst():
    assert point([0.0, 1, 2], [3.0, 4]) == (1, 1, 1, 0)
    roc, _, _, fpr = point([3.0, 4], [0.0, 1, 2])
    assert (roc, fpr) == (0, 1)


def test_one_row_of_each():
    assert point([0.0], [1.0]) == (1, 1, 1, 0)


@pytest.mark.parametrize(("inside", "outside"), [([], [1.0]), ([1.0], []), ([np.nan], [1.0])])
def test_a_class_without_a_row_has_no_measures(inside, outside):
    found = measured(inside, outside)
    assert found.auroc == found.aupr_in == found.aupr_out == found.fpr95 == (None, None, None)


def test_missing_scores_are_left_out():
    assert point([np.nan, 0.0, 2.0], [1.0, np.nan]) == point([0.0, 2.0], [1.0])


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(1)
    truth = 0.7602  # Phi(1 / sqrt(2))
    covered = 0
    for seed in range(60):
        found = measured(rng.normal(0, 1, 80), rng.normal(1, 1, 60), seed=seed)
        low, high = found.auroc[1:]
        assert low <= found.auroc[0] <= high
        covered += low <= truth <= high
    assert 50 <= covered <= 60


def test_intervals_equal_those_of_drawn_rows():
    rng = np.random.default_rng(2)
    inside, outside = rng.normal(0, 1, 120).round(1), rng.normal(1, 1, 90).round(1)
    found = measured(inside, outside, replicates=1500)
    drawn = [point(rng.choice(inside, 120), rng.choice(outside, 90)) for _ in range(1500)]
    expected = np.quantile(drawn, [0.025, 0.975], axis=0)
    for at, name in enumerate(("auroc", "aupr_in", "aupr_out", "fpr95")):
        assert getattr(found, name)[1:] == pytest.approx(expected[:, at], abs=0.025)


def test_equal_seeds_give_equal_intervals():
    rng = np.random.default_rng(3)
    inside, outside = rng.normal(0, 1, 50), rng.normal(1, 1, 50)
    one, same, other = (measured(inside, outside, seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one.auroc[0] == other.auroc[0] and one.auroc[1:] != other.auroc[1:]


def test_bins_change_the_intervals_a_little_and_the_measures_not_at_all(monkeypatch):
    rng = np.random.default_rng(4)
    inside, outside = rng.normal(0, 1, 3000), rng.normal(1, 1, 2000)
    whole = measured(inside, outside)
    monkeypatch.setattr(ranking, "MOST_VALUES", 500)
    binned = measured(inside, outside)
    assert (whole.binned, binned.binned) == (False, True)
    for name in ("auroc", "aupr_in", "aupr_out", "fpr95"):
        one, other = getattr(whole, name), getattr(binned, name)
        assert other[0] == one[0]
        assert other[1:] == pytest.approx(one[1:], abs=0.012)


@pytest.mark.parametrize("bins", [1, 7, 100])
def test_bins_keep_all_rows_and_have_about_equally_many(bins):
    rng = np.random.default_rng(5)
    counts = ScoreCounts.from_scores(rng.normal(size=4000), rng.normal(size=1000)).binned(bins)
    rows = counts.inside + counts.outside
    assert (counts.inside.sum(), counts.outside.sum()) == (4000, 1000)
    assert len(rows) == bins
    assert rows.min() >= 5000 // bins - 1


def test_fewer_than_no_replicates_are_refused():
    with pytest.raises(UsageError, match="0 or more replicates, got -1"):
        measured([0.0], [1.0], replicates=-1)
