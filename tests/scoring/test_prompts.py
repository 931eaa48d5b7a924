"""Prompt sets: encoded once for a model, and their prototypes as open_clip makes them."""

import dataclasses

import numpy as np
import open_clip
import pytest
import torch

from clipsieve.clip.encode import Encoder
from clipsieve.clip.model import identify, load_model
from clipsieve.control import Control
from clipsieve.errors import ClipsieveError, LedgerError
from clipsieve.scorers.base import PromptSet
from clipsieve.scorers.text_map import read_text_map
from clipsieve.scoring.prompts import (
    PromptStage,
    cut_texts,
    load_prototypes,
    prompt_sets,
    prototypes,
)
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import EmbeddingsEntry
from tests.scoring.folders import (
    InProcess,
    Silent,
    basis_of,
    make_folder,
    make_shard,
    pairs_of,
    read_scores,
    score_folder,
)
from tests.scoring.toys import CLASSES, RAW, Classes, Plain

EMBEDDINGS = EmbeddingsEntry("tiny", "0123456789ab")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    return load_model("tiny", None, CPU, "float32")


def naive_prototypes(prompts, vectors):
    """Loops over classes and texts: mean of the (unit) vectors, to unit norm."""
    left, rows = list(vectors.astype(np.float64)), []
    for texts in prompts.texts:
        own = [left.pop(0) for _ in texts]
        if prompts.normalize_texts:
            own = [vector / np.sqrt((vector**2).sum()) for vector in own]
        mean = sum(own) / len(own)
        rows.append(mean / np.sqrt((mean**2).sum()))
    return np.array(rows)


TEXTS = (("a", "b", "c"), ("d",), ("e", "f"))


@pytest.mark.parametrize("normalize", [True, False], ids=["unit", "raw"])
def test_prototypes_equal_a_naive_mean(normalize):
    prompts = PromptSet(("x", "y", "z"), TEXTS, normalize)
    lengths = np.array([1, 10, 0.1, 3, 5, 0.2])[:, None]
    vectors = (np.random.default_rng(0).normal(size=(6, 7)) * lengths).astype(np.float32)
    made = prototypes(prompts, vectors)
    assert made.shape == (3, 7)
    assert made.dtype == np.float64
    assert np.allclose(made, naive_prototypes(prompts, vectors), atol=1e-12)
    assert np.allclose(np.linalg.norm(made, axis=1), 1, atol=1e-12)
    other = prototypes(dataclasses.replace(prompts, normalize_texts=not normalize), vectors)
    assert np.abs(made[0] - other[0]).max() > 0.01
    assert np.allclose(made[1], other[1])  # one text: its direction either way


def test_prototypes_are_those_of_open_clips_zero_shot_classifier(model, tmp_path):
    templates = ("a photo of a {}.", "a drawing of two {}s.", "{}")
    names = ("cat", "dog", "red square")
    prompts = PromptSet.from_templates(names, templates)
    weights = open_clip.build_zero_shot_classifier(
        model.module,
        model.tokenize,
        names,
        [lambda name, template=template: template.format(name) for template in templates],
    )
    folder = OutputFolder.open(tmp_path)
    run_stage(folder, model, (prompts,))
    made = load_prototypes(folder, EMBEDDINGS, [prompts])[prompts]
    assert np.abs(made - weights.T.numpy()).max() < 1e-5


@pytest.mark.parametrize(
    "vectors",
    [
        [[1, 2], [3, 4], [-3, -4]],
        [[1, 2], [0, 0], [0, 0]],
        [[1, 2], [np.nan, 1], [3, 4]],
        [[1, 2], [3, 4], [np.inf, 1]],
    ],
    ids=["opposite", "zero", "nan", "inf"],
)
@pytest.mark.parametrize("normalize", [True, False], ids=["unit", "raw"])
def test_a_class_without_a_prototype_is_refused_by_name(vectors, normalize):
    prompts = PromptSet(("fine", "amiss"), (("a",), ("b", "c")), normalize)
    with pytest.raises(
        ClipsieveError, match=r"class 'amiss' has no prototype: .* change its texts"
    ):
        prototypes(prompts, np.array(vectors, np.float32))


def test_vectors_that_cancel_out_but_for_rounding_are_refused():
    angles = np.deg2rad([0, 120, 240])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    with pytest.raises(ClipsieveError, match="class 'x' has no prototype"):
        prototypes(PromptSet(("x",), (("a", "b", "c"),)), vectors)


