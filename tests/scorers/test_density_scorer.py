"""The density family: its options, its columns, what it asks for, what it makes of it."""

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.errors import UsageError
from clipsieve.neighbours.lists import NeighbourLists
from clipsieve.scorers.base import Context, Embedded, Input, NeighbourSpec, PairBatch
from clipsieve.scorers.density import ReferenceDensity, dao, k_distance, lid_mle, lof, slof
from clipsieve.scorers.density_scorer import (
    Density,
    ListDensities,
    LocalOutlierFactor,
    reference_size,
)
from clipsieve.scorers.isolation import IsolationForestScore, isolation_forest
from clipsieve.scorers.registry import make_scorers
from clipsieve.statistics.hash_sample import HashSample, SampleState
from clipsieve.statistics.row_arrays import RowArrays
from clipsieve.store.pairs import split_batch
from tests.neighbours.naive import naive_neighbours
from tests.scorers import naive_density

DIM = 6


def context(rows, device="cpu"):
    return Context(dim=DIM, rows=rows, logit_scale=1.0, device=device)


def pairs(rows, shard="s", seed=0, missing=(), no_text=()):
    """Random pairs; those named `missing` have no image."""
    rng = np.random.default_rng(seed)
    sides = []
    for gone in (missing, no_text):
        valid = ~np.isin(np.arange(rows), list(gone))
        vectors = rng.normal(size=(rows, DIM)).astype(np.float32) * valid[:, None]
        sides.append(Embedded(vectors, valid))
    uids = pa.array([f"{shard}/{row}" for row in range(rows)])
    return PairBatch(uids, sides[0], {"": sides[1]}, shard=shard)


def learned(scorer, batches, rows):
    """What a scorer knows once it asks for no more; and how many passes that took."""
    known: dict = {}
    passes = 0
    while asked := scorer.statistics(known, context(rows)):
        sums = {}
        for name, statistic in asked.items():
            first, *others = [statistic.observe(batch, context(rows)) for batch in batches]
            sums[name] = sum(others, first)
        known, passes = scorer.learn(sums, known, context(rows)), passes + 1
        assert passes < 5
    return known, passes


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


def test_references_are_what_they_are_named():
    scorer = Density("300,all,batch50,auto", k=5, lid_k=9, seed=4, texts=True)
    whole, batch = scorer.neighbour_lists()
    assert whole == NeighbourSpec(k=9, batch=None, seed=4, metric="euclidean", texts=True)
    assert batch == NeighbourSpec(k=9, batch=50, seed=4, metric="euclidean", texts=True)
    asked = scorer.statistics({}, context(10_000))
    assert list(asked) == ["300", "all", "batch50", "auto"]
    assert asked["all"] == ListDensities(whole, 5)
    assert asked["batch50"] == ListDensities(batch, 5)
    assert asked["300"] == HashSample.bounded(300, 4, True, 10_000)
    assert asked["auto"] == HashSample.bounded(512, 4, True, 10_000)
    assert (asked["300"].size, asked["auto"].size) == (300, 512)
    assert Density("all", k=70).neighbour_lists()[0].k == 70


def test_only_what_must_be_learnt_is_asked_for():
    assert Density().statistics({}, context(1000)).keys() == {"auto", "large"}
    assert make_scorers(["clip"])[0].statistics({}, context(1000)) == {}
    scorer = Density("20,all")
    known = {"20.k_distance": np.ones(20)}
    assert scorer.statistics(known, context(1000)).keys() == {"all"}
    assert scorer.statistics({**known, "all.k_distance": np.ones(9)}, context(1000)) == {}


