"""Scorers learn of the whole dataset, pass after pass, and what they learnt is kept."""

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.control import Control
from clipsieve.errors import ClipsieveError
from clipsieve.scoring.learn import LearnStage, ScorerSpec, Sums, read_known
from clipsieve.stage import Report
from clipsieve.statistics.hash_sample import row_hashes
from clipsieve.store.members import ok_rows
from clipsieve.store.pairs import split_batch
from clipsieve.transforms.merge import Merge
from tests.scoring.folders import (
    LOGIT_SCALE,
    SHARDS,
    InProcess,
    basis_of,
    make_folder,
    make_shard,
    members_of,
    pairs_of,
    read_scores,
    score_folder,
    varied_shards,
    writer_of,
)
from tests.scoring.toys import PowerSum, TwoPasses
from tests.transforms.combining import combined_every_way

FIRST = ("observe", 1, 0)


def naive_values(folder):
    """First component of every valid image in thousandths, by shard: None where missing."""
    values = {}
    for shard in folder.shards():
        image = pairs_of(folder).read(shard, ()).image
        values[shard] = [
            round(float(vector[0]) * 1000) if ok else None
            for vector, ok in zip(image.vectors, image.valid, strict=True)
        ]
    return values


def naive_moments(folder):
    values = [v for each in naive_values(folder).values() for v in each if v is not None]
    mean = round(sum(values) / len(values))
    return mean, (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5


def learned_id(folder, scorer):
    return folder.require_manifest().scorers()[scorer].learned


def fits(folder, scorer):
    return folder.files.list_files(f"fits/{scorer}")


def test_statistics_are_asked_for_again_until_there_are_none(folder, calls):
    engine = InProcess()
    score_folder(folder, ["toy.two_passes"], engine=engine)
    assert engine.ran == [("learn", 4), ("learn", 4), ("score", 4)]
    assert (calls["learn mean"], calls["learn spread"]) == (1, 1)
    mean, spread = naive_moments(folder)
    identifier = learned_id(folder, "toy.two_passes")
    known = folder.read_arrays(f"fits/toy.two_passes/{identifier}.npz")
    assert known.keys() == {"mean", "spread"}
    assert known["mean"] == mean
    assert known["spread"] == pytest.approx(spread)
    assert sorted(fits(folder, "toy.two_passes")) == [f"{identifier}.json", f"{identifier}.npz"]
    for shard, values in naive_values(folder).items():
        column = read_scores(folder, "toy", shard)["deviations"].to_pylist()
        expected = [None if v is None else (v - mean) / spread for v in values]
        assert column == [None if e is None else pytest.approx(e, rel=1e-5) for e in expected]


def test_equal_statistics_of_two_scorers_are_observed_once(folder, calls):
    engine = InProcess()
    score_folder(folder, ["toy.two_passes", "toy.mean_only"], engine=engine)
    assert [name for name, _ in engine.ran] == ["learn", "learn", "score"]
    assert calls[FIRST] == len(SHARDS)
    mean, _ = naive_moments(folder)
    assert calls["observe", 2, mean] == len(SHARDS)
    for shard, values in naive_values(folder).items():
        column = read_scores(folder, "toy", shard)["above_mean"].to_pylist()
        assert column == [None if v is None else v > mean for v in values]


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        ("toy.forgetful", "asks for the same statistics again after pass 1"),
        ("toy.insatiable", "asks for more than 64 passes"),
    ],
)
def test_a_scorer_that_never_ends_learning_is_refused_by_name(tmp_path, calls, scorer, message):
    folder = make_folder(tmp_path / "small", [make_shard("a", 3)])
    with pytest.raises(ClipsieveError, match=f"scorer {scorer} {message}"):
        score_folder(folder, [scorer])
    assert not any(name.endswith(".npz") and "pass" not in name for name in fits(folder, scorer))


def test_what_was_learnt_is_loaded_once_a_process(folder, calls):
    score_folder(folder, ["toy.two_passes", "toy.other"])
    assert (calls["load", "toy.two_passes"], calls["load", "toy.other"]) == (1, 1)
    assert calls["score", "toy.other"] == len(SHARDS)
    scales = read_scores(folder, "toy", "a")["scale"].to_pylist()
    assert scales == [LOGIT_SCALE] * SHARDS["a"]


def stage_of(folder):
    return LearnStage(
        out=folder.root,
        run_id="run",
        device="cpu",
        control=Control("run", folder.root),
        basis=basis_of(folder),
        scorers=(ScorerSpec("toy.two_passes", {}, "", "aaaaaaaaaaaa"),),
        passes={"toy.two_passes": 0},
        rows=ok_rows(members_of(folder)),
        shards=len(SHARDS),
    )


def test_nothing_is_learnt_of_a_part_of_the_shards(folder, calls):
    stage = stage_of(folder)
    report = sum(stage.open().work(["b", "c", "d"]), Report())
    assert stage.finish(report) == Report(("b", "c", "d"))
    assert fits(folder, "toy.two_passes") == []
    assert calls["learn mean"] == 0


