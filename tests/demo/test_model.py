"""The shipped model is small and good, and its training code runs."""

import dataclasses
import json

import numpy as np
import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from sklearn.metrics import roc_auc_score

from clipsieve.demo import TINY_MERGES, TINY_MODEL, vocabulary
from clipsieve.demo.captions import Caption, Thing
from clipsieve.demo.evaluate import FLOORS, TinyModel, auroc, evaluate, main, recall_at_one
from clipsieve.demo.pairs import make_pairs, model_view
from clipsieve.demo.samples import CLEAN, TRAINING
from clipsieve.demo.scenes import make_scene
from clipsieve.demo.train import caption_variants, draw_variants, train


def test_shipped_files_are_at_most_two_megabytes():
    names = {path.name for path in TINY_MODEL.iterdir()}
    assert names == {"open_clip_config.json", "open_clip_model.safetensors", TINY_MERGES.name}
    assert sum(path.stat().st_size for path in TINY_MODEL.iterdir()) <= 2_000_000


def test_the_configuration_names_no_path():
    assert "bpe_path" not in (TINY_MODEL / "open_clip_config.json").read_text()


def test_the_shipped_model_reaches_every_floor():
    quality = dataclasses.asdict(evaluate(count=1500))
    for name, floor in dataclasses.asdict(FLOORS).items():
        assert quality[name] >= floor, f"{name} is {quality[name]:.4f}, the floor {floor}"


def test_evaluation_prints_measured_values_beside_floors(capsys):
    main(["--pairs", "100"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["measured", "floor"]
    assert [line.split()[0] for line in lines[1:]] == list(dataclasses.asdict(FLOORS))


def test_pairs_are_preprocessed_as_open_clip_does_it():
    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{TINY_MODEL}")
    image = make_scene(np.random.default_rng(0)).image
    expected = preprocess(image).permute(1, 2, 0).numpy()
    assert np.allclose(model_view(image) / np.float32(127.5) - 1, expected, atol=1e-5)


def test_shipped_tokens_are_those_of_the_full_tokenizer():
    small, full = SimpleTokenizer(bpe_path=str(TINY_MERGES)), SimpleTokenizer()
    assert small.vocab_size == vocabulary.VOCABULARY_SIZE
    captions = [str(caption) for caption in make_pairs(11, 1000, TRAINING).captions]
    vocabulary.check_same_tokens(small, full, captions)


def test_texts_split_differently_are_reported():
    small, full = SimpleTokenizer(bpe_path=str(TINY_MERGES)), SimpleTokenizer()
    with pytest.raises(ValueError, match="splits 'xylophonist' into"):
        vocabulary.check_same_tokens(small, full, ["xylophonist"])


def test_too_many_words_for_the_vocabulary_are_refused():
    full = SimpleTokenizer()
    words = [full.decoder[token].removesuffix("</w>") for token in range(5000, 8000)]
    with pytest.raises(ValueError, match=r"the texts need \d+ merges .* room for 1022"):
        vocabulary.trim_merges(full, words)


def test_pairs_do_not_depend_on_processes():
    alone, shared = make_pairs(3, 1100, TRAINING), make_pairs(3, 1100, TRAINING, processes=2)
    assert np.array_equal(alone.images, shared.images)
    assert alone.captions == shared.captions
    assert alone.class_names == shared.class_names


def test_auroc_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    positives, negatives = rng.integers(0, 9, 200) * 1.0, rng.integers(0, 7, 150) * 1.0
    labels = np.r_[np.ones(200), np.zeros(150)]
    expected = roc_auc_score(labels, np.r_[positives, negatives])
    assert auroc(positives, negatives) == pytest.approx(expected)


def test_recall_counts_within_blocks_of_100():
    vectors = np.tile(np.eye(100, dtype=np.float32), (2, 1))
    assert recall_at_one(vectors, vectors) == 1.0
    assert recall_at_one(vectors, np.roll(vectors, 1, axis=0)) == 0.0
    with pytest.raises(ValueError, match="at least 100 pairs, got 99"):
        recall_at_one(vectors[:99], vectors[:99])


def test_caption_variants_leave_out_background_colours_or_both():
    caption = Caption((Thing("star", "red"),), background=" over blue")
    texts = [variant[0] for variant in caption_variants([caption])]
    assert texts == ["a red star over blue", "a red star", "a star over blue", "a star"]


def test_variants_are_drawn_at_the_stated_rates():
    generator = torch.Generator().manual_seed(0)
    several = torch.arange(40_000) % 2 == 1
    variants = draw_variants(several, 0.4, generator)
    colourless = (variants >= 2).float()
    assert colourless[~several].mean().item() == pytest.approx(0.4, abs=0.015)
    assert colourless[several].mean().item() == pytest.approx(0.2, abs=0.015)
    bare = (variants % 2 == 1).float()
    assert bare[variants >= 2].mean().item() == pytest.approx(0.7, abs=0.02)
    assert bare[variants < 2].mean().item() == pytest.approx(0.25, abs=0.02)


def test_training_writes_a_model_that_loads(tmp_path):
    pairs = make_pairs(1, 128, CLEAN)
    train(tmp_path, pairs, steps=3, batch_size=32)
    assert {path.name for path in tmp_path.iterdir()} == {
        path.name for path in TINY_MODEL.iterdir()
    }
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    assert config == json.loads((TINY_MODEL / "open_clip_config.json").read_text())
    embedded = TinyModel(tmp_path).embed_images(pairs.images[:4])
    assert embedded.shape == (4, 128)
    assert np.allclose(np.linalg.norm(embedded, axis=1), 1, atol=1e-5)
