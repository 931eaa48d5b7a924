"""Scorers learn on another folder, and stay with it until another is named."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from clipsieve.errors import UsageError
from clipsieve.scorers.registry import make_scorers
from clipsieve.scoring.prompts import prompt_sets
from clipsieve.store import names
from tests.scoring.folders import (
    DIM,
    LOGIT_SCALE,
    MODEL,
    InProcess,
    make_folder,
    make_shard,
    pairs_of,
    read_scores,
    score_folder,
    writer_of,
)

CLASSES = ["one", "two", "three"]
OTHERS = ["red", "green"]
LEARNT = ("ood.mahalanobis", "ood.residual", "ood.vim", "ood.kl_matching", "ood.knn")
#: Another folder's rows by shard; two names are those of shards of `folder` too.
CLEAN = {"a": 50, "c": 31, "x": 60}


def options_of(classes=CLASSES):
    return {"ood": {"classes": classes}}


def put_prompts(folder, classes, seed):
    """Encoded prompts made up, so that no model is needed."""
    entry = folder.require_manifest().embeddings
    (prompts,) = prompt_sets(make_scorers(["ood.mahalanobis"], options_of(classes)))
    means = np.random.default_rng(seed).normal(size=(len(classes), DIM))
    name = names.prompts(entry.model, entry.revision, prompts.texts_key)
    folder.write_arrays(name, {"means": means, "cut": np.array(0)})
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def with_prompts(folder):
    put_prompts(folder, CLASSES, 1)
    put_prompts(folder, OTHERS, 2)
    return folder


@pytest.fixture
def folder(folder):
    """A folder with four shards and the prompts of two lists of classes."""
    return with_prompts(folder)


@pytest.fixture
def clean(tmp_path):
    """Another folder of the same model."""
    shards = [
        make_shard(
            name,
            rows,
            seed=50 + at,
            uids=[f"clean-{name}-{row}" for row in range(rows)],
            no_image=[2],
            no_text=[4],
        )
        for at, (name, rows) in enumerate(CLEAN.items())
    ]
    return with_prompts(make_folder(tmp_path / "clean", shards))


def entry_of(folder, scorer):
    return folder.require_manifest().scorers()[scorer]


def bytes_below(folder, *tops):
    """Bytes of all files below some folders of an output folder, and of its manifest."""
    root = Path(folder.root)
    files = [root / "dataset.json", *(p for top in tops for p in (root / top).rglob("*"))]
    return {str(path.relative_to(root)): path.read_bytes() for path in files if path.is_file()}


def unit_images(folder):
    """(N, D) unit vectors of all rows that have an image, and those of each shard."""
    shards = {}
    for shard in folder.shards():
        image = pairs_of(folder).read(shard, ()).image
        vectors = image.vectors.astype(np.float64)
        vectors[~image.valid] = np.nan
        shards[shard] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    every = np.concatenate(list(shards.values()))
    return every[~np.isnan(every[:, 0])], shards


@pytest.mark.parametrize("is_first", [True, False], ids=["learnt here", "learnt there before"])
def test_what_is_learnt_on_another_folder_is_what_that_folder_learns_itself(
    folder, clean, is_first
):
    engine = InProcess()
    if not is_first:
        score_folder(clean, LEARNT, options_of())
    score_folder(folder, LEARNT, options_of(), engine, learn_on=clean.root)
    passes = [("learn", 3), ("learn", 3)] if is_first else []
    assert engine.ran == [*passes, ("score", 4)]
    if is_first:
        score_folder(clean, LEARNT, options_of())
    for scorer in LEARNT:
        mine, theirs = entry_of(folder, scorer), entry_of(clean, scorer)
        assert (mine.learned_on, theirs.learned_on) == (clean.root, None)
        assert dataclasses.replace(mine, learned_on=None) == theirs
        assert mine.learned is not None
        description = folder.read_json(f"fits/{scorer}/{mine.learned}.json")
        assert description["learned_on"] == (clean.root if is_first else None)
        assert {m["shard"]: m["rows"] for m in description["members"]} == CLEAN
    arrays = [
        {name: data for name, data in bytes_below(each, "fits").items() if name.endswith(".npz")}
        for each in (folder, clean)
    ]
    assert arrays[0] == arrays[1] and len(arrays[0]) == len(LEARNT)


def test_scores_are_the_formulas_with_the_other_folders_statistics(folder, clean):
    score_folder(folder, LEARNT, options_of(), learn_on=clean.root)
    prototypes = put_prompts(clean, CLASSES, 1)
    learnt, _ = unit_images(clean)
    cosines = learnt @ prototypes.T
    classes = cosines.argmax(axis=1)
    means = np.array([learnt[classes == k].mean(axis=0) for k in range(3)])
    apart = learnt - means[classes]
    precision = np.linalg.inv(apart.T @ apart / len(learnt))
    _, vectors = np.linalg.eigh(learnt.T @ learnt / len(learnt))
    basis = vectors[:, : DIM - DIM // 2]
    alpha = LOGIT_SCALE * cosines.max(axis=1).mean()
    alpha /= np.linalg.norm(learnt @ basis, axis=1).mean()
    softmax = np.exp(LOGIT_SCALE * (cosines - cosines.max(axis=1, keepdims=True)))
    softmax /= softmax.sum(axis=1, keepdims=True)
    typical = np.array([softmax[classes == k].mean(axis=0) for k in range(3)])
    for shard, unit in unit_images(folder)[1].items():
        scores = read_scores(folder, "ood", shard)
        offset = unit[:, None] - means
        distance = np.einsum("nkd,de,nke->nk", offset, precision, offset).min(axis=1)
        residual = np.linalg.norm(unit @ basis, axis=1)
        logits = LOGIT_SCALE * unit @ prototypes.T
        logsumexp = np.log(np.exp(logits).sum(axis=1))
        odds = np.exp(logits - logsumexp[:, None])
        divergence = (odds[:, None] * np.log(odds[:, None] / typical)).sum(axis=2).min(axis=1)
        nearest = 1 - np.sort(unit @ learnt.T, axis=1)[:, -50]
        for column, expected in {
            "ood_mahalanobis": distance,
            "ood_residual": residual,
            "ood_vim": alpha * residual - logsumexp,
            "ood_kl_matching": divergence,
            "ood_knn": nearest,
        }.items():
            got = scores[column].to_numpy()
            assert np.allclose(got, expected, rtol=1e-5, atol=1e-6, equal_nan=True), column
            assert np.isnan(got).sum() == np.isnan(unit[:, 0]).sum()


def test_a_row_that_is_in_both_folders_is_not_its_own_neighbour(folder, clean):
    copy = make_shard("a", 30, seed=0, uids=[f"a-{row // 2}" for row in range(30)], no_image=[1, 5])
    writer_of(clean.root).commit(copy)  # shard "a" of the folder itself
    score_folder(folder, ["ood.knn"], {"ood.knn": {"k": 1}}, learn_on=clean.root)
    (learnt, _), (_, shards) = unit_images(clean), unit_images(folder)
    nearest = np.sort(1 - shards["a"] @ learnt.T, axis=1)
    assert np.nanmax(nearest[:, 0]) < 1e-6 < np.nanmin(nearest[:, 1])
    got = read_scores(folder, "ood", "a")["ood_knn"].to_numpy()
    assert np.allclose(got, nearest[:, 1], rtol=1e-5, atol=1e-6, equal_nan=True)


def test_rows_that_come_later_are_scored_with_what_was_learnt(folder, clean):
    score_folder(folder, LEARNT, options_of(), learn_on=clean.root)
    before = {scorer: entry_of(folder, scorer) for scorer in LEARNT}
    files = bytes_below(folder, "fits", "scores")
    shutil.rmtree(clean.root)  # what was learnt is in the folder itself
    writer_of(folder.root).commit(make_shard("later", 12, seed=99))
    engine = InProcess()
    score_folder(folder, LEARNT, options_of(), engine)
    assert engine.ran == [("score", 1)]
    assert {scorer: entry_of(folder, scorer) for scorer in LEARNT} == before
    assert files.items() <= bytes_below(folder, "fits", "scores").items()
    assert read_scores(folder, "ood", "later")["ood_mahalanobis"].null_count == 0


def test_the_same_folder_named_again_does_nothing(folder, clean):
    score_folder(folder, LEARNT, options_of(), learn_on=clean.root)
    writer_of(clean.root).commit(make_shard("later", 12, seed=99))  # only --refit looks again
    engine = InProcess()
    score_folder(folder, LEARNT, options_of(), engine, learn_on=clean.root)
    assert engine.ran == []


def test_what_must_be_learnt_anew_is_learnt_on_the_recorded_folder(folder, clean):
    score_folder(folder, ["ood.mahalanobis"], options_of(), learn_on=clean.root)
    engine = InProcess()
    score_folder(folder, ["ood.mahalanobis"], options_of(OTHERS), engine)
    assert engine.ran == [("learn", 3), ("score", 4)]
    entry = entry_of(folder, "ood.mahalanobis")
    assert entry.learned_on == clean.root
    score_folder(clean, ["ood.mahalanobis"], options_of(OTHERS))
    assert entry.learned == entry_of(clean, "ood.mahalanobis").learned


@pytest.mark.parametrize("refit", [False, True])
def test_a_recorded_folder_that_is_gone_is_said_with_the_cure(folder, clean, refit):
    score_folder(folder, ["ood.mahalanobis"], options_of(), learn_on=clean.root)
    shutil.move(clean.root, clean.root + "-moved")
    before = bytes_below(folder, ".")
    options = options_of(CLASSES if refit else OTHERS)
    cure = (
        rf"clean holds no clipsieve dataset .* --learn-on, or {folder.root} for the folder itself"
    )
    with pytest.raises(UsageError, match=cure):
        score_folder(folder, ["ood.mahalanobis"], options, refit=refit)
    assert bytes_below(folder, ".") == before
    score_folder(folder, ["ood.mahalanobis"], options, refit=refit, learn_on=folder.root)
    assert entry_of(folder, "ood.mahalanobis").learned_on is None


def test_refit_learns_again_on_the_recorded_folder(folder, clean):
    score_folder(folder, LEARNT, options_of(), learn_on=clean.root)
    before = entry_of(folder, "ood.vim")
    writer_of(clean.root).commit(make_shard("later", 40, seed=99))
    writer_of(folder.root).commit(make_shard("e", 9, seed=98))
    engine = InProcess()
    score_folder(folder, LEARNT, options_of(), engine, refit=True)
    assert engine.ran == [("learn", 4), ("learn", 4), ("score", 5)]
    again = entry_of(folder, "ood.vim")
    assert again.learned_on == clean.root and again.learned != before.learned
    score_folder(clean, LEARNT, options_of())
    assert all(entry_of(folder, name).revision == entry_of(clean, name).revision for name in LEARNT)


def test_naming_the_own_folder_goes_back_to_it(folder, clean):
    score_folder(folder, ["ood.mahalanobis"], options_of())
    own = entry_of(folder, "ood.mahalanobis")
    score_folder(folder, ["ood.mahalanobis"], options_of(), learn_on=clean.root)
    assert entry_of(folder, "ood.mahalanobis").revision != own.revision
    engine = InProcess()
    score_folder(folder, ["ood.mahalanobis"], options_of(), engine, learn_on=folder.root)
    assert engine.ran == []  # it was learnt and scored before, and is still there
    assert entry_of(folder, "ood.mahalanobis") == own
    assert own.learned_on is None


def test_only_scorers_that_are_asked_for_learn_elsewhere(folder, clean):
    both = ["ood.mahalanobis", "ood.residual", "ood.kl_matching"]
    score_folder(folder, both[:2], options_of())
    own = {name: entry_of(folder, name) for name in both[:2]}
    columns = {s: read_scores(folder, "ood", s)["ood_mahalanobis"] for s in folder.shards()}
    engine = InProcess()
    asked = both[1:]
    score_folder(folder, both, options_of(), engine, learn_on=clean.root, asked=asked)
    assert engine.ran == [("learn", 3), ("score", 4)]
    assert entry_of(folder, "ood.mahalanobis") == own["ood.mahalanobis"]
    assert [entry_of(folder, name).learned_on for name in asked] == [clean.root] * 2
    assert entry_of(folder, "ood.residual").revision != own["ood.residual"].revision
    for shard, column in columns.items():
        assert read_scores(folder, "ood", shard)["ood_mahalanobis"].equals(column)


def test_a_scorer_that_learns_nothing_records_no_folder(folder, clean):
    score_folder(folder, ["ood.msp", "ood.knn"], options_of(), learn_on=clean.root)
    assert entry_of(folder, "ood.msp").learned_on is None
    assert entry_of(folder, "ood.knn").learned_on == clean.root


def other_model(root):
    model = dataclasses.replace(MODEL, model="another", weights_sha256="1" * 64)
    return make_folder(root, [make_shard("a", 30)], model).root


def no_shards(root):
    return make_folder(root, []).root


def missing(root):
    return str(root)


def small(root):
    return make_folder(root, [make_shard("a", DIM)]).root


@pytest.mark.parametrize(
    ("source", "scorers", "options", "message"),
    [
        (
            other_model,
            ["ood.knn"],
            {},
            r"holds embeddings of another \(revision .* of toy \(revision .* of the same model",
        ),
        (no_shards, ["ood.knn"], {}, r"bad holds no shard yet; run `clipsieve run` first"),
        (missing, ["ood.knn"], {}, r"bad holds no clipsieve dataset \(no dataset.json\)"),
        (
            small,
            ["density"],
            {"density": {"reference": "all", "k": 3}},
            r"scorer density reads the neighbours of each row .* a sample as reference",
        ),
        (
            small,
            ["density"],
            {"density": {"reference": "4,batch20", "k": 3}},
            r"scorer density reads the neighbours of each row .* a sample as reference",
        ),
    ],
)
@pytest.mark.parametrize("refit", [False, True])
def test_a_folder_that_cannot_be_learnt_on_is_refused_and_nothing_changes(
    folder, tmp_path, source, scorers, options, message, refit
):
    score_folder(folder, ["ood.knn"])
    place = source(tmp_path / "bad")
    before = bytes_below(folder, ".")
    engine = InProcess()
    every = ["ood.knn", *(name for name in scorers if name != "ood.knn")]
    with pytest.raises(UsageError, match=message):
        score_folder(folder, every, options, engine, refit, learn_on=place)
    assert engine.ran == []
    assert bytes_below(folder, ".") == before
    assert (tmp_path / "bad").exists() == (source is not missing)


def test_a_refused_refit_keeps_what_was_learnt_on_that_folder(folder, clean):
    options = {"density": {"reference": "all", "k": 3}}
    score_folder(folder, ["ood.knn"], options, learn_on=clean.root)
    score_folder(folder, ["ood.knn", "density"], options)
    before = bytes_below(folder, ".")
    with pytest.raises(UsageError, match="scorer density reads the neighbours"):
        score_folder(folder, ["ood.knn", "density"], options, refit=True, learn_on=clean.root)
    assert bytes_below(folder, ".") == before


def test_too_few_rows_elsewhere_fail_by_name_and_leave_the_scores(folder, tmp_path):
    place = small(tmp_path / "bad")
    writer_of(place).commit(make_shard("a", DIM, no_image=[0]))  # one row fewer than components
    score_folder(folder, ["ood.knn", "ood.msp"], options_of())
    before = bytes_below(folder, "scores")
    message = r"scorer ood.vim learns of 7 rows with an image, .* 8 components need 8 rows"
    with pytest.raises(UsageError, match=message):
        score_folder(
            folder,
            ["ood.knn", "ood.msp", "ood.vim"],
            options_of(),
            learn_on=place,
            asked=["ood.vim"],
        )
    assert bytes_below(folder, "scores") == before
    assert not list(Path(folder.root).glob("fits/ood.vim/*.npz"))
