"""What is no ordinary group: by hand, by simulation, and what copies and spread change."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from clipsieve.audit import evidence
from clipsieve.audit.candidates import find_candidates, groups_of_kind
from clipsieve.audit.candidates import tests_of_kinds as make_tests_of_kinds
from clipsieve.audit.evidence import LINE, CopyShares, Outcome, Spread, row_evidence, spreads
from clipsieve.audit.key_sums import SCALE, KeySums
from clipsieve.audit.keys import Kind
from clipsieve.audit.witnesses import LOW_SIMILARITY, SawData, Witness

KDIST, LARGE, OTHER = Witness("density_kdist"), Witness("density_kdist_large"), Witness("other")
ALL = (LOW_SIMILARITY, KDIST, LARGE, OTHER)
NAN = math.nan


def make_tests(witnesses=(LOW_SIMILARITY,), **given):
    """Tests of one kind, with a spread of 0.2 and as if there were nothing else."""
    usual = {
        "spreads": [Spread(0.2, 0.2)] * len(witnesses),
        "kinds": 1,
        "kind_rows": 0,
        "similarity": witnesses.index(LOW_SIMILARITY) if LOW_SIMILARITY in witnesses else None,
        "with_learnt": False,
    }
    return evidence.Tests(witnesses, **{**usual, **given})


def naive_log_p(mean, observations, spread, tests):
    """Corrected tail of a mean score, in plain probabilities."""
    deviation = math.sqrt(spread + (1 - spread) / observations)
    return math.log(tests * NormalDist(0, deviation).cdf(-mean))


def sums_of(means, rows):
    """Sums of groups of one witness with given mean scores and rows."""
    means, rows = np.asarray(means), np.asarray(rows)
    scores = np.rint(means * rows * SCALE).astype(np.int64)[:, None]
    return KeySums(
        np.arange(1, len(rows) + 1).astype(np.uint64), rows, rows[:, None], scores, scores
    )


def ordinary_means(rng, rows, spread):
    """Mean scores of groups whose rows have normal scores of this share between groups."""
    own = rng.normal(size=len(rows)) * np.sqrt((1 - spread) / rows)
    return rng.normal(size=len(rows)) * math.sqrt(spread) + own


def test_a_corrected_tail_by_hand():
    # Mean 3 of 20 observations: variance 0.2 + 0.8 / 20 = 0.24; times 7 kinds and 1000 / 50 rows.
    tests = make_tests(kinds=7, kind_rows=1000)
    (outcome,) = tests.outcomes([3.0], rows=50, pairs=20, pictures=1)
    tail = NormalDist().cdf(-3 / math.sqrt(0.24))
    assert outcome.log_p == pytest.approx(math.log(tail * 7 * 20))
    assert (outcome.witness, outcome.is_learnt, outcome.is_beyond) == (0, False, True)


def test_every_witness_has_its_own_observations_spread_and_share_of_the_correction():
    given = [Spread(0.2, 0.3), Spread(0.25, 0.5), Spread(0.3, 0.6), Spread(0.35, 0.7)]
    tests = make_tests(ALL, spreads=given)
    means = [1.5, 2.5, NAN, 0.5]
    found = {o.witness: o.log_p for o in tests.outcomes(means, rows=40, pairs=30, pictures=10)}
    # Similarity by the robust spread and pairs, density by the whole one and pictures.
    assert found == {
        0: pytest.approx(naive_log_p(1.5, 30, 0.2, 4)),
        1: pytest.approx(naive_log_p(2.5, 10, 0.5, 4)),
        3: pytest.approx(naive_log_p(0.5, 30, 0.7, 4)),
    }


def test_a_witness_that_chose_the_group_is_not_tested():
    tests = make_tests(ALL, skips=frozenset({1, 2}))
    assert [o.witness for o in tests.outcomes([1.0] * 4, 9, 9, 9)] == [0, 3]


def test_a_group_as_large_as_its_kind_is_corrected_for_no_other():
    tests = make_tests(kind_rows=50)
    (whole,), (more,) = (tests.outcomes([1.0], rows, 5, 5) for rows in (50, 80))
    assert whole.log_p == more.log_p == pytest.approx(naive_log_p(1.0, 5, 0.2, 1))


def test_sixty_copies_of_a_pair_are_one_observation():
    tests = make_tests((LOW_SIMILARITY, KDIST), kind_rows=60)
    copies = tests.outcomes([1.8, 1.8], rows=60, pairs=1, pictures=1)
    assert [o.log_p for o in copies] == [pytest.approx(naive_log_p(1.8, 1, 0.2, 2))] * 2
    assert not any(o.is_beyond for o in copies)
    captions = tests.outcomes([1.8, 1.8], rows=60, pairs=60, pictures=1)
    assert [o.is_beyond for o in captions] == [True, False]
    pictures = tests.outcomes([1.8, 1.8], rows=60, pairs=60, pictures=60)
    assert all(o.is_beyond for o in pictures)


def test_the_line_is_a_corrected_tail_of_five_in_a_hundred():
    assert Outcome(0, math.log(LINE)).is_beyond
    assert not Outcome(0, math.log(LINE) + 1e-9).is_beyond
    assert LINE == 0.05


@pytest.mark.parametrize("estimated", [False, True], ids=["known spread", "estimated spread"])
def test_ordinary_groups_are_seldom_beyond_the_line(estimated):
    families, beyond = 150, 0
    for seed in range(families):
        rng = np.random.default_rng(seed)
        rows = np.rint(np.exp(rng.normal(2.5, 0.8, 400))).astype(np.int64) + 3
        means = ordinary_means(rng, rows, 0.2)
        own = spreads(sums_of(means, rows)) if estimated else [Spread(0.2, 0.2)]
        tests = make_tests(spreads=own, kind_rows=int(rows.sum()))
        for mean, count in zip(means.tolist(), rows.tolist(), strict=True):
            if mean > 0:
                (outcome,) = tests.outcomes([mean], count, count, count)
                if outcome.is_beyond:
                    beyond += 1
                    break
    # At most LINE of the families, within four standard deviations of such a count.
    allowed = families * LINE + 4 * math.sqrt(families * LINE * (1 - LINE))
    assert beyond <= allowed
    if not estimated:  # the correction gives away little
        assert beyond >= families * LINE / 4


def test_an_assumption_of_independent_rows_would_list_ordinary_groups():
    rng = np.random.default_rng(0)
    rows = np.full(2000, 60)
    means = ordinary_means(rng, rows, 0.2)
    tests = make_tests(spreads=[Spread(0.0, 0.0)], kind_rows=int(rows.sum()))
    found = [tests.outcomes([mean], 60, 60, 60)[0].is_beyond for mean in means.tolist()]
    assert sum(found) > 20  # so that the test above can fail


def test_a_row_carries_its_surprise_less_the_cost_of_a_row():
    found = row_evidence((LOW_SIMILARITY,), [Outcome(0, -9.0)], [100.0], [20])
    assert found == 100 - 2 * 20


def test_a_group_of_ordinary_rows_has_no_evidence():
    # An ordinary row has one nat of surprise on average.
    assert row_evidence((LOW_SIMILARITY,), [Outcome(0, -9.0)], [1000.0], [1000]) == 0.0
    rng = np.random.default_rng(0)
    nats = -np.log(rng.uniform(size=500)).sum()
    assert row_evidence((LOW_SIMILARITY,), [Outcome(0, -9.0)], [nats], [500]) == 0.0


def test_witnesses_within_the_line_add_nothing():
    outcomes = [Outcome(0, -9.0), Outcome(3, -1.0)]
    assert row_evidence(ALL, outcomes, [90.0, NAN, NAN, 500.0], [10] * 4) == 70


def test_of_several_densities_the_strongest_counts_and_pays_for_the_choice():
    outcomes = [Outcome(n, -9.0) for n in range(4)]
    nats = [50.0, 70.0, 95.0, 45.0]
    expected = (50 - 20) + (95 - 20 - math.log(2)) + (45 - 20)
    assert row_evidence(ALL, outcomes, nats, [10] * 4) == pytest.approx(expected)


def test_a_witness_counts_once_though_two_tests_of_it_are_beyond_the_line():
    outcomes = [Outcome(1, -9.0), Outcome(1, -12.0, is_learnt=True)]
    assert row_evidence((LOW_SIMILARITY, KDIST), outcomes, [0.0, 60.0], [10, 10]) == 40


def learnt(means, witnesses=(LOW_SIMILARITY, KDIST), **given):
    """Whether the joint test is beyond the line for twenty observations."""
    tests = make_tests(witnesses, with_learnt=True, **given)
    return [o.is_beyond for o in tests.outcomes(means, 20, 20, 20) if o.is_learnt]


def test_the_joint_test_needs_a_high_similarity_and_a_sparse_neighbourhood():
    assert learnt([-3.0, 3.0]) == [True]
    assert learnt([3.0, 3.0]) == learnt([-3.0, -3.0]) == [False]
    assert learnt([0.0, 5.0]) == learnt([-5.0, 0.0]) == [False]
    assert learnt([NAN, 5.0]) == []
    assert learnt([5.0], (KDIST,)) == []


def test_the_joint_tail_is_the_larger_of_two_by_robust_spreads():
    given = [Spread(0.2, 0.9), Spread(0.3, 0.8)]
    tests = make_tests((LOW_SIMILARITY, KDIST), spreads=given, with_learnt=True)
    for means in ([-2.0, 4.0], [-4.0, 2.0]):
        (joint,) = [o for o in tests.outcomes(means, 9, 12, 6) if o.is_learnt]
        tails = naive_log_p(-means[0], 12, 0.2, 3), naive_log_p(means[1], 6, 0.3, 3)
        assert joint.log_p == pytest.approx(max(tails))
        assert joint.witness == 1


@pytest.mark.parametrize("saw_data", list(SawData))
def test_only_a_model_that_never_saw_the_data_cannot_have_learnt_of_it(saw_data):
    sums = KeySums.from_rows(
        np.ones(20, np.uint64), np.full((20, 2), [-4.0, 4.0]), np.ones((20, 2))
    )
    tests = make_tests_of_kinds({Kind.CAPTION: sums}, (LOW_SIMILARITY, KDIST), saw_data)
    found = [o for o in tests[Kind.CAPTION].outcomes([-4.0, 4.0], 20, 20, 20) if o.is_learnt]
    assert len(found) == (saw_data is not SawData.NO)
    assert tests[Kind.CAPTION].number == (2 if saw_data is SawData.NO else 3)
    # Rows of near pictures were chosen for their low similarity, and lie near.
    outcomes = tests[Kind.PICTURE].outcomes([4.0, 4.0], 20, 20, 20)
    assert [(o.witness, o.is_learnt) for o in outcomes] == [(0, False)]


@pytest.mark.parametrize("share", [0.25, 0.4, 0.7])
def test_spreads_are_those_that_groups_were_made_with(share):
    rng = np.random.default_rng(3)
    rows = rng.integers(5, 60, 6000)
    (found,) = spreads(sums_of(ordinary_means(rng, rows, share), rows))
    assert found.robust == pytest.approx(share, abs=0.04)
    assert found.whole == pytest.approx(share, abs=0.04)


def test_spreads_do_not_depend_on_where_the_middle_is():
    rng = np.random.default_rng(4)
    rows = rng.integers(5, 60, 2000)
    means = ordinary_means(rng, rows, 0.4)
    (here,), (there,) = spreads(sums_of(means, rows)), spreads(sums_of(means + 2, rows))
    assert there.robust == pytest.approx(here.robust, abs=1e-6)
    assert there.whole == pytest.approx(here.whole, abs=1e-6)


def test_groups_far_out_move_the_robust_spread_little_and_the_whole_one_much():
    rng = np.random.default_rng(5)
    rows = rng.integers(5, 60, 4000)
    means = ordinary_means(rng, rows, 0.4)
    means[:200] = 5.0
    (found,) = spreads(sums_of(means, rows))
    assert found.robust == pytest.approx(0.4, abs=0.1)
    assert found.whole == 1.0 or found.whole > 0.9


def test_few_groups_have_the_assumed_spread_and_many_their_own():
    rng = np.random.default_rng(6)
    for groups, low, high in ((4, 0.2, 0.2), (20, 0.3, 0.65), (2000, 0.85, 0.95)):
        rows = np.full(groups, 400)
        (found,) = spreads(sums_of(ordinary_means(rng, rows, 0.9), rows))
        assert low <= found.whole <= high, groups
    # Groups of fewer than five rows say nothing.
    few = sums_of(ordinary_means(rng, np.full(500, 4), 0.9), np.full(500, 4))
    assert spreads(few) == (Spread(0.2, 0.2),)


def test_a_spread_is_never_below_the_assumed_one():
    rng = np.random.default_rng(7)
    rows = np.full(3000, 30)
    assert spreads(sums_of(ordinary_means(rng, rows, 0.0), rows)) == (Spread(0.2, 0.2),)


def test_copies_carry_more_the_fewer_rows_are_in_as_many():
    shares = CopyShares(np.array([2] * 50 + [30, 60]), rows=1000)
    assert shares.evidence(0) == shares.evidence(1) == 0.0
    for copies, inside in ((60, 60), (30, 90), (31, 60), (61, 0)):
        expected = copies * max(0.0, -math.log((inside + 1) / 1001) - 2)
        assert shares.evidence(copies) == pytest.approx(expected)
    # A fifth of all rows are in pairs: nothing out of the ordinary.
    assert CopyShares(np.full(100, 2), rows=1000).evidence(2) == 0.0


def test_groups_have_four_rows_and_words_and_hosts_at_most_a_tenth():
    sums = sums_of(np.zeros(4), [3, 4, 100, 101])
    for kind in Kind:
        kept = groups_of_kind(kind, sums, 1000).rows.tolist()
        wide = kind in (Kind.CAPTION_WORD, Kind.HOST)
        assert kept == ([4, 100] if wide else [4, 100, 101])


def test_candidates_come_with_the_most_evidence_first_and_equals_by_kind_and_key():
    def sums(keys, nats):
        scores = np.full((len(keys) * 10, 1), 4.0)
        each = np.repeat(np.array(nats) / 10, 10)[:, None]
        return KeySums.from_rows(np.repeat(np.array(keys, np.uint64), 10), scores, each)

    groups = {Kind.HOST: sums([5, 4], [90, 90]), Kind.CAPTION: sums([7, 8], [90, 300])}
    tests = make_tests_of_kinds(groups, (LOW_SIMILARITY,), SawData.NO)
    found = [(c.kind, c.key, c.rows) for c in find_candidates(groups, tests)]
    expected = [(Kind.CAPTION, 8), (Kind.CAPTION, 7), (Kind.HOST, 4), (Kind.HOST, 5)]
    assert found == [(*each, 10) for each in expected]
    ordinary = {Kind.CAPTION: sums([7], [15])}  # a nat and a half a row
    assert (
        find_candidates(ordinary, make_tests_of_kinds(ordinary, (LOW_SIMILARITY,), SawData.NO))
        == []
    )


def test_rows_without_a_value_cost_nothing():
    assert row_evidence((LOW_SIMILARITY,), [Outcome(0, -9.0)], [50.0], [10]) == 30


def naive_discoveries(tails, tests):
    """Which tails Benjamini and Hochberg reject at `COPIES_FDR`, by their step-up rule."""
    rising = sorted(tails)
    most = max(
        (n for n, tail in enumerate(rising, 1) if tail <= n / tests * evidence.COPIES_FDR),
        default=0,
    )
    return [tail in rising[:most] for tail in tails]


@pytest.mark.parametrize("seed", range(20))
def test_copies_beyond_the_line_are_those_that_benjamini_and_hochberg_reject(seed):
    rng = np.random.default_rng(seed)
    tails = rng.uniform(size=int(rng.integers(1, 9))) ** 4
    tests = len(tails) + int(rng.integers(0, 3))
    corrected = evidence.discoveries(np.log(tails).tolist(), tests)
    beyond = [value <= math.log(LINE) for value in corrected]
    assert beyond == naive_discoveries(tails.tolist(), tests)


def test_of_no_copies_there_are_no_discoveries():
    assert evidence.discoveries([], 5) == []


def test_the_false_discovery_rate_of_copies_of_ordinary_pictures_is_kept():
    rng = np.random.default_rng(1)
    wrong = [
        any(
            v <= math.log(LINE)
            for v in evidence.discoveries(np.log(rng.uniform(size=4)).tolist(), 4)
        )
        for _ in range(4000)
    ]
    # With ordinary pictures only, any discovery is a false one.
    assert abs(np.mean(wrong) - evidence.COPIES_FDR) < 0.02


def test_the_mean_rank_of_random_rows_is_asked_for_as_well():
    tests = make_tests((LOW_SIMILARITY,))
    (free,) = tests.outcomes([5.0], 12, 12, 12)
    (held,) = tests.outcomes([5.0], 12, 12, 12, rank_means=[0.1])
    assert free.is_beyond and not held.is_beyond
    (both,) = tests.outcomes([5.0], 12, 12, 12, rank_means=[5.0])
    assert both == free


def test_a_corrected_tail_of_copies_stands_for_a_larger_one_of_similarity_only():
    tests = make_tests((LOW_SIMILARITY, KDIST))
    plain = tests.outcomes([1.0, 1.0], 30, 1, 1)
    copied = tests.outcomes([1.0, 1.0], 30, 1, 1, copies_log_p=-4.0)
    assert copied[0].log_p == -4.0 and copied[1] == plain[1]
