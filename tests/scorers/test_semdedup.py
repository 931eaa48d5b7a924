"""SemDeDup against a plain loop: order, ties, missing and later rows, passes, splits."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.errors import UsageError
from clipsieve.scorers.base import Context, Embedded, PairBatch
from clipsieve.scorers.registry import make_scorer
from clipsieve.scorers.semdedup import SemDeDup
from clipsieve.statistics.cluster_rows import AssignedRows, ClusterMembers
from clipsieve.statistics.hash_sample import HashSample, row_hashes
from clipsieve.store.pairs import split_batch

DIM, CLUSTERS = 16, 7


def made_up(rows, seed=0):
    """Vectors of a few directions, a third of them copies of others, to the bit or nearly."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, DIM))
    vectors = centres[rng.integers(5, size=rows)] + 0.6 * rng.normal(size=(rows, DIM))
    copies = rng.integers(rows, size=(rows // 3, 2))
    for to, source in copies.tolist():
        vectors[to] = vectors[source] + (to % 2) * 0.02 * rng.normal(size=DIM)
    return vectors.astype(np.float32)


def batch_of(vectors, uids, shard, missing=()):
    valid = ~np.isin(np.arange(len(vectors)), list(missing))
    image = Embedded(np.where(valid[:, None], vectors, 0).astype(np.float32), valid)
    return PairBatch(pa.array(uids), image, shard=shard)


def dataset(rows=600, shards=(250, 1, 349), names="abc", order=None):
    """Shards of one dataset; some uids are there twice, some rows have no image."""
    vectors = made_up(rows)
    uids = [f"uid {at - (at % 50 == 1)}" for at in range(rows)]
    places = list(range(rows)) if order is None else order
    batches, first = [], 0
    for name, count in zip(names, shards, strict=True):
        rows_of = places[first : first + count]
        missing = [at for at, row in enumerate(rows_of) if row in (3, 77, 300)]
        batches.append(batch_of(vectors[rows_of], [uids[r] for r in rows_of], name, missing))
        first += count
    return batches


def context_of(batches):
    return Context(DIM, sum(map(len, batches)), 100.0)


def learned(scorer, batches, rows=1000, passes=None):
    """What a scorer learns of batches in their order, and the names of its passes."""
    around = context_of(batches)
    known: Any = {}
    names: list[str] = []
    while asked := scorer.statistics(known, around):
        sums = {}
        for name, statistic in asked.items():
            parts = [part for batch in batches for part in split_batch(batch, rows)]
            first, *others = [statistic.observe(part, around) for part in parts]
            sums[name] = sum(others, first)
        known = scorer.learn(sums, known, around)
        names += asked
    if passes is not None:
        passes += names
    return known


def scored(scorer, known, batches, rows=1000):
    """Columns of all rows, in the order of the batches."""
    loaded = scorer.load(known, context_of(batches))
    parts = [scorer.score(p, loaded) for batch in batches for p in split_batch(batch, rows)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def by_row(columns, batches):
    """Values by uid and vector, which identify a row in whatever shard it is."""
    keys = [
        (uid, vector.tobytes())
        for batch in batches
        for uid, vector in zip(batch.uid.to_pylist(), batch.image.vectors, strict=True)
    ]
    rows = zip(*(columns[name].tolist() for name in columns), strict=True)
    return sorted(zip(keys, map(str, rows), strict=True))


def naive(columns, batches, keep):
    """M of each row from its cluster and cosine, one pair after the other."""
    places = [(b.shard, row) for b in batches for row in range(len(b))]
    uids = [uid for b in batches for uid in b.uid.to_pylist()]
    hashes = row_hashes(pa.array(uids), 1234).tolist()
    unit = np.concatenate([b.image.unit() for b in batches])
    cosines = columns["semdedup_centroid_cosine"].tolist()
    key = {
        "hard": lambda row: cosines[row],
        "easy": lambda row: -cosines[row],
        "random": lambda row: hashes[row],
    }[keep]
    expected = np.full(len(uids), np.nan)
    for cluster in set(columns["semdedup_cluster"].tolist()) - {None}:
        members = np.flatnonzero(columns["semdedup_cluster"] == cluster).tolist()
        members.sort(key=lambda row: (key(row), uids[row], places[row]))
        for at, row in enumerate(members):
            expected[row] = max([0.0, *(unit[other] @ unit[row] for other in members[:at])])
    return expected


@pytest.mark.parametrize("keep", ["hard", "easy", "random"])
def test_values_are_those_of_a_plain_loop(keep):
    batches, scorer = dataset(), SemDeDup(clusters=CLUSTERS, keep=keep)
    known = learned(scorer, batches)
    columns = scored(scorer, known, batches)
    valid = np.concatenate([b.image.valid for b in batches])
    unit = np.concatenate([b.image.unit() for b in batches])
    cosines = unit @ known["centroids"].T.astype(np.float64)
    clusters = columns["semdedup_cluster"]
    assert clusters[valid].tolist() == cosines.argmax(axis=1)[valid].tolist()
    assert len(set(clusters[valid])) == CLUSTERS
    np.testing.assert_allclose(
        columns["semdedup_centroid_cosine"][valid], cosines.max(axis=1)[valid], atol=1e-6
    )
    expected = naive(columns, batches, keep)
    similarities = columns["semdedup_similarity"]
    np.testing.assert_allclose(similarities, expected, atol=1e-6)
    assert columns["semdedup_keep"][valid].tolist() == (similarities[valid] <= 1 - 0.07).tolist()
    assert 0.5 < columns["semdedup_keep"][valid].mean() < 0.9
    for name in ("semdedup_cluster", "semdedup_keep"):
        assert columns[name][~valid].tolist() == [None] * 3
    assert np.isnan(similarities[~valid]).all()
    assert np.isnan(columns["semdedup_centroid_cosine"][~valid]).all()


@pytest.mark.parametrize("keep", ["hard", "easy", "random"])
def test_of_equal_pictures_the_first_by_uid_is_kept(keep):
    same = np.repeat(np.arange(1.0, DIM + 1)[None], 5, axis=0)
    one = batch_of(same, ["d", "b", "e", "x", "y"], "s")
    two = batch_of(same[:2], ["c", "a"], "t")
    scorer = SemDeDup(clusters=1, keep=keep)
    columns = scored(scorer, learned(scorer, [one, two]), [one, two])
    uids = [*one.uid.to_pylist(), *two.uid.to_pylist()]
    first = min(range(7), key=lambda at: row_hashes(pa.array(uids), 1234)[at])
    expected = first if keep == "random" else uids.index("a")
    assert np.flatnonzero(columns["semdedup_keep"]).tolist() == [expected]
    assert columns["semdedup_similarity"][expected] == 0


def test_rows_of_one_uid_and_picture_are_in_the_order_of_shards_and_rows():
    same = np.ones((3, DIM))
    one, two = batch_of(same, ["u"] * 3, "s"), batch_of(same, ["u"] * 3, "r")
    scorer = SemDeDup(clusters=1)
    columns = scored(scorer, learned(scorer, [one, two]), [one, two])
    assert np.flatnonzero(columns["semdedup_keep"]).tolist() == [3]


def test_eps_decides_what_is_kept_and_nothing_else():
    batches = dataset()
    loose, strict = SemDeDup(clusters=CLUSTERS, eps=0.0), SemDeDup(clusters=CLUSTERS, eps=1)
    known = learned(loose, batches)
    one, other = scored(loose, known, batches), scored(strict, known, batches)
    similarities = one["semdedup_similarity"]
    assert np.array_equal(similarities, other["semdedup_similarity"], equal_nan=True)
    is_there = ~np.isnan(similarities)
    assert one["semdedup_keep"][is_there].all()
    assert other["semdedup_keep"][is_there].tolist() == (similarities[is_there] <= 0).tolist()


def test_order_of_batches_and_their_size_change_no_bit():
    batches, scorer = dataset(), SemDeDup(clusters=CLUSTERS)
    known = learned(scorer, batches)
    columns = scored(scorer, known, batches)
    for order, rows in (([2, 0, 1], 64), ([1, 2, 0], 7)):
        again = learned(scorer, [batches[at] for at in order], rows)
        assert known.keys() == again.keys()
        for name in known:
            assert np.array_equal(known[name], again[name], equal_nan=name.endswith("ities")), name
        for name, values in scored(scorer, again, batches, rows).items():
            assert values.tobytes() == columns[name].tobytes() or (values == columns[name]).all()


def test_another_distribution_over_shards_changes_no_bit():
    batches, scorer = dataset(), SemDeDup(clusters=CLUSTERS)
    # Rows of one uid keep their order, which decides between them.
    order = np.random.default_rng(9).permutation(300)
    mixed = [row for pair in order.tolist() for row in (2 * pair, 2 * pair + 1)]
    other = dataset(shards=(100, 500), names="zy", order=mixed)
    columns = scored(scorer, learned(scorer, batches), batches)
    again = scored(scorer, learned(scorer, other, rows=33), other)
    assert by_row(columns, batches) == by_row(again, other)


def test_less_memory_takes_more_passes_and_changes_no_bit():
    batches = dataset(3000, (1500, 1, 1499))
    passes: list[str] = []
    many: list[str] = []
    scorer, small = (SemDeDup(clusters=60, memory_mib=mib) for mib in (2048, 1))
    known = learned(scorer, batches, passes=passes)
    assert passes == ["sample", "rows", "members"]
    # 256 bytes a row of 16 components: 4096 rows in a MiB, so let rows be larger.
    wide = [
        PairBatch(b.uid, Embedded(np.pad(b.image.vectors, ((0, 0), (0, 240))), b.image.valid), {},
                  shard=b.shard)
        for b in batches
    ]  # fmt: skip
    around = Context(256, 3000, 100.0)
    results = []
    for each, names in ((scorer, []), (small, many)):
        state: Any = {}
        while asked := each.statistics(state, around):
            (name, statistic), *_ = asked.items()
            parts = [statistic.observe(batch, around) for batch in wide]
            state = each.learn({name: parts[2] + parts[0] + parts[1]}, state, around)
            names.append(name)
        results.append(state)
    assert many == ["sample", "rows", *["members"] * (len(many) - 2)] and len(many) > 6
    one, other = results
    assert one["rows.similarities"].tobytes() == other["rows.similarities"].tobytes()
    np.testing.assert_allclose(known["rows.similarities"], one["rows.similarities"], atol=1e-6)


def test_later_rows_have_a_cluster_and_no_similarity():
    batches, scorer = dataset(), SemDeDup(clusters=CLUSTERS)
    known = learned(scorer, batches)
    columns = scored(scorer, known, batches)
    later = batch_of(made_up(40, seed=2), [f"new {at}" for at in range(40)], "d", [5])
    # A shard that was read again has its old rows, another in one place, and one row more.
    vectors = np.concatenate([batches[0].image.vectors, made_up(1, seed=3)])
    uids = [*batches[0].uid.to_pylist(), "one more"]
    uids[10] = "another"
    again = batch_of(vectors, uids, "a", [3, 77])
    got = scored(scorer, known, [later])
    valid = later.image.valid
    expected = (later.image.unit() @ known["centroids"].T.astype(np.float64)).argmax(axis=1)
    assert got["semdedup_cluster"][valid].tolist() == expected[valid].tolist()
    assert np.isnan(got["semdedup_centroid_cosine"]).tolist() == (~valid).tolist()
    assert np.isnan(got["semdedup_similarity"]).all()
    assert got["semdedup_keep"].tolist() == [None] * 40
    got = scored(scorer, known, [again])
    missing = np.flatnonzero(np.isnan(got["semdedup_similarity"])).tolist()
    assert missing == [3, 10, 77, 250]
    same = np.delete(np.arange(251), missing)
    assert np.array_equal(got["semdedup_similarity"][same], columns["semdedup_similarity"][same])
    assert got["semdedup_cluster"][10] == columns["semdedup_cluster"][10]


def test_a_row_whose_image_came_later_has_a_cluster_and_no_similarity():
    batches, scorer = dataset(), SemDeDup(clusters=CLUSTERS)
    known = learned(scorer, batches)
    vectors = batches[0].image.vectors.copy()
    vectors[3] = 1
    got = scored(scorer, known, [batch_of(vectors, batches[0].uid.to_pylist(), "a", [77])])
    assert got["semdedup_cluster"][3] is not None and got["semdedup_keep"][3] is None


def test_defaults_follow_the_number_of_rows():
    def sample(rows, **options):
        return SemDeDup(**options).statistics({}, Context(8, rows, 1.0))["sample"]

    assert sample(999) == HashSample(4096, 1234)
    assert sample(10_000_000).size == 640_000
    assert sample(100_000_000, memory_mib=1 << 20).size == 2_000_000
    assert sample(10, sample=5, seed=6) == HashSample.bounded(5, 6, False, 10)
    batches = dataset()
    assert len(learned(SemDeDup(), batches)["centroids"]) == 1


def test_a_sample_that_came_out_short_is_drawn_again():
    """Rows whose hashes are all high: the bound lets none in at first."""
    uids = [f"{at}" for at in range(8000)]
    hashes = row_hashes(pa.array(uids), 1234)
    high = [uid for uid, value in zip(uids, hashes, strict=True) if value > 2**63]
    batch = batch_of(made_up(len(high)), high, "s")
    passes: list[str] = []
    known = learned(SemDeDup(clusters=3, sample=50), [batch], passes=passes)
    assert passes == ["sample", "sample", "rows", "members"]
    assert "short" not in known and (known["counts"] > 0).all()


def test_statistics_are_equal_if_they_sum_the_same():
    batches, scorer = dataset(), SemDeDup(clusters=CLUSTERS)
    around, known = context_of(batches), learned(scorer, batches)
    begun = {"centroids": known["centroids"]}
    one, other = (SemDeDup(clusters=CLUSTERS).statistics(dict(begun), around) for _ in range(2))
    assert one == other and hash(one["rows"]) == hash(other["rows"])
    assert isinstance(one["rows"], AssignedRows)
    half = {**known, "clusters_done": np.array(2)}
    one, other = (SemDeDup(clusters=CLUSTERS).statistics(dict(half), around) for _ in range(2))
    assert one == other and isinstance(one["members"], ClusterMembers)
    assert (one["members"].first, one["members"].stop) == (2, CLUSTERS)
    assert scorer.statistics(known, around) == {}


def test_what_cannot_be_learnt_is_refused():
    empty = [batch_of(np.ones((3, DIM)), "xyz", "s", [0, 1, 2])]
    with pytest.raises(UsageError, match=r"duplicates.semdedup learns of 0 rows with an image"):
        learned(SemDeDup(), empty)
    few = [batch_of(np.ones((3, DIM)), list("xyz"), "s", [0])]
    with pytest.raises(UsageError, match="10 clusters of a sample of 2 rows; set option clusters"):
        learned(SemDeDup(clusters=10), few)
    with pytest.raises(UsageError, match=r"learns of 1000000 rows, and .* fit into 60 passes"):
        SemDeDup(memory_mib=1).statistics({}, Context(768, 1_000_000, 1.0))
    batches = [batch_of(made_up(6000), [str(at) for at in range(6000)], "s")]
    with pytest.raises(UsageError, match="has a cluster of 6000 rows, and 4096 fit into a pass"):
        learned(SemDeDup(clusters=1, memory_mib=1), batches)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"eps": 1.5}, "option eps of scorer duplicates.semdedup must be a number from 0 to 1"),
        ({"eps": "x"}, "option eps"),
        ({"eps": float("nan")}, "option eps"),
        ({"clusters": 0}, "option clusters of scorer duplicates.semdedup must be an int of at"),
        ({"clusters": "many"}, "option clusters"),
        ({"sample": 0}, "option sample"),
        ({"iterations": 0}, "option iterations"),
        ({"seed": -1}, "option seed"),
        ({"memory_mib": 0}, "option memory_mib"),
        ({"keep": "soft"}, "option keep .* must be one of hard, easy, random, got 'soft'"),
    ],
)
def test_wrong_options_are_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        SemDeDup(**wrong)


def test_options_that_change_values_are_recorded():
    scorer = make_scorer("duplicates.semdedup", {"memory_mib": 100})
    assert scorer.parameters() == {
        "eps": 0.07,
        "clusters": "auto",
        "keep": "hard",
        "iterations": 20,
        "sample": "auto",
        "seed": 1234,
    }
    assert [str(field.type) for field in scorer.columns] == ["int32", "float", "float", "bool"]
