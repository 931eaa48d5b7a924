"""Normal scores equal those of sorting everything, and depend on the rows alone."""

import math
import struct
from functools import reduce
from statistics import NormalDist

import numpy as np
import pytest

from clipsieve.audit.ordinary import MOST_SCORE, NO_COUNTS, OrdinaryRows, ScoreCounts, log_tail
from clipsieve.audit.witnesses import LOW_SIMILARITY, Witness

HIGH = Witness("density_kdist")
LOW = Witness("aesthetic", is_high=False)
#: Values within this share of each other may be counted as one.
RESOLUTION = 1 / 2048


def ordinary(witness, values):
    """Ordinary rows by all values at once."""
    return OrdinaryRows.from_counts(
        witness, ScoreCounts.from_values(np.asarray(values, np.float32))
    )


def naive_bin(value):
    """The float32 without its lowest twelve bits."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    (cut,) = struct.unpack("<f", struct.pack("<I", bits & 0xFFFFF000))
    return cut + 0.0


def naive_rank_scores(values, is_high):
    """Scores by the share of rows further out, ties in the middle of theirs."""
    cut = [naive_bin(value) for value in values]
    scores = []
    for own in cut:
        further = sum(other > own if is_high else other < own for other in cut)
        share = (further + cut.count(own) / 2) / len(cut)
        score = -NormalDist().inv_cdf(share)
        scores.append(max(-MOST_SCORE, min(MOST_SCORE, score)))
    return scores


def naive_centre(outward):
    """Middle and width of values by sigma clipping, on the values themselves."""
    kept = np.sort(outward)
    while True:
        median, quartile = (kept[math.ceil(share * len(kept)) - 1] for share in (0.5, 0.75))
        width = (quartile - median) / NormalDist().inv_cdf(0.75)
        inside = kept[kept <= median + 3 * width]
        if len(inside) == len(kept):
            return median, width
        kept = inside


def random_values(count, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(0.2, 1.5, count).astype(np.float32)
    values[rng.random(count) < 0.2] = np.float32(0.75)  # ties
    values[rng.random(count) < 0.05] = -0.0
    return values


@pytest.mark.parametrize("witness", [HIGH, LOW], ids=["high", "low"])
@pytest.mark.parametrize("seed", range(3))
def test_scores_by_rank_equal_those_of_counting_every_pair(witness, seed):
    values = random_values(300, seed)
    found = ordinary(witness, values).scores(values)
    naive = naive_rank_scores(values.tolist(), witness.is_high)
    assert np.allclose(found, naive, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_centre_equals_sigma_clipping_of_the_values(seed):
    rng = np.random.default_rng(seed)
    values = np.concatenate(
        [rng.normal(0.3, 0.04, 20_000), rng.normal(0.05, 0.03, 700), rng.uniform(-1, 1, 100)]
    ).astype(np.float32)
    found = ordinary(LOW_SIMILARITY, values)
    centre, width = naive_centre(-values.astype(np.float64))
    assert found.centre == pytest.approx(-centre, abs=2 * RESOLUTION * abs(centre))
    # A difference of two values of a bin each, over 0.67.
    assert found.width == pytest.approx(width, abs=3 * RESOLUTION * abs(centre))
    expected = np.clip((found.centre - values) / found.width, -MOST_SCORE, MOST_SCORE)
    tolerance = RESOLUTION * 1.0 / found.width
    assert np.abs(found.scores(values) - expected).max() <= tolerance


@pytest.mark.parametrize("witness", [HIGH, LOW, LOW_SIMILARITY], ids=["high", "low", "centre"])
def test_any_split_and_order_give_equal_counts_and_scores(witness):
    values = random_values(3000, 7)
    values[::10] = np.nan
    whole = ScoreCounts.from_values(values)
    known = OrdinaryRows.from_counts(witness, whole)
    rng = np.random.default_rng(0)
    for parts in (2, 7, 500):
        order = rng.permutation(len(values))
        split = [ScoreCounts.from_values(part) for part in np.array_split(values[order], parts)]
        total = reduce(ScoreCounts.__add__, split, NO_COUNTS)
        assert total.total == whole.total == 2700
        assert np.array_equal(total.bins, whole.bins) and np.array_equal(total.rows, whole.rows)
        again = OrdinaryRows.from_counts(witness, total)
        assert (again.centre, again.width) == (known.centre, known.width)
        assert np.array_equal(again.scores(values), known.scores(values), equal_nan=True)
        assert np.array_equal(again.surprises(values), known.surprises(values), equal_nan=True)


def test_a_tenth_of_the_rows_far_out_hardly_moves_the_middle():
    rng = np.random.default_rng(1)
    clean = rng.normal(0.3, 0.04, 50_000)
    dirty = clean.copy()
    dirty[:5_000] = rng.normal(-0.1, 0.02, 5_000)
    before, after = (ordinary(LOW_SIMILARITY, values) for values in (clean, dirty))
    assert after.centre == pytest.approx(before.centre, abs=0.1 * before.width)
    assert after.width == pytest.approx(before.width, rel=0.05)
    far = np.float32(-0.1)
    assert after.scores(np.array([dirty.astype(np.float32)[0]])) == MOST_SCORE
    # By rank the same rows are a tenth: nothing that says how far out they lie.
    ranks = ordinary(Witness("similarity", is_high=False), dirty)
    assert ranks.scores(dirty.astype(np.float32))[dirty < far + 0.1].max() < 4.5
    assert ranks.scores(dirty.astype(np.float32))[dirty < far + 0.1].mean() < 2


def test_the_suspicious_side_alone_makes_the_width():
    rng = np.random.default_rng(2)
    half = np.abs(rng.normal(0, 1, 20_000))
    values = 10 + np.concatenate([-half, 50 * half])  # low values are suspicious
    found = ordinary(LOW_SIMILARITY, values)
    assert found.centre == pytest.approx(10, abs=0.15)
    assert found.width == pytest.approx(1, rel=0.15)


@pytest.mark.parametrize("witness", [HIGH, LOW, LOW_SIMILARITY], ids=["high", "low", "centre"])
def test_a_column_of_one_value_is_ordinary_everywhere(witness):
    values = np.full(50, 0.25, np.float32)
    found = ordinary(witness, values)
    assert found.width == 0
    assert found.scores(values).tolist() == [0.0] * 50
    assert found.surprises(values) == pytest.approx(np.full(50, math.log(2)))


@pytest.mark.parametrize("witness", [HIGH, LOW_SIMILARITY], ids=["rank", "centre"])
def test_rows_without_a_value_have_no_score(witness):
    values = np.array([np.nan, 1.0, 2.0, np.nan, 3.0], np.float32)
    found = ordinary(witness, values)
    for kind in (found.scores(values), found.surprises(values)):
        assert np.isnan(kind).tolist() == [True, False, False, True, False]
    nothing = ordinary(witness, np.full(3, np.nan))
    assert nothing.counts.total == 0
    assert np.isnan(nothing.scores(np.full(3, np.nan, np.float32))).all()
    assert math.isnan(nothing.value(1.0))


@pytest.mark.parametrize("witness", [HIGH, LOW_SIMILARITY], ids=["rank", "centre"])
def test_surprise_is_that_of_the_tail_and_at_most_that_of_the_only_row(witness):
    values = np.concatenate([random_values(400, 3), [np.float32(-9000), np.float32(9000)]])
    found = ordinary(witness, values)
    tails = [NormalDist().cdf(-score) for score in found.scores(values).tolist()]
    naive = [min(-math.log(tail), math.log(len(values) + 1)) for tail in tails]
    assert found.surprises(values) == pytest.approx(naive)
    assert found.surprises(values).max() <= math.log(403)


@pytest.mark.parametrize("witness", [HIGH, LOW, LOW_SIMILARITY], ids=["high", "low", "centre"])
def test_value_of_a_score_is_as_far_out(witness):
    values = np.random.default_rng(4).normal(5, 1, 5000).astype(np.float32)
    found = ordinary(witness, values)
    for score in (-2.0, -0.5, 0.0, 1.0, 2.5):
        value = found.value(score)
        expected = 5 + score if witness.is_high else 5 - score
        assert value == pytest.approx(expected, abs=0.2)
    assert found.value(1.0) > found.value(0.0) or not witness.is_high


def test_values_of_chosen_bins_are_in_them():
    values = random_values(500, 5)
    values[3] = np.nan
    found = ordinary(HIGH, values)
    chosen = found.known > 1
    assert found.is_in(chosen, values).tolist() == (found.scores(values) > 1).tolist()


def exact_log_tail(score):
    """The normal tail by Laplace's continued fraction, from its end; for scores from 2 on."""
    fraction = score
    for step in range(4000, 0, -1):
        fraction = score + step / fraction
    return -score * score / 2 - math.log(2 * math.pi) / 2 - math.log(fraction)


@pytest.mark.parametrize("score", [2, 5, 10, 24.9, 24.999999, 25, 25.000001, 30, 37, 60, 1000])
def test_log_tail_equals_the_continued_fraction(score):
    assert log_tail(score) == pytest.approx(
        exact_log_tail(score), rel=0, abs=2e-9 + 1e-12 * score**2
    )


@pytest.mark.parametrize("score", [-30, -5, -1, 0, 0.5, 3])
def test_log_tail_of_small_scores_is_that_of_the_distribution(score):
    assert log_tail(score) == pytest.approx(math.log(NormalDist().cdf(-score)), abs=1e-12)


def test_log_tail_falls_everywhere():
    scores = [*np.arange(-5, 24.9, 0.01), *np.arange(24.9, 25.1, 1e-6), *np.arange(25.1, 60, 0.01)]
    tails = np.array([log_tail(score) for score in np.unique(scores).tolist()])
    assert (np.diff(tails) < 0).all()
