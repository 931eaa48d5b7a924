"""Prompt sets: encoded once for a model, and their prototypes as open_clip makes them."""

import dataclasses

import numpy as np
import open_clip
import pytest
import torch

from clipsieve.clip.model import identify, load_model
from clipsieve.control import Control
from clipsieve.errors import ClipsieveError, LedgerError
from clipsieve.scorers.base import PromptSet
from clipsieve.scoring.prompts import PromptStage, load_prototypes, prompt_sets, prototypes
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import EmbeddingsEntry
from tests.scoring.folders import (
    InProcess,
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


def test_vectors_are_those_of_the_texts_in_their_order(model, tmp_path):
    from clipsieve.clip.encode import Encoder

    folder = OutputFolder.open(tmp_path)
    prompts = PromptSet(("x", "y"), (("a cat", "a dog"), ("a cat", "two cats", "a dog")))
    run_stage(folder, model, (prompts,))
    stored = folder.read_arrays(f"prompts/tiny/rev=0123456789ab/{prompts.key}.npz")["vectors"]
    encoder = Encoder(model)
    expected = [encoder.encode_texts([text])[0] for texts in prompts.texts for text in texts]
    assert np.allclose(stored, expected, atol=1e-5)
    assert np.array_equal(stored[0], stored[2])


def test_other_embeddings_have_their_own_prompts(model, tmp_path):
    folder = OutputFolder.open(tmp_path)
    run_stage(folder, model, (CLASSES,))
    other = dataclasses.replace(
        stage_for(folder, model, (CLASSES,)), embeddings=EmbeddingsEntry("tiny", "ba9876543210")
    )
    assert [element.name for element in other.elements()] == [CLASSES.key]
    with pytest.raises(LedgerError, match="is missing or damaged"):
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
def tiny_folder(tmp_path):
    """An output folder of the tiny model, with made-up embeddings."""
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