def test_any_split_and_order_learns_the_same(folder, calls):
    stage = stage_of(folder)
    reports = [report for shard in SHARDS for report in stage.open().work([shard])]
    kept = []
    for total in combined_every_way(Merge(Report()), reports):
        assert stage.finish(total).value is None
        kept.append(read_known(folder, stage.scorers[0], 1))
    assert len(kept) == 12
    assert all(known == kept[0] and known.keys() == {"mean"} for known in kept)


@pytest.mark.parametrize("name", ["density", "density.lof", "density.isolation_forest"])
def test_any_split_and_order_learns_the_same_sample(folder, name):
    options = {"reference": "20"} | ({"k": 3} if name != "density.isolation_forest" else {})
    stage = LearnStage(
        out=folder.root,
        run_id="run",
        device="cpu",
        control=Control("run", folder.root),
        basis=basis_of(folder),
        scorers=(ScorerSpec(name, options, "", "aaaaaaaaaaaa"),),
        passes={name: 0},
        rows=ok_rows(members_of(folder)),
        shards=len(SHARDS),
    )
    reports = [report for shard in SHARDS for report in stage.open().work([shard])]
    kept = []
    for total in combined_every_way(Merge(Report()), reports):
        stage.finish(total)
        kept.append(read_known(folder, stage.scorers[0], None))
    learnt = {"density": {"20.k_distance", "20.lid"}, "density.lof": {"20.reachability"}}
    assert len(kept) == 12
    for arrays in kept:
        assert arrays.keys() == kept[0].keys() >= {"20.images", *learnt.get(name, set())}
        assert all(np.array_equal(arrays[key], kept[0][key]) for key in arrays)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_sums_do_not_depend_on_the_size_of_batches(folder, calls, rows):
    statistics = (PowerSum(1), PowerSum(2, 40))
    parts = [
        Sums({s: s.observe(part, None) for s in statistics})
        for shard in SHARDS
        for part in split_batch(pairs_of(folder).read(shard, ()), rows)
    ]
    values = [v for each in naive_values(folder).values() for v in each if v is not None]
    for total in combined_every_way(Merge(Sums()), parts):
        assert total.states[statistics[0]].total == sum(values)
        assert total.states[statistics[1]].total == sum((v - 40) ** 2 for v in values)
        assert {state.rows for state in total.states.values()} == {len(values)}


def test_sums_of_different_statistics_are_kept_apart():
    one, other = PowerSum(1), PowerSum(2)
    left, right = Sums({one: 1, other: 5}), Sums({one: 2})
    assert dict((left + right).states) == {one: 3, other: 5}
    assert dict((right + left).states) == {one: 3, other: 5}
    assert dict((Sums() + right).states) == {one: 2}
    assert (dict(left.states), dict(right.states)) == ({one: 1, other: 5}, {one: 2})


def test_an_interrupted_second_pass_is_resumed_after_the_first(folder, calls):
    scored = score_folder(folder, ["toy.two_passes"], engine=InProcess(stop_in=1, stop_after=2))
    assert (scored.done, scored.left) == (0, len(SHARDS))
    assert "toy" not in folder.require_manifest().families
    (pass1,) = [name for name in fits(folder, "toy.two_passes") if name.endswith(".npz")]
    assert pass1.endswith(".pass1.npz")
    mean, spread = naive_moments(folder)
    assert calls["observe", 2, mean] == 2
    engine = InProcess()
    assert score_folder(folder, ["toy.two_passes"], engine=engine).left == 0
    assert engine.ran == [("learn", 4), ("score", 4)]
    assert calls[FIRST] == len(SHARDS)
    assert (calls["learn mean"], calls["learn spread"]) == (1, 1)
    assert not any(".pass" in name for name in fits(folder, "toy.two_passes"))
    identifier = learned_id(folder, "toy.two_passes")
    known = folder.read_arrays(f"fits/toy.two_passes/{identifier}.npz")
    assert known["spread"] == pytest.approx(spread)


def test_an_interrupted_first_pass_keeps_nothing(folder, calls):
    score_folder(folder, ["toy.two_passes"], engine=InProcess(stop_in=0, stop_after=3))
    assert [name for name in fits(folder, "toy.two_passes") if name.endswith(".npz")] == []
    engine = InProcess()
    score_folder(folder, ["toy.two_passes"], engine=engine)
    assert engine.ran == [("learn", 4), ("learn", 4), ("score", 4)]


def test_a_scorer_that_has_learnt_waits_for_one_that_has_not(folder, calls):
    score_folder(folder, ["toy.mean_only"])
    calls.clear()
    engine = InProcess()
    score_folder(folder, ["toy.mean_only", "toy.two_passes"], engine=engine)
    assert engine.ran == [("learn", 4), ("learn", 4), ("score", 4)]
    assert calls["rows", "toy.mean_only"] == 0


