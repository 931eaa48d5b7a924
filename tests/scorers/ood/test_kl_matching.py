"""KL matching against the authors' values and plain loops; classes that are never predicted."""

import numpy as np
import pytest

from clipsieve.errors import UsageError
from clipsieve.scorers.ood.kl_matching import (
    SMALLEST_PROBABILITY,
    KLMatching,
    PredictedSoftmax,
    smallest_divergence,
    softmax_with_logs,
)
from clipsieve.statistics.moments import predicted_classes
from tests.scorers.ood.learning import (
    AsGiven,
    cone,
    context,
    learned,
    options,
    pairs,
    prompt_set,
    same_arrays,
    scored,
)

PROTOTYPES = cone(200, 12, 5)[2]


@pytest.fixture(scope="module")
def bank():
    return pairs(cone(200, 12, 5)[0], PROTOTYPES, missing=[3, 100])


@pytest.fixture(scope="module")
def queries():
    return pairs(cone(31, 12, 5, seed=8)[0], PROTOTYPES, missing=[4, 30], shard="q")


def softmax(z):
    powers = np.exp(z - z.max())
    return powers / powers.sum()


def naive(bank, queries, prototypes, scale=100.0):
    """Smallest divergence from the mean softmax of the rows predicted as a class, by loops."""
    rows = bank.image.unit()[bank.image.valid] @ prototypes.T
    predicted = np.array([int(row.argmax()) for row in rows])
    means = [
        np.mean([softmax(scale * row) for row in rows[predicted == k]], axis=0)
        for k in sorted(set(predicted.tolist()))
    ]
    values = []
    for row in queries.image.unit() @ prototypes.T:
        p = softmax(scale * row)
        values.append(min(float(np.sum(p * (np.log(p) - np.log(d)))) for d in means))
    return np.array(values)


def test_scores_are_those_of_the_authors(oracle, train, test):
    prototypes = (np.float32(100) * oracle["T"]).astype(np.float64) / 100
    rows = [pairs(each.image.vectors, prototypes, kind=AsGiven) for each in (train, test)]
    scorer = KLMatching(**options(10))
    known = learned(scorer, rows[0])
    assert known["counts"].tolist() == oracle["kl_counts"].astype(int).tolist()
    values = scored(scorer, known, rows[1])["ood_kl_matching"]
    np.testing.assert_allclose(values, -oracle["kl_matching"], rtol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 30.0, 100.0])
def test_scores_are_those_of_plain_loops(bank, queries, scale):
    scorer = KLMatching(**options(5))
    values = scored(scorer, learned(scorer, bank, scale=scale), queries, scale=scale)
    expected, valid = naive(bank, queries, PROTOTYPES, scale), queries.image.valid
    ours = values["ood_kl_matching"]
    np.testing.assert_allclose(ours[valid], expected[valid], rtol=1e-9, atol=1e-13)
    assert np.isnan(ours[~valid]).all()


def test_a_class_that_is_never_predicted_is_left_out(bank, queries):
    prototypes = np.concatenate([PROTOTYPES, -PROTOTYPES[:1]])
    rows = [
        pairs(each.image.vectors, prototypes, missing=np.flatnonzero(~each.image.valid))
        for each in (bank, queries)
    ]
    scorer = KLMatching(**options(6))
    known = learned(scorer, rows[0], scale=50.0)
    assert known["counts"][5] == 0
    assert known["log_means"].shape == (5, 6)
    assert np.isfinite(known["log_means"]).all()
    values, valid = (
        scored(scorer, known, rows[1], scale=50.0)["ood_kl_matching"],
        queries.image.valid,
    )
    expected = naive(rows[0], rows[1], prototypes, 50.0)
    np.testing.assert_allclose(values[valid], expected[valid], rtol=1e-9)


def test_probabilities_that_vanish_are_bounded():
    axes = np.eye(3, 4)
    rows = pairs(np.concatenate([np.repeat(axes, 4, axis=0)]), axes)
    scorer = KLMatching(**options(3))
    known = learned(scorer, rows, scale=1000.0)
    assert known["log_means"].min() == np.log(SMALLEST_PROBABILITY)
    own = scored(scorer, known, rows, scale=1000.0)["ood_kl_matching"]
    np.testing.assert_allclose(own, 0, atol=1e-12)
    first = pairs(axes[:1], axes)
    values = scored(scorer, learned(scorer, first, scale=1000.0), rows, scale=1000.0)
    np.testing.assert_allclose(values["ood_kl_matching"][4:], 177 * np.log(2), rtol=1e-12)


def test_order_of_batches_changes_no_bit_and_their_size_next_to_nothing(bank, queries):
    scorer = KLMatching(**options(5))
    known = learned(scorer, bank)
    shuffled = learned(scorer, bank, order=lambda n: np.random.default_rng(0).permutation(n))
    assert same_arrays(known, shuffled)
    one = scored(scorer, known, queries)["ood_kl_matching"]
    other = scored(scorer, learned(scorer, bank, rows=7), queries, rows=3)["ood_kl_matching"]
    np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-13)


def test_order_of_classes_does_not_count(bank, queries):
    rows = [
        pairs(each.image.vectors, PROTOTYPES[::-1], missing=np.flatnonzero(~each.image.valid))
        for each in (bank, queries)
    ]
    scorer = KLMatching(**options(5))
    one = scored(scorer, learned(scorer, bank), queries)["ood_kl_matching"]
    other = scored(scorer, learned(scorer, rows[0]), rows[1])["ood_kl_matching"]
    np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-13)


def test_one_class_matches_all_and_equal_prototypes_count_as_the_first(bank, queries):
    valid = queries.image.valid
    for count in (1, 2, 3):
        prototypes = np.repeat(PROTOTYPES[:1], count, axis=0)
        rows = [
            pairs(each.image.vectors, prototypes, missing=np.flatnonzero(~each.image.valid))
            for each in (bank, queries)
        ]
        scorer = KLMatching(**options(count))
        known = learned(scorer, rows[0])
        assert known["counts"].tolist() == [198, 0, 0][:count]
        values = scored(scorer, known, rows[1])["ood_kl_matching"]
        np.testing.assert_allclose(values[valid], 0, atol=1e-14)


def test_a_divergence_is_never_negative():
    both = softmax_with_logs(np.random.default_rng(0).normal(size=(500, 7)), 1.0)
    values = smallest_divergence(*both, both[1])
    assert values.min() >= 0
    assert values.max() < 1e-14


def test_the_predicted_class_is_computed_once(bank):
    assert predicted_classes(bank, prompt_set(5)) is predicted_classes(bank, prompt_set(5))


def test_the_sums_depend_on_the_scale(bank):
    asked = KLMatching(**options(5)).statistics({}, context(bank, scale=50.0))
    assert list(asked.values()) == [PredictedSoftmax(prompt_set(5), 50.0)]
    assert asked["predicted"] != PredictedSoftmax(prompt_set(5), 100.0)


def test_no_rows_are_refused():
    empty = pairs(np.ones((3, 4)), np.eye(2, 4), missing=[0, 1, 2])
    with pytest.raises(UsageError, match=r"ood.kl_matching learns of 0 rows .*--learn-on"):
        learned(KLMatching(**options(2)), empty)
