"""`clipsieve score --scorers density` over stored folders equals the same arithmetic in memory."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clipsieve
from clipsieve.errors import UsageError
from clipsieve.schemas.states import RowState
from clipsieve.scorers.base import Embedded, Input
from clipsieve.statistics.hash_sample import row_hashes
from clipsieve.store.folder import OutputFolder
from clipsieve.store.members import ok_rows, read_members
from clipsieve.store.pairs import StoredPairs
from tests.pipelines.jobs import COMMAND, leftovers, manifest_of, start, tables, wait_for
from tests.scorers.published import published_scores
from tests.store.folders import DIM, make_folder, shard_of, shard_writer

NAMES = {"kdist": "k_distance", "slof": "slof", "dao": "dao", "lid": "lid_mle"}
OPTIONS = {"k": 5, "lid_k": 9, "seed": 2}
ROWS = {"a": 40, "b": 25, "c": 60, "d": 1}


def made_shard(name, rows, seed):
    return shard_of(
        name, rows, seed=seed, no_image=[2, 7] if rows > 7 else (), no_text=[0] if rows > 7 else ()
    )


def folder_of(root, shards=ROWS):
    make_folder(root, [made_shard(name, rows, ord(name)) for name, rows in shards.items()])
    return root


def joined(parts):
    return Embedded(
        np.concatenate([p.vectors for p in parts]), np.concatenate([p.valid for p in parts])
    )


def states_of(pairs):
    both = pairs.image.valid & pairs.texts[""].valid
    return [RowState.OK if ok else RowState.MISSING_IMAGE for ok in both]


def add_shard(root, name, rows):
    """One more shard in the ledger, as a run would leave it before its score stage."""
    shard_writer(root).commit(made_shard(name, rows, ord(name)))


def fit_of(root):
    """What the density scorer of a folder has learnt, and of which rows, as ids."""
    entry = manifest_of(root).scorers()["density"]
    return entry.learned, entry.neighbours


def run_score(root, reference, refit=False, **options):
    given = {"density": {**OPTIONS, "reference": reference, **options}}
    return clipsieve.score(root, ["density"], device="cpu", scorer_options=given, refit=refit)


def pairs_of(root):
    entry = manifest_of(root).embeddings
    assert entry is not None
    return StoredPairs(OutputFolder.open(root), entry, DIM)


def everything(root):
    """uids, images and captions of all rows, in shard order, and which of them are there."""
    pairs = pairs_of(root)
    both = {Input.IMAGE_EMBEDDING, Input.TEXT_EMBEDDING}
    batches = [pairs.read(shard, both) for shard in pairs.folder.shards()]
    image = [np.concatenate([getattr(b.image, f) for b in batches]) for f in ("vectors", "valid")]
    text = [
        np.concatenate([getattr(b.texts[""], f) for b in batches]) for f in ("vectors", "valid")
    ]
    return pa.concat_arrays([b.uid for b in batches]), *image, *text


def scores_of(root):
    """Columns of the density family over all shards, NaN for NULL."""
    rev = manifest_of(root).families["density"].revision
    files = sorted((root / "scores" / "density" / f"rev={rev}").glob("*.parquet"))
    table = pa.concat_tables([pq.read_table(f, partitioning=None) for f in files])
    return table["uid"], {
        name: table[name].to_numpy().astype(np.float64)
        for name in table.column_names
        if name != "uid"
    }


def assert_columns(root, expected, suffix="", tolerance=1e-6):
    columns = scores_of(root)[1]
    for score_name, name in NAMES.items():
        got = columns[f"density_{score_name}{suffix}"]
        assert np.array_equal(np.isnan(got), np.isnan(expected[name]))
        assert np.allclose(got, expected[name], rtol=tolerance, equal_nan=True), score_name


def in_memory(root, chosen):
    """Scores of each row against the `chosen` rows and itself, by brute force.

    The densities of reference rows are those among the reference alone.
    """
    _, images, valid, _, _ = everything(root)
    inside = np.flatnonzero(chosen & valid)
    k, lid_k = OPTIONS["k"], OPTIONS["lid_k"]
    reference = images[inside].astype(np.float64)

    def nearest(row):
        distance = np.sqrt(((reference - images[row].astype(np.float64)) ** 2).sum(axis=1))
        distance = distance.astype(np.float32).astype(np.float64)
        distance[inside == row] = np.inf
        order = np.argsort(distance, kind="stable")
        order = order[np.isfinite(distance[order])]
        return distance[order], order

    def lid(distance, k):
        near = distance[:k]
        return -len(near) / np.log(near / near[-1]).sum()

    lists = {row: nearest(row) for row in inside}
    far = [lists[row][0][:k][-1] for row in inside]
    lids = [lid(lists[row][0], k) for row in inside]
    out = {name: np.full(len(valid), np.nan) for name in NAMES.values()}
    for row in np.flatnonzero(valid):
        distance, order = nearest(row)
        own = distance[:k][-1]
        ratios = [own / far[o] for o in order[:k]]
        out["k_distance"][row] = own
        out["slof"][row] = np.mean(ratios)
        out["dao"][row] = np.mean([r ** lids[o] for r, o in zip(ratios, order[:k], strict=True)])
        out["lid_mle"][row] = lid(distance, lid_k)
    return out


def lowest(root, size):
    uids, _, valid, _, _ = everything(root)
    hashes = row_hashes(uids, OPTIONS["seed"])
    chosen = np.zeros(len(valid), bool)
    chosen[np.flatnonzero(valid)[np.argsort(hashes[valid], kind="stable")][:size]] = True
    return chosen


def test_scores_against_a_sample_are_those_of_a_loop(tmp_path):
    root = folder_of(tmp_path / "out")
    assert run_score(root, "30").done == 4
    assert_columns(root, in_memory(root, lowest(root, 30)))


@pytest.mark.parametrize("texts", [False, True], ids=["images", "texts"])
def test_scores_against_all_rows_are_those_of_one_batch_in_memory(tmp_path, texts):
    root = folder_of(tmp_path / "out")
    run_score(root, "all", texts=texts)
    _, images, valid, captions, text_valid = everything(root)
    expected = published_scores(
        images,
        captions if texts else None,
        k=OPTIONS["k"],
        lid_k=OPTIONS["lid_k"],
        valid=valid,
        text_valid=text_valid if texts else None,
    )
    # Lists hold float32 distances, which DAO raises to powers of up to a hundred.
    assert_columns(root, expected, tolerance=1e-4)


def test_scores_in_batches_are_those_of_each_batch_in_memory(tmp_path):
    root = folder_of(tmp_path / "out")
    run_score(root, "batch40")
    uids, images, valid, _, _ = everything(root)
    scored = ok_rows(read_members(OutputFolder.open(root)))
    count = round(scored / 40)
    assert count > 1
    deal = np.array([int(h) * count >> 64 for h in row_hashes(uids, OPTIONS["seed"])])
    expected = {name: np.full(len(valid), np.nan) for name in NAMES.values()}
    for batch in range(count):
        rows = np.flatnonzero((deal == batch) & valid)
        found = published_scores(images[rows], k=OPTIONS["k"], lid_k=OPTIONS["lid_k"])
        for name in expected:
            expected[name][rows] = found[name]
    assert_columns(root, expected, tolerance=1e-4)


def test_several_references_give_the_columns_of_each_alone(tmp_path):
    several, alone = folder_of(tmp_path / "several"), folder_of(tmp_path / "alone")
    run_score(several, "30,all,batch40")
    held = scores_of(several)[1]
    for reference, suffix in (("30", ""), ("all", "_all"), ("batch40", "_batch40")):
        run_score(alone, reference)
        for name, values in scores_of(alone)[1].items():
            assert np.array_equal(values, held[name + suffix], equal_nan=True)
    assert len(held) == 12


@pytest.mark.parametrize("reference", ["30", "all", "batch40"])
def test_how_rows_are_split_over_shards_changes_no_score(tmp_path, reference):
    split, whole = folder_of(tmp_path / "split"), tmp_path / "whole"
    parts = [made_shard(name, rows, ord(name)).pairs for name, rows in ROWS.items()]
    one = shard_of("all", sum(ROWS.values()), uids=pa.concat_arrays([p.uid for p in parts]))
    sides = [joined([p.image for p in parts]), joined([p.texts[""] for p in parts])]
    pairs = dataclasses.replace(one.pairs, image=sides[0], texts={"": sides[1]})
    make_folder(whole, [dataclasses.replace(one, pairs=pairs, states=states_of(pairs))])
    for root in (split, whole):
        run_score(root, reference)
    (one, first), (other, second) = scores_of(split), scores_of(whole)
    assert one.equals(other)
    for name in first:
        assert np.allclose(first[name], second[name], rtol=1e-5, equal_nan=True)


def test_new_shards_are_scored_against_the_recorded_reference_until_told_to_refit(tmp_path):
    root = folder_of(tmp_path / "out")
    run_score(root, "30,all")
    before, fitted = tables(root), fit_of(root)
    chosen = np.append(lowest(root, 30), np.zeros(50, bool))
    add_shard(root, "e", 50)
    assert run_score(root, "30,all").done == 1
    assert fit_of(root) == fitted
    after = tables(root)
    held = {name for name in before if not name.startswith("wide")}
    assert all(after[name] == before[name] for name in held)
    assert_columns(root, in_memory(root, chosen))
    inside = np.append(np.ones(126, bool), np.zeros(50, bool))
    assert_columns(root, in_memory(root, inside), "_all")

    assert run_score(root, "30,all", refit=True).done == 5
    assert fit_of(root) != fitted
    assert_columns(root, in_memory(root, lowest(root, 30)))
    assert run_score(root, "30,all").done == 0
    assert run_score(root, "30,all", refit=True).done == 0  # nothing new to fit to


def test_options_stay_until_others_are_given(tmp_path):
    root = folder_of(tmp_path / "out")
    run_score(root, "30")
    assert clipsieve.score(root, ["density"], device="cpu").done == 0
    other = {"density": {"k": 3}}
    assert clipsieve.score(root, ["density"], device="cpu", scorer_options=other).done == 4
    options = manifest_of(root).scorers()["density"].options
    assert options == {**OPTIONS, "reference": "30", "k": 3}


def test_a_shard_that_changed_makes_a_reference_of_all_rows_be_fitted_again(tmp_path, capsys):
    root = folder_of(tmp_path / "out")
    run_score(root, "all")
    shard_writer(root).commit(shard_of("b", 30, seed=1000, version="2"))
    capsys.readouterr()
    assert run_score(root, "all").done == 4
    assert "density: fitted again to 131 rows of 4 shards" in capsys.readouterr().err
    assert_columns(root, in_memory(root, np.ones(131, bool)))


@pytest.mark.parametrize("reference", ["30", "all", "batch40"])
@pytest.mark.parametrize("rows", [{"d": 1}, {"d": 1, "f": 1}, {"g": 4}], ids=len)
def test_a_dataset_with_fewer_rows_than_k_is_scored_with_what_there_is(tmp_path, rows, reference):
    root = folder_of(tmp_path / "out", rows)
    run_score(root, reference)
    columns = scores_of(root)[1]
    count = sum(rows.values())
    assert np.isnan(columns["density_kdist"]).tolist() == [count == 1] * count


@pytest.mark.parametrize("reference", ["auto", "all", "batch40"])
@pytest.mark.parametrize(
    ("shards", "scored"),
    [
        ([shard_of("a", 30), shard_of("b", 0, uids=pa.array([], pa.string()))], 30),
        ([shard_of("a", 5, no_image=range(5))], 0),
        ([shard_of("a", 5, no_image=range(5)), shard_of("b", 30, seed=3)], 30),
        ([shard_of("a", 30, uids=pa.array(range(30)))], 30),
        ([shard_of("a", 30, uids=pa.array([bytes([n]) for n in range(30)]))], 30),
        ([shard_of("a", 30, uids=pa.array([None] * 30, pa.string()))], 30),
    ],
    ids=["no rows", "no images", "a shard without images", "ints", "bytes", "no uids"],
)
def test_every_row_with_an_image_is_scored_whatever_the_shard(tmp_path, reference, shards, scored):
    make_folder(tmp_path / "out", shards)
    run_score(tmp_path / "out", reference)
    values = scores_of(tmp_path / "out")[1]["density_kdist"]
    assert int(np.isfinite(values).sum()) == scored
    assert len(values) == sum(len(shard.pairs) for shard in shards)


def test_a_folder_of_an_older_layout_is_refused_and_left_as_it_is(tmp_path):
    root = folder_of(tmp_path / "out")
    content = json.loads((root / "dataset.json").read_text())
    old = json.dumps({**content, "layout_version": "1", "options": {}, "fits": {}})
    (root / "dataset.json").write_text(old)
    before = tables(root)
    with pytest.raises(
        UsageError, match=r"layout version 1, of an earlier clipsieve; .* run again"
    ):
        run_score(root, "30")
    assert tables(root) == before and (root / "dataset.json").read_text() == old


def test_a_damaged_fit_is_made_again_of_the_shards_it_was_made_of(tmp_path):
    root = folder_of(tmp_path / "out")
    run_score(root, "30")
    (fit,) = root.glob("fits/density/*.npz")
    before = fit.read_bytes()
    fit.write_bytes(before[:200])
    add_shard(root, "e", 50)
    assert run_score(root, "30").done == 1
    assert fit.read_bytes() == before


def test_a_damaged_fit_of_shards_that_are_gone_is_made_anew(tmp_path):
    root = folder_of(tmp_path / "out")
    run_score(root, "30")
    (fit,) = root.glob("fits/density/*.npz")
    fit.write_bytes(fit.read_bytes()[:200])
    for path in root.glob("**/a.parquet"):
        path.unlink()
    assert run_score(root, "30").done == 3
    assert len(list(root.glob("fits/density/*.npz"))) == 1 and not fit.exists()


KILLED_AT = {
    "the first lists": "neighbours/*/image/a.parquet",
    "the fit": "fits/density/*.npz",
    "the first scores": "scores/density/*/a.parquet",
    "the wide table": "wide/*/part-*",
}


@pytest.mark.parametrize(
    ("moment", "workers"), [*((moment, 1) for moment in KILLED_AT), ("the first scores", 2)]
)
def test_a_kill_at_any_stage_is_made_good(tmp_path, moment, workers):
    undisturbed, out = folder_of(tmp_path / "undisturbed"), tmp_path / "out"
    shutil.copytree(undisturbed, out)
    shutil.rmtree(out / "wide")
    shutil.rmtree(undisturbed / "wide")
    options = {"reference": "30,all", **OPTIONS}
    given = {"scorer_options": {"density": options}, "run_id": "fixed"}
    clipsieve.score(undisturbed, ["density"], device="cpu", **given)
    words = ["score", str(out), "--scorers", "density", "--device", "cpu", "--run-id", "fixed"]
    words += ["--workers", str(workers)]
    words += [w for n, v in options.items() for w in ("--option", f"density.{n}={v}")]
    pattern = KILLED_AT[moment]
    with start(words) as process:
        wait_for(lambda: any(out.glob(pattern)) or process.poll() is not None, moment)
        process.kill()
        process.wait()
    if moment != "the wide table":  # little is left then
        assert process.returncode == -signal.SIGKILL, "the kill came too late"
    again = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert tables(out) == tables(undisturbed)
    assert leftovers(out) == []
    one, other = (json.loads((r / "dataset.json").read_text()) for r in (out, undisturbed))
    assert one == other
    (one,), (other,) = (list(root.glob("fits/density/*.npz")) for root in (out, undisturbed))
    assert one.name == other.name and one.read_bytes() == other.read_bytes()


def test_sigterm_during_the_fit_leaves_work_that_the_next_call_does(tmp_path):
    root = folder_of(tmp_path / "out", {chr(ord("a") + n): 300 for n in range(12)})
    words = ["score", str(root), "--scorers", "density", "--device", "cpu"]
    with start(words) as process:
        wait_for(lambda: any(root.glob("fits/density/*.json")), "the fit")
        os.kill(process.pid, signal.SIGTERM)
        code = process.wait()
    assert code in (0, 143)
    assert run_score(root, "auto").exit_code == 0