def test_what_was_learnt_is_used_for_shards_that_come_later(folder, calls):
    score_folder(folder, ["toy.two_passes"])
    before = {shard: read_scores(folder, "toy", shard) for shard in SHARDS}
    identifier = learned_id(folder, "toy.two_passes")
    mean, spread = naive_moments(folder)
    calls.clear()
    writer_of(folder.root).commit(make_shard("later", 12, seed=99))
    engine = InProcess()
    score_folder(folder, ["toy.two_passes"], engine=engine)
    assert engine.ran == [("score", 1)]
    assert learned_id(folder, "toy.two_passes") == identifier
    for shard in SHARDS:
        assert read_scores(folder, "toy", shard).equals(before[shard], check_metadata=True)
    values = naive_values(folder)["later"]
    column = read_scores(folder, "toy", "later")["deviations"].to_pylist()
    assert column == pytest.approx([(v - mean) / spread for v in values], rel=1e-5)


def test_refit_learns_of_the_rows_that_are_there_now(folder, calls):
    score_folder(folder, ["toy.two_passes"])
    identifier = learned_id(folder, "toy.two_passes")
    before = read_scores(folder, "toy", "a")
    writer_of(folder.root).commit(make_shard("later", 12, seed=99))
    mean, spread = naive_moments(folder)
    engine = InProcess()
    score_folder(folder, ["toy.two_passes"], engine=engine, refit=True)
    assert engine.ran == [("learn", 5), ("learn", 5), ("score", 5)]
    again = learned_id(folder, "toy.two_passes")
    assert again != identifier
    known = folder.read_arrays(f"fits/toy.two_passes/{again}.npz")
    assert (known["mean"], known["spread"]) == (mean, pytest.approx(spread))
    assert not read_scores(folder, "toy", "a").equals(before)


def test_refit_of_the_same_rows_learns_again_and_changes_nothing(folder, calls):
    score_folder(folder, ["toy.two_passes"])
    identifier = learned_id(folder, "toy.two_passes")
    engine = InProcess()
    score_folder(folder, ["toy.two_passes"], engine=engine, refit=True)
    assert engine.ran == [("learn", 4), ("learn", 4)]
    assert learned_id(folder, "toy.two_passes") == identifier


def test_another_shard_or_parameter_is_learnt_anew(folder):
    options = [{"density": {"reference": "20", "k": k, "lid_k": 5}} for k in (3, 4)]
    identifiers = []
    for each in options:
        score_folder(folder, ["density"], each)
        identifiers.append(learned_id(folder, "density"))
    smaller = make_folder(folder.root + "-2", varied_shards({"a": 30, "c": 45}))
    for each in options:
        score_folder(smaller, ["density"], each)
        identifiers.append(learned_id(smaller, "density"))
    assert len(set(identifiers)) == 4


def test_the_description_names_scorer_parameters_and_members(folder, calls):
    score_folder(folder, ["toy.two_passes"])
    identifier = learned_id(folder, "toy.two_passes")
    description = folder.read_json(f"fits/toy.two_passes/{identifier}.json")
    assert description["scorer"] == TwoPasses.name
    assert [member["shard"] for member in description["members"]] == list(SHARDS)
    assert [member["rows"] for member in description["members"]] == list(SHARDS.values())


def test_a_damaged_fit_is_learnt_again_with_refit(folder, calls):
    score_folder(folder, ["toy.two_passes"])
    name = f"fits/toy.two_passes/{learned_id(folder, 'toy.two_passes')}.npz"
    before = folder.read_arrays(name)
    folder.write_text(name, "damaged")
    writer_of(folder.root).commit(make_shard("later", 12, seed=99))
    with pytest.raises(ClipsieveError, match=r"is damaged .* makes it again"):
        score_folder(folder, ["toy.two_passes"])
    folder.files.delete("samples/later.parquet")
    score_folder(folder, ["toy.two_passes"], refit=True)
    again = folder.read_arrays(name)
    assert all(np.array_equal(before[key], again[key]) for key in before)


def test_a_sample_that_came_out_short_is_drawn_in_a_second_pass(tmp_path):
    # Rows with one uid have one hash: above the bound all of them are left out at first.
    rows = 400
    uid = max((f"twin-{n}" for n in range(50)), key=lambda u: int(row_hashes(pa.array([u]), 0)[0]))
    folder = make_folder(tmp_path / "twins", [make_shard("a", rows, uids=[uid] * rows)])
    options = {"density": {"reference": "20", "k": 3, "lid_k": 5}}
    engine = InProcess()
    score_folder(folder, ["density"], options, engine)
    assert engine.ran == [("learn", 1), ("learn", 1), ("score", 1)]
    known = folder.read_arrays(f"fits/density/{learned_id(folder, 'density')}.npz")
    assert known["20.rows"].tolist() == list(range(20))
    assert "20.short" not in known
    assert read_scores(folder, "density", "a")["density_kdist"].null_count == 0