def stage_for(folder, model, prompts, control=None):
    return PromptStage(
        out=folder.root,
        run_id="run",
        device="cpu",
        control=control or Control("prompts", folder.root),
        model=model.identity,
        embeddings=EMBEDDINGS,
        prompts=prompts,
    )


def run_stage(folder, model, prompts, control=None):
    """Run the stage as a driver does; its report."""
    stage = stage_for(folder, model, prompts, control)
    return InProcess().run(stage, stage.elements())


def files(folder):
    return sorted(folder.files.list_files("prompts/tiny/rev=0123456789ab"))


def test_each_set_is_encoded_once_and_kept_by_its_key(model, tmp_path):
    folder = OutputFolder.open(tmp_path)
    stage = stage_for(folder, model, (CLASSES, RAW, CLASSES))
    assert [(element.name, element.weight) for element in stage.elements()] == [
        (CLASSES.key, 6),
        (RAW.key, 6),
    ]
    report = run_stage(folder, model, (CLASSES, RAW, CLASSES))
    assert report.done == (CLASSES.key, RAW.key)
    assert files(folder) == sorted([f"{CLASSES.key}.npz", f"{RAW.key}.npz"])
    assert stage.elements() == []
    more = PromptSet.from_templates(["bird"])
    assert run_stage(folder, model, (CLASSES, more)).done == (more.key,)


