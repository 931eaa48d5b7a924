"""The density family: its options, its columns, what it asks for, what it makes of it."""

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.errors import UsageError
from clipsieve.neighbours.lists import NeighbourLists
from clipsieve.scorers.base import PairBatch, is_fitted
from clipsieve.scorers.density import ReferenceDensity, dao, k_distance, lid_mle, slof
from clipsieve.scorers.density_scorer import Density, auto_size
from clipsieve.scorers.registry import scorers_named


def test_the_first_reference_has_the_plain_columns():
    scores = ["kdist", "slof", "dao", "lid"]
    names = Density("2048, all,batch512").columns.names
    assert names == [
        f"density_{score}{suffix}" for suffix in ("", "_all", "_batch512") for score in scores
    ]
    for field in Density().columns:
        assert field.type == pa.float32()
        assert field.metadata[b"direction"] == b"higher is more suspicious"


@pytest.mark.parametrize("given", ["16,all", ["16", "all"], (16, "all"), "16, all"])
def test_a_reference_can_be_given_in_several_ways(given):
    assert Density(given).parameters() == Density("16,all").parameters()
    assert Density(16).parameters() == Density("16").parameters()


def test_references_are_as_large_as_they_are_named():
    sets = Density("300,all,batch50,auto", k=5, lid_k=9, seed=4, texts=True).references(10_000)
    assert {name: (s.size, s.batch, s.is_sample) for name, s in sets.items()} == {
        "300": (300, False, True),
        "all": (None, False, False),
        "batch50": (50, True, False),
        "auto": (200, False, True),
    }
    assert all((s.k, s.seed, s.metric, s.texts) == (9, 4, "euclidean", True) for s in sets.values())
    assert Density("all", k=70).references(0)["all"].k == 70
    assert is_fitted(Density())
    assert not is_fitted(scorers_named(["clip"])[0])


def test_auto_grows_as_the_square_root_between_its_bounds():
    sizes = [auto_size(rows) for rows in (0, 4096, 4097, 1_000_000, 1_048_576, 10**9)]
    assert sizes == [128, 128, 129, 2000, 2048, 2048]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": "some"}, "reference some must be a number of rows"),
        ({"reference": ""}, "must be a number of rows"),
        ({"reference": []}, "must be a number of rows"),
        ({"reference": "0"}, "must be a number of rows"),
        ({"reference": "-5"}, "must be a number of rows"),
        ({"reference": "batch"}, "must be a number of rows"),
        ({"reference": "10,10"}, "names one set twice"),
        ({"k": 0}, "option k of scorer density must be an int of at least 1, got 0"),
        ({"k": "16"}, "option k of scorer density must be an int of at least 1, got '16'"),
        ({"k": True}, "option k"),
        ({"lid_k": -1}, "option lid_k"),
        ({"seed": -1}, "option seed of scorer density must be an int of at least 0"),
        ({"metric": "manhattan"}, "metric 'manhattan' is not known; choose euclidean, cosine"),
        ({"texts": "yes"}, "option texts of scorer density must be true or false"),
        ({"radius": 3}, "scorer 'density' has no option radius; it has k, lid_k, metric"),
    ],
)
def test_a_wrong_option_is_refused_with_its_name(options, message):
    with pytest.raises(UsageError, match=message):
        scorers_named(["density"], {"density": options})


def test_a_scorer_without_options_says_so():
    with pytest.raises(UsageError, match="scorer 'clip' has no option k; it has none"):
        scorers_named(["clip"], {"clip": {"k": 3}})


def test_scores_are_those_of_the_pure_functions_of_each_reference():
    rng = np.random.default_rng(0)
    rows, k, lid_k = 30, 4, 7

    def random_lists():
        distances = np.sort(rng.random((rows, lid_k)).astype(np.float32), axis=1)
        indices = np.stack([rng.permutation(rows)[:lid_k] for _ in range(rows)])
        distances[0], indices[0] = np.inf, -1
        return NeighbourLists(distances, indices)

    scorer = Density("20,all", k=k, lid_k=lid_k)
    neighbours = {name: random_lists() for name in ("20", "all")}
    within = {name: random_lists() for name in ("20", "all")}
    fitted = {
        f"{name}.{key}": value
        for name, lists in within.items()
        for key, value in scorer.describe(lists).items()
    }
    batch = PairBatch(pa.array(range(rows)), neighbours=neighbours)
    scores = scorer.score(batch, fitted)
    for name, suffix in (("20", ""), ("all", "_all")):
        d, i = neighbours[name].distances, neighbours[name].indices
        reference = ReferenceDensity(
            k_distance(within[name].distances, k), lid_mle(within[name].distances, k)
        )
        expected = {
            "kdist": k_distance(d, k),
            "slof": slof(d, i, reference, k),
            "dao": dao(d, i, reference, k),
            "lid": lid_mle(d, lid_k),
        }
        for score, value in expected.items():
            got = scores[f"density_{score}{suffix}"]
            assert np.array_equal(got, value, equal_nan=True)
            assert np.isnan(got[0]) and not np.isnan(got[5])