def test_inputs_are_those_of_the_references():
    image, text = Input.IMAGE_EMBEDDING, Input.TEXT_EMBEDDING
    assert Density().needs == {image}
    assert Density(texts=True).needs == {image, text}
    assert Density("20,all").needs == {image, Input.NEIGHBOURS}
    assert Density("batch20", texts=True).needs == {image, text, Input.NEIGHBOURS}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("auto", [512, 512, 513, 2000, 2048, 2048]), ("large", [2048, 2048, 2049, 8000, 8192, 8192])],
)
def test_a_named_reference_grows_as_the_square_root_between_its_bounds(name, sizes):
    rows = (0, 65_536, 65_537, 1_000_000, 1_048_576, 10**9)
    assert [reference_size(name, count) for count in rows] == sizes


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
        make_scorers(["density"], {"density": options})


def test_a_scorer_without_options_says_so():
    with pytest.raises(UsageError, match="scorer 'clip' has no option k; it has none"):
        make_scorers(["clip"], {"clip": {"k": 3}})


@pytest.mark.parametrize("name", ["density.lof", "density.isolation_forest"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": "all"}, "reference 'all' must be a number of rows, 'auto' or 'large'"),
        ({"reference": 0}, "reference 0 must be a number of rows, 'auto' or 'large'"),
        ({"reference": True}, "reference True must be a number of rows, 'auto' or 'large'"),
        ({"reference": "16,32"}, "reference '16,32' must be a number of rows, 'auto' or 'large'"),
        ({"seed": -1}, "option seed of scorer {name} must be an int"),
        ({"seed": 2**64}, "option seed of scorer {name} must be"),
        ({"seed": "0"}, "option seed of scorer {name} must be an int"),
    ],
)
def test_a_wrong_option_of_a_baseline_is_refused(name, options, message):
    with pytest.raises(UsageError, match=message.format(name=name)):
        make_scorers([name], {name: options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, r"option k of scorer density\.lof must be an int of at least 1, got 0"),
        ({"metric": "manhattan"}, "metric 'manhattan' is not known"),
    ],
)
def test_a_wrong_option_of_lof_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        make_scorers(["density.lof"], {"density.lof": options})


def test_scores_are_those_of_the_pure_functions_of_the_lists():
    rng = np.random.default_rng(0)
    rows, k, lid_k = 30, 4, 7

    def random_lists():
        distances = np.sort(rng.random((rows, lid_k)).astype(np.float32), axis=1)
        indices = np.stack([rng.permutation(rows)[:lid_k] for _ in range(rows)])
        distances[0], indices[0] = np.inf, -1
        return NeighbourLists(distances, indices)

    scorer = Density("all,batch20", k=k, lid_k=lid_k)
    specs = dict(zip(("all", "batch20"), scorer.neighbour_lists(), strict=True))
    lists = {name: random_lists() for name in specs}
    uids = pa.array([str(row) for row in range(rows)])
    batch = PairBatch(uids, neighbours={specs[name]: lists[name] for name in specs})
    # The dataset is these rows: a row's list is also that of a reference row.
    known, passes = learned(scorer, list(split_batch(batch, 7)), rows)
    assert passes == 1
    scores = scorer.score(batch, scorer.load(known, context(rows)))
    for name, suffix in (("all", ""), ("batch20", "_batch20")):
        d, i = lists[name].distances, lists[name].indices
        reference = ReferenceDensity(k_distance(d, k), lid_mle(d, k))
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


def test_captions_lists_come_after_those_of_all_images():
    spec = NeighbourSpec(k=2, texts=True)
    distances = np.arange(1.0, 13.0, dtype=np.float32).reshape(6, 2)
    lists = [NeighbourLists(distances[at : at + 3], np.zeros((3, 2), np.int64)) for at in (0, 3)]
    batch = PairBatch(
        pa.array(["a", "b", "c"]),
        neighbours={spec: lists[0]},
        caption_neighbours={spec: lists[1]},
    )
    scorer = Density("all", k=2, lid_k=2, texts=True)
    parts = [part for part in split_batch(batch, 2)]
    known, _ = learned(scorer, parts[::-1], 3)
    assert known["all.k_distance"].tolist() == [2, 4, 6, 8, 10, 12]
    assert np.array_equal(known["all.lid"], lid_mle(distances, 2))