@pytest.mark.parametrize("chunk", [2, 4096])
def test_means_are_those_of_the_texts_of_each_class(model, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("clipsieve.scoring.prompts.CHUNK_TEXTS", chunk)
    folder = OutputFolder.open(tmp_path)
    prompts = PromptSet(("x", "y"), (("a cat", "a dog"), ("a cat", "two cats", "a dog")), False)
    run_stage(folder, model, (prompts,))
    stored = folder.read_arrays(f"prompts/tiny/rev=0123456789ab/{prompts.texts_key}.npz")
    encoder = Encoder(model)
    expected = [encoder.encode_texts(list(texts)).mean(axis=0) for texts in prompts.texts]
    assert np.allclose(stored["means"], expected, atol=1e-5)
    assert stored["cut"] == 0


def test_prompts_that_are_too_long_are_counted(model, tmp_path):
    context = model.identity.context_length
    fits = " ".join(["a"] * (context - 2))  # with its start and end the whole context
    folder = OutputFolder.open(tmp_path)
    prompts = PromptSet(("x", "y"), ((fits, "a cat"), (fits + " a", fits + " a a")))
    run_stage(folder, model, (prompts,))
    assert cut_texts(folder, EMBEDDINGS, prompts) == 2


def test_sets_that_differ_in_what_is_done_with_the_means_are_encoded_once(model, tmp_path):
    np.save(tmp_path / "map.npy", np.diag(np.linspace(1, 2, 128)))
    mapped = dataclasses.replace(CLASSES, text_map=read_text_map(str(tmp_path / "map.npy")))
    raw = dataclasses.replace(CLASSES, normalize=False)
    folder = OutputFolder.open(tmp_path / "out")
    assert run_stage(folder, model, (CLASSES, mapped, raw)).done == (CLASSES.texts_key,)
    made = load_prototypes(folder, EMBEDDINGS, [CLASSES, mapped, raw])
    means = made[raw]
    assert np.allclose(made[CLASSES], means / np.linalg.norm(means, axis=1, keepdims=True))
    expected = means * np.linspace(1, 2, 128)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(made[mapped], expected, rtol=1e-12)
    assert np.abs(made[mapped] - made[CLASSES]).max() > 0.01


def test_a_set_is_encoded_once_for_a_user(tiny_folder, calls, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPSIEVE_CACHE", str(tmp_path / "cache"))
    engine = InProcess()
    score_folder(tiny_folder, ["toy.classes"], engine=engine)
    (revision,) = tiny_folder.files.list_folders("prompts/tiny")
    name = f"prompts/tiny/{revision}/{CLASSES.texts_key}.npz"
    kept = tiny_folder.files.read(name)
    cached = OutputFolder.open(tmp_path / "cache")
    (entry,) = [
        e for e in cached.files.list_files("prompts") if cached.files.read(f"prompts/{e}") == kept
    ]

    tiny_folder.files.delete(name)
    score_folder(tiny_folder, ["toy.classes", "toy.plain"], engine=engine)
    assert [stage for stage, _ in engine.ran].count("prompts") == 1
    assert tiny_folder.files.read(name) == kept

    tiny_folder.files.delete(name)
    (tmp_path / "cache" / "prompts" / entry).write_bytes(b"damaged")
    score_folder(tiny_folder, ["toy.classes"], engine=engine)
    assert tiny_folder.files.read(name) == cached.files.read(f"prompts/{entry}") == kept


def test_a_cache_that_cannot_be_written_is_said_and_stops_nothing(
    tiny_folder, calls, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CLIPSIEVE_CACHE", str(tmp_path / "file"))
    said: list[str] = []
    monkeypatch.setattr(Silent, "report", lambda self, event, text, **fields: said.append(text))
    assert score_folder(tiny_folder, ["toy.classes"]).left == 0
    assert any("cannot be written" in text and "set CLIPSIEVE_CACHE" in text for text in said)


def test_other_embeddings_have_their_own_prompts(model, tmp_path):
    folder = OutputFolder.open(tmp_path)
    run_stage(folder, model, (CLASSES,))
    other = dataclasses.replace(
        stage_for(folder, model, (CLASSES,)), embeddings=EmbeddingsEntry("tiny", "ba9876543210")
    )
    assert [element.name for element in other.elements()] == [CLASSES.key]
    with pytest.raises(LedgerError, match="is missing; "):
        load_prototypes(folder, other.embeddings, [CLASSES])


def test_a_stopped_stage_begins_no_other_set(model, tmp_path):
    folder = OutputFolder.open(tmp_path)
    control = Control("stopped", folder.root)
    control.stop("test")
    assert run_stage(folder, model, (CLASSES,), control).done == ()
    assert files(folder) == []


def test_sets_of_several_scorers_are_each_there_once():
    assert prompt_sets([Classes(), Plain(), Classes()]) == (CLASSES, RAW)


@pytest.fixture
def tiny_folder(tmp_path, monkeypatch):
    """An output folder of the tiny model, with made-up embeddings; nothing is cached."""
    monkeypatch.setenv("CLIPSIEVE_CACHE", str(tmp_path / "user-cache"))
    identity, _ = identify("tiny", None, "float32")
    shards = [make_shard("a", 9, no_image=[2], dim=128), make_shard("b", 4, seed=1, dim=128)]
    return make_folder(tmp_path / "out", shards, identity)


def test_a_second_run_encodes_nothing(tiny_folder, calls):
    engine = InProcess()
    score_folder(tiny_folder, ["toy.classes"], engine=engine)
    assert engine.ran == [("prompts", 2), ("score", 2)]
    score_folder(tiny_folder, ["toy.classes", "toy.plain"], engine=engine)
    assert engine.ran[2:] == [("score", 2)]
    (kept,) = tiny_folder.files.list_folders("prompts/tiny")
    assert len(tiny_folder.files.list_files(f"prompts/tiny/{kept}")) == 2


def test_cosines_with_classes_are_those_of_a_naive_loop(tiny_folder, calls):
    score_folder(tiny_folder, ["toy.classes"])
    classes = load_prototypes(tiny_folder, basis_of(tiny_folder).embeddings, [CLASSES])[CLASSES]
    for shard in ("a", "b"):
        image = pairs_of(tiny_folder).read(shard, ()).image
        stored = read_scores(tiny_folder, "toy", shard).to_pydict()
        for row, vector in enumerate(image.vectors.astype(np.float64)):
            if not image.valid[row]:
                assert (stored["best_class"][row], stored["best_cosine"][row]) == (None, None)
                continue
            cosines = [float(vector @ each / np.sqrt(vector @ vector)) for each in classes]
            assert stored["best_class"][row] == int(np.argmax(cosines))
            assert stored["best_cosine"][row] == pytest.approx(max(cosines), abs=1e-6)


def test_a_stopped_run_scores_nothing_before_all_prompts_are_there(tiny_folder, calls):
    engine = InProcess(stop_in=0, stop_after=1)
    scored = score_folder(tiny_folder, ["toy.classes"], engine=engine)
    assert (scored.left, [name for name, _ in engine.ran]) == (2, ["prompts"])
    engine = InProcess()
    score_folder(tiny_folder, ["toy.classes"], engine=engine)
    assert engine.ran == [("prompts", 1), ("score", 2)]
