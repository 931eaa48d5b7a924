"""kNN against OpenOOD's values and plain sorting; the bank, and rows that are in it."""

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.errors import UsageError
from clipsieve.scorers.base import Embedded, PairBatch
from clipsieve.scorers.ood.knn import DEFAULT_K, DEFAULT_REFERENCE, NearestNeighbourDistance
from clipsieve.statistics.hash_sample import HashSample, row_hashes
from tests.scorers.ood.learning import cone, context, learned, pairs, same_arrays, scored


@pytest.fixture(scope="module")
def bank():
    return pairs(cone(150, 10, 4)[0], np.eye(2, 10), missing=[3, 100])


@pytest.fixture(scope="module")
def queries():
    return pairs(cone(20, 10, 4, seed=8)[0], np.eye(2, 10), missing=[4], shard="q")


def naive(vectors, others, k):
    """1 - cos of the k-th nearest of each row, the last if there are fewer."""
    return np.array([sorted(1 - others @ row)[min(k, len(others)) - 1] for row in vectors])


def test_scores_are_those_of_openood(oracle, train, test):
    scorer = NearestNeighbourDistance()
    values = scored(scorer, learned(scorer, train), test)["ood_knn"]
    # Theirs is minus the squared distance, in float32.
    np.testing.assert_allclose(2 * values, -oracle["openood_knn"], rtol=1e-4)


@pytest.mark.parametrize("k", [1, 7, 500])
def test_scores_are_those_of_sorting(bank, queries, k):
    scorer = NearestNeighbourDistance(k)
    values = scored(scorer, learned(scorer, bank), queries)["ood_knn"]
    unit, valid = bank.image.unit()[bank.image.valid], queries.image.valid
    expected = naive(queries.image.unit(), unit, k)
    np.testing.assert_allclose(values[valid], expected[valid], rtol=1e-5, atol=1e-7)
    assert np.isnan(values[~valid]).all()


def test_a_row_is_not_its_own_neighbour(bank):
    scorer = NearestNeighbourDistance(2)
    values = scored(scorer, learned(scorer, bank), bank)["ood_knn"]
    unit = bank.image.unit()
    for row in (0, 1, 99, 149):
        others = np.delete(unit, [3, 100, row], axis=0)
        assert values[row] == pytest.approx(naive(unit[row : row + 1], others, 2)[0], rel=1e-5)


def test_the_bank_is_of_the_lowest_hashes(bank, queries):
    scorer = NearestNeighbourDistance(3, reference=20, seed=5)
    known = learned(scorer, bank)
    hashes = row_hashes(bank.uid, 5)
    rows = sorted(np.flatnonzero(bank.image.valid), key=lambda row: hashes[row])[:20]
    assert known["20.rows"].tolist() == rows
    values = scored(scorer, known, queries)["ood_knn"]
    valid = queries.image.valid
    expected = naive(queries.image.unit(), bank.image.unit()[rows], 3)
    np.testing.assert_allclose(values[valid], expected[valid], rtol=1e-5)


def test_order_and_size_of_batches_do_not_count(bank, queries):
    scorer = NearestNeighbourDistance(3, reference=20)
    known = learned(scorer, bank)
    for rows, order in ((64, lambda n: range(n)[::-1]), (7, None)):
        assert same_arrays(known, learned(scorer, bank, rows=rows, order=order))
    one, other = (scored(scorer, known, queries, rows=rows)["ood_knn"] for rows in (50, 3))
    assert np.array_equal(one, other, equal_nan=True)


def test_a_bank_that_came_out_short_is_drawn_again():
    """Rows whose hashes are all high: the bound lets none in at first."""
    uids = [f"{n}" for n in range(4000)]
    hashes = row_hashes(pa.array(uids))
    high = [uid for uid, value in zip(uids, hashes, strict=True) if value > 2**63]
    vectors = np.random.default_rng(0).normal(size=(len(high), 4)).astype(np.float32)
    image = Embedded(vectors, np.ones(len(high), bool))
    batch = PairBatch(pa.array(high), image, shard="s")
    scorer = NearestNeighbourDistance(2, reference=50)
    known = learned(scorer, batch, rows=500)
    assert len(known["50.hashes"]) == 50
    assert "50.short" not in known


def test_a_row_without_another_has_no_score():
    one = pairs(np.ones((3, 4)), np.eye(2, 4), missing=[1, 2])
    scorer = NearestNeighbourDistance()
    known = learned(scorer, one)
    assert np.isnan(scored(scorer, known, one)["ood_knn"]).all()
    others = pairs(np.ones((2, 4)), np.eye(2, 4), shard="q")
    assert scored(scorer, known, others)["ood_knn"].tolist() == [0.0, 0.0]


def test_no_rows_are_refused():
    empty = pairs(np.ones((3, 4)), np.eye(2, 4), missing=[0, 1, 2])
    with pytest.raises(UsageError, match=r"ood.knn learns of 0 rows .*--learn-on"):
        learned(NearestNeighbourDistance(), empty)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": 0}, "option k of scorer ood.knn must be an int of at least 1"),
        ({"seed": -1}, "option seed of scorer ood.knn"),
        ({"reference": "all"}, "reference 'all' must be a number of rows, 'auto' or 'large'"),
    ],
)
def test_wrong_options_are_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        NearestNeighbourDistance(**wrong)


def test_options_are_recorded(bank):
    scorer = NearestNeighbourDistance()
    assert scorer.parameters() == {
        "k": DEFAULT_K,
        "reference": str(DEFAULT_REFERENCE),
        "seed": 0,
    }
    assert scorer.prompts() == ()
    auto = NearestNeighbourDistance(reference="auto").statistics({}, context(bank))
    assert auto["auto"] == HashSample(512)