BATCHES = [pairs(90, "a", 1, missing=[4], no_text=[7]), pairs(1, "b", 2), pairs(60, "c", 3)]
SIZE, K, LID_K = 24, 3, 5


def naive_reference(texts):
    """Vectors of the sample that seed 7 draws, and the numbers of those of each row in it."""
    sample = HashSample(SIZE, 7, texts=True)
    state = sum((sample.observe(b, context(151)) for b in BATCHES), SampleState(SIZE))
    vectors, owners = list(state.images), list(zip(state.shards, state.rows, strict=True))
    if texts:
        usable = [at for at in range(SIZE) if state.texts[at].any()]
        vectors += [state.texts[at] for at in usable]
        owners += [owners[at] for at in usable]
    return np.array(vectors), owners


def own_vectors(owners, row):
    return [at for at, owner in enumerate(owners) if owner == row]


def naive_lists(vectors, owners, k):
    """Lists of the sample's vectors among themselves, and of each batch's rows, by a full sort."""
    own = [own_vectors(owners, owner) for owner in owners]
    inner = naive_lists_of(vectors, vectors, own, k)
    outer = [
        naive_lists_of(
            batch.image.vectors,
            vectors,
            [own_vectors(owners, (batch.shard, row)) for row in range(len(batch))],
            k,
        )
        for batch in BATCHES
    ]
    return inner, outer


def naive_lists_of(queries, vectors, own, k):
    width = max(map(len, own), default=0) or 1
    padded = np.array([[*each, *[-1] * (width - len(each))] for each in own])
    return naive_neighbours(queries, vectors, k, padded)


@pytest.mark.parametrize("texts", [False, True], ids=["images", "texts"])
def test_scores_against_a_sample_equal_a_naive_loop(texts):
    scorer = Density(SIZE, k=K, lid_k=LID_K, seed=7, texts=texts)
    known, _ = learned(scorer, BATCHES, 150)
    loaded = scorer.load(known, context(150))
    vectors, owners = naive_reference(texts)
    inner, outer = naive_lists(vectors, owners, LID_K)
    for batch, (distances, indices) in zip(BATCHES, outer, strict=True):
        scores = scorer.score(batch, loaded)
        for row in range(len(batch)):
            got = {name: float(values[row]) for name, values in scores.items()}
            if not batch.image.valid[row]:
                assert np.isnan(list(got.values())).all()
                continue
            expected = {
                "density_kdist": naive_density.k_distance(distances, row, K),
                "density_slof": naive_density.slof(distances, indices, row, inner, K),
                "density_dao": naive_density.dao(distances, indices, row, inner, K, K),
                "density_lid": naive_density.lid(distances, row, LID_K),
            }
            assert got == pytest.approx(expected, rel=1e-5)


def test_lof_against_a_sample_equals_a_naive_loop_and_the_pure_function():
    scorer = LocalOutlierFactor(SIZE, k=K, seed=7)
    known, _ = learned(scorer, BATCHES, 150)
    loaded = scorer.load(known, context(150))
    vectors, owners = naive_reference(texts=False)
    inner, outer = naive_lists(vectors, owners, K)
    for batch, (distances, indices) in zip(BATCHES, outer, strict=True):
        (scores,) = scorer.score(batch, loaded).values()
        for row in range(len(batch)):
            if batch.image.valid[row]:
                expected = naive_density.lof(distances, indices, row, inner, K)
                assert scores[row] == pytest.approx(expected, rel=1e-5)
            else:
                assert np.isnan(scores[row])
        search, density = loaded
        lists = search.search(batch)
        pure = lof(lists.distances, lists.indices, density, K)
        assert np.array_equal(scores, pure, equal_nan=True)


