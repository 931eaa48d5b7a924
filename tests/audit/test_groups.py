"""Groups are disjoint, the strongest come first, and narrow ones stand for wide ones."""

import dataclasses
import math

import numpy as np
import pytest

from clipsieve.audit import evidence
from clipsieve.audit.candidates import LEAST_ROWS, Candidate
from clipsieve.audit.evidence import CopyShares, Spread
from clipsieve.audit.groups import Assessor, copied_pictures, disjoint_groups
from clipsieve.audit.keys import Kind
from clipsieve.audit.members import Members
from clipsieve.audit.ordinary import log_tail
from clipsieve.audit.witnesses import LOW_SIMILARITY, Witness

WITNESSES = (LOW_SIMILARITY, Witness("density_kdist"))
NO_COPIES = CopyShares(np.zeros(0, np.int64), 10_000)


class RanksAsScores:
    """Ordinary rows among which a value is its own normal score."""

    def rank_scores(self, values):
        return values.astype(np.float64)


def hash_of(number):
    """A perceptual hash at least ten bits from those of other small numbers."""
    return int.from_bytes(bytes([number, number ^ 0xFF] * 4), "big") ^ (number << 20)


def assessor(scores, groups, pictures=None, captions=None, copies=NO_COPIES, has_bits=True):
    """An assessor of members with these scores, each of its own picture and caption by default.

    `groups` are pairs of a kind and the numbers of members.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim == 1:
        scores = np.stack([scores, np.zeros(len(scores))], axis=1)
    count = len(scores)
    nats = np.array(
        [[math.nan if v != v else -log_tail(v) for v in row] for row in scores.tolist()]
    )
    rng = np.random.default_rng(0)
    own = rng.integers(1, 1 << 63, count, np.uint64) if pictures is None else pictures
    members = Members(
        shards=np.zeros(count, np.int64),
        rows=np.arange(count),
        scores=scores,
        surprises=nats,
        values=scores.astype(np.float32),
        captions=np.arange(1, count + 1).astype(np.uint64) if captions is None else captions,
        pictures=np.asarray(own, np.uint64),
        has_bits=np.full(count, has_bits),
        groups=[np.array(sorted(rows), np.int64) for _, rows in groups],
    )
    tests = evidence.Tests(WITNESSES, [Spread(0.2, 0.2)] * 2, 7, 10_000, 0, False)
    candidates = [Candidate(kind, n + 1, len(rows)) for n, (kind, rows) in enumerate(groups)]
    ordinary = [RanksAsScores()] * len(WITNESSES)
    return Assessor(members, dict.fromkeys(Kind, tests), copies, ordinary), candidates


def found(scores, groups, centres=None, **given):
    """(kind, rows) of each group that is listed."""
    judge, candidates = assessor(scores, groups, **given)
    listed = disjoint_groups(candidates, judge, centres or {})
    return [(group.candidate.kind, group.members.tolist()) for group in listed]


def test_evidence_of_a_group_by_hand():
    scores = [4.0, 3.5, 4.5, 4.0]
    judge, (candidate,) = assessor(scores, [(Kind.CAPTION, range(4))])
    group = judge.assess(candidate, np.arange(4), None)
    nats = sum(-math.log(math.erfc(s / math.sqrt(2)) / 2) for s in scores)
    assert group.evidence == pytest.approx(nats - 2 * 4, abs=1e-6)
    tail = math.erfc(4 / math.sqrt(0.2 + 0.8 / 4) / math.sqrt(2)) / 2
    assert group.outcome.log_p == pytest.approx(math.log(tail * 2 * 7 * 10_000 / 4))
    assert (group.observations, group.n_pictures, group.copies) == (4, 4, 1)
    assert group.means == pytest.approx((4.0, 0.0))


def test_copies_of_a_pair_are_one_observation_but_of_many_captions_many():
    picture = np.full(60, hash_of(1), np.uint64)
    group = [(Kind.IMAGE_HASH, range(60))]
    one = assessor([3.0] * 60, group, pictures=picture, captions=np.full(60, 7, np.uint64))
    assert one[0].assess(one[1][0], np.arange(60), None) is None
    many = assessor([3.0] * 60, group, pictures=picture)
    assert many[0].assess(many[1][0], np.arange(60), None).observations == 60
    judge, (candidate,) = assessor(
        [5.0] * 60, group, pictures=picture, captions=np.repeat([1, 2, 3], 20).astype(np.uint64)
    )
    listed = judge.assess(candidate, np.arange(60), None)
    assert (listed.observations, listed.n_pictures, listed.copies) == (3, 1, 60)


def test_pictures_are_the_observations_of_density():
    scores = np.stack([np.zeros(40), np.full(40, 4.0)], axis=1)
    pictures = np.array([hash_of(n % 4) for n in range(40)], np.uint64)
    judge, (candidate,) = assessor(scores, [(Kind.CAPTION, range(40))], pictures=pictures)
    group = judge.assess(candidate, np.arange(40), None)
    assert (group.outcome.witness, group.observations, group.copies) == (1, 4, 10)


def test_copies_are_added_to_the_evidence_but_make_no_group():
    picture = np.full(30, hash_of(1), np.uint64)
    copies = CopyShares(np.array([30]), 10_000)
    groups = [(Kind.CAPTION, range(30))]
    given = {"pictures": picture, "copies": copies}
    judge, (candidate,) = assessor([4.0] * 30, groups, **given)
    rows = 30 * (-log_tail(4.0) - 2)
    own = judge.assess(candidate, np.arange(30), None).evidence
    assert own - rows == pytest.approx(30 * (math.log(10_001 / 31) - 2), abs=1e-4)
    assert found([0.0] * 30, groups, **given) == []


def test_rows_without_a_score_belong_to_the_group_and_cost_nothing():
    scores = [4.0] * 10 + [math.nan] * 3
    judge, (candidate,) = assessor(scores, [(Kind.CAPTION, range(13))])
    group = judge.assess(candidate, np.arange(13), None)
    assert group.members.tolist() == list(range(13))
    assert group.means[0] == pytest.approx(4.0)
    assert group.evidence == pytest.approx(10 * -log_tail(4.0) - 2 * 10, abs=1e-5)
    assert found([math.nan] * 5, [(Kind.CAPTION, range(5))]) == []


def test_the_row_around_which_a_group_was_made_is_no_witness_of_it():
    scores = [5.0] * 3 + [3.0] * 2
    groups = [(Kind.PICTURE, range(5))]
    judge, (candidate,) = assessor(scores, groups)
    whole, less = (judge.assess(candidate, np.arange(5), centre) for centre in (None, 0))
    assert whole.means[0] == pytest.approx(4.2) and whole.observations == 5
    assert less.means[0] == pytest.approx(4.0) and less.observations == 4


def test_three_rows_are_no_group():
    assert LEAST_ROWS == 4
    assert found([5.0] * 4, [(Kind.CAPTION, range(4))]) == [(Kind.CAPTION, [0, 1, 2, 3])]
    assert found([5.0] * 3, [(Kind.CAPTION, range(3))]) == []


def test_the_strongest_group_takes_its_rows_and_what_is_left_is_tested_again():
    groups = [(Kind.CAPTION, range(20)), (Kind.IMAGE_BYTES, range(10, 26))]
    assert found([5.0] * 26, groups) == [
        (Kind.CAPTION, list(range(20))),
        (Kind.IMAGE_BYTES, list(range(20, 26))),
    ]
    # What is left is ordinary, or too few.
    assert found([5.0] * 20 + [0.0] * 6, groups) == [(Kind.CAPTION, list(range(20)))]
    few = [(Kind.CAPTION, range(20)), (Kind.IMAGE_BYTES, range(8, 22))]
    assert found([5.0] * 22, few) == [(Kind.CAPTION, list(range(20)))]


def test_of_equal_groups_the_narrowest_is_listed():
    kinds = [Kind.HOST, Kind.CAPTION_WORD, Kind.CAPTION, Kind.IMAGE_HASH, Kind.CAPTION_TEMPLATE]
    groups = [(kind, range(12)) for kind in kinds]
    assert found([4.0] * 12, groups) == [(Kind.CAPTION, list(range(12)))]


@pytest.mark.parametrize("wide", [Kind.CAPTION_WORD, Kind.HOST, Kind.PICTURE])
def test_a_wide_group_gives_way_to_a_narrow_one_with_a_third_of_its_evidence(wide):
    # Ten rows of a caption, and rows of its host beside them.
    scores = [5.0] * 10 + [4.0] * 18
    groups = [(wide, range(28)), (Kind.CAPTION, range(10))]
    judge, candidates = assessor(scores, groups)
    total, narrow = (
        judge.assess(candidates[n], judge.members.groups[n], None).evidence for n in (0, 1)
    )
    assert total > narrow > total / 3
    assert found(scores, groups) == [
        (wide, list(range(10, 28))),
        (Kind.CAPTION, list(range(10))),
    ]
    # Less than a third: the wide group is the finding.
    less = [(wide, range(28)), (Kind.CAPTION, range(4))]
    assert found([5.0] * 28, less) == [(wide, list(range(28)))]


def test_a_narrow_group_gives_way_to_no_other():
    groups = [(Kind.CAPTION_TEMPLATE, range(28)), (Kind.CAPTION, range(20))]
    assert found([5.0] * 28, groups) == [(Kind.CAPTION_TEMPLATE, list(range(28)))]


def test_a_narrow_group_mostly_outside_a_wide_one_is_not_inside_it():
    # 14 of 20 rows of the caption have the word.
    scores = [5.0] * 36
    groups = [(Kind.CAPTION_WORD, range(30)), (Kind.CAPTION, range(16, 36))]
    assert found(scores, groups) == [
        (Kind.CAPTION_WORD, list(range(30))),
        (Kind.CAPTION, list(range(30, 36))),
    ]
    inside = [(Kind.CAPTION_WORD, range(30)), (Kind.CAPTION, range(12, 32))]  # 18 of 20
    assert sorted(found(scores, inside)) == [
        (Kind.CAPTION, list(range(12, 32))),
        (Kind.CAPTION_WORD, list(range(12))),
    ]


@pytest.mark.parametrize("seed", range(6))
def test_groups_are_disjoint_parts_of_candidates_and_none_is_left_out(seed):
    rng = np.random.default_rng(seed)
    scores = np.where(rng.random(200) < 0.5, rng.normal(4, 1, 200), rng.normal(0, 1, 200))
    scores = np.clip(scores, -5, 5)
    kinds = list(Kind)
    groups = [
        (kinds[rng.integers(len(kinds))], rng.choice(200, rng.integers(2, 60), replace=False))
        for _ in range(25)
    ]
    # Some candidates are made of suspicious rows alone.
    groups += [(kinds[n % 7], np.flatnonzero(scores > 3)[n::9]) for n in range(9)]
    judge, candidates = assessor(scores, groups)
    listed = disjoint_groups(candidates, judge, {})
    assert len(listed) >= 5
    rows = [row for group in listed for row in group.members.tolist()]
    assert len(rows) == len(set(rows))
    evidences = [group.evidence for group in listed]
    assert evidences == sorted(evidences, reverse=True)
    taken = set(rows)
    for group in listed:
        number = candidates.index(group.candidate)
        whole = set(judge.members.groups[number].tolist())
        assert set(group.members.tolist()) <= whole
        # What it lacks lies in other groups.
        assert whole - set(group.members.tolist()) <= taken
        again = judge.assess(group.candidate, group.members, None)
        assert (again.evidence, again.outcome) == (group.evidence, group.outcome)
    assert [g.members.tolist() for g in disjoint_groups(candidates, judge, {})] == [
        g.members.tolist() for g in listed
    ]


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_candidates_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    scores = np.clip(rng.normal(3, 1.5, 120), -5, 5)
    kinds = list(Kind)
    groups = [
        (kinds[n % 7], rng.choice(120, rng.integers(3, 30), replace=False)) for n in range(20)
    ]
    outcomes = set()
    for order in (range(20), range(19, -1, -1), rng.permutation(20).tolist()):
        judge, candidates = assessor(scores, groups)
        judge.members.groups[:] = [judge.members.groups[n] for n in order]
        listed = disjoint_groups([candidates[n] for n in order], judge, {})
        outcomes.add(tuple((g.candidate, tuple(g.members), g.evidence) for g in listed))
    assert len(outcomes) == 1


def test_an_observation_has_the_score_that_nine_in_ten_of_its_rows_reach():
    # Rows of one picture and caption whose scores differ, as no copies' do.
    pictures, captions = np.full(12, 7, np.uint64), np.full(12, 9, np.uint64)
    given = {"pictures": pictures, "captions": captions}
    scores = [5.0] * 8 + [0.0] * 4
    assert found(scores, [(Kind.CAPTION, range(12))], **given) == []
    assert found([5.0] * 12, [(Kind.CAPTION, range(12))], **given) != []


def test_many_copies_of_odd_pictures_are_listed_though_one_observation_is_not_enough():
    def listed(score, count):
        pictures = np.full(count, 7, np.uint64)
        captions = np.full(count, 9, np.uint64)
        given = {"pictures": pictures, "captions": captions}
        judge, candidates = assessor([score] * count, [(Kind.CAPTION, range(count))], **given)
        copied = copied_pictures(candidates, judge.members, judge.tests, judge.copies)
        judge = dataclasses.replace(judge, copied=copied)
        return len(disjoint_groups(candidates, judge, {}))

    assert [listed(2.5, 30), listed(2.5, 19), listed(0.5, 30)] == [1, 0, 0]