def test_the_isolation_forest_of_a_sample_is_that_of_the_pure_function():
    scorer = IsolationForestScore(SIZE, seed=7)
    known, _ = learned(scorer, BATCHES, 150)
    loaded = scorer.load(known, context(150))
    vectors, _ = naive_reference(texts=False)
    for batch in BATCHES:
        (scores,) = scorer.score(batch, loaded).values()
        assert np.isnan(scores).tolist() == (~batch.image.valid).tolist()
        rows = batch.image.vectors[batch.image.valid]
        assert np.array_equal(scores[batch.image.valid], isolation_forest(rows, vectors, 7))


def test_all_three_draw_one_sample():
    scorers = (Density(50), LocalOutlierFactor(50), IsolationForestScore(50))
    asked = [statistic for s in scorers for statistic in s.statistics({}, context(999)).values()]
    assert len(asked) == 3
    assert len(set(asked)) == 1


@pytest.mark.parametrize(
    "scorer",
    [Density(SIZE, K, LID_K), LocalOutlierFactor(SIZE, K), IsolationForestScore(SIZE)],
    ids=lambda scorer: scorer.name,
)
def test_a_dataset_without_an_image_has_no_scores(scorer):
    batches = [pairs(3, "a", missing=range(3)), pairs(0, "b")]
    known, _ = learned(scorer, batches, 0)
    loaded = scorer.load(known, context(0))
    for batch in batches:
        for values in scorer.score(batch, loaded).values():
            assert values.shape == (len(batch),)
            assert np.isnan(values).all()
    later = scorer.score(pairs(5, "later"), loaded)
    assert all(np.isnan(values).all() for values in later.values())


@pytest.mark.parametrize(
    "scorer",
    [Density(SIZE, K, LID_K, texts=True), LocalOutlierFactor(SIZE, K), IsolationForestScore(SIZE)],
    ids=lambda scorer: scorer.name,
)
def test_scores_do_not_depend_on_how_many_rows_are_scored_at_once(scorer):
    known, _ = learned(scorer, BATCHES, 150)
    loaded = scorer.load(known, context(150))
    for batch in BATCHES:
        whole = scorer.score(batch, loaded)
        for rows in (7, 59):
            parts = [scorer.score(part, loaded) for part in split_batch(batch, rows)]
            for name, values in whole.items():
                joined = np.concatenate([part[name] for part in parts])
                assert np.array_equal(joined, values, equal_nan=True)


@pytest.mark.parametrize(
    "scorer",
    [Density(SIZE, K, LID_K), LocalOutlierFactor(SIZE, K), IsolationForestScore(SIZE)],
    ids=lambda scorer: scorer.name,
)
def test_a_sample_whose_bound_was_too_low_is_drawn_again_without_one(scorer):
    # The scorer is told of so many rows that the bound leaves nearly all of these out.
    asked = scorer.statistics({}, context(10**9))[str(SIZE)]
    state = sum((asked.observe(b, context(10**9)) for b in BATCHES), SampleState(SIZE))
    assert state.is_short
    short = scorer.learn({str(SIZE): state}, {}, context(10**9))
    (again,) = scorer.statistics(short, context(10**9)).values()
    assert again.bound == 2**64 - 1
    known, passes = learned(scorer, BATCHES, 10**9)
    expected, one = learned(scorer, BATCHES, 150)
    assert (passes, one) == (2, 1)
    assert known.keys() == expected.keys()
    assert all(np.array_equal(known[name], expected[name]) for name in known)


def test_row_arrays_of_lists_are_added_up_by_shard_and_position():
    spec = NeighbourSpec(k=1)
    lists = NeighbourLists(np.ones((2, 1), np.float32), np.zeros((2, 1), np.int64))
    batch = PairBatch(pa.array(["a", "b"]), neighbours={spec: lists}, shard="s", start=4)
    state = ListDensities(spec, 1).observe(batch, context(2))
    assert isinstance(state, RowArrays)
    assert list(state.parts) == [("s", 4)]
