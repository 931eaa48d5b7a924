"""Models are loaded exactly, named exactly, and refused with a cure."""

import hashlib
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file

from clipsieve.clip.identity import ModelIdentity
from clipsieve.clip.model import (
    TINY_FOLDER,
    _activation,
    causal_text_tower,
    fetch_command,
    identify,
    load_model,
    logit_scale,
)
from clipsieve.clip.preprocess import Preprocess
from clipsieve.errors import UsageError, WeightsMissing
from tests.clip.models import CUT, WHOLE, config_of, load, write_model

CPU = torch.device("cpu")


class Boom:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_tiny_loads_without_network_and_says_what_it_is():
    model = load_model("tiny", None, CPU, "float32")
    identity = model.identity
    weights = (TINY_FOLDER / "open_clip_model.safetensors").read_bytes()
    assert identity.weights_sha256 == hashlib.sha256(weights).hexdigest()
    assert (identity.model, identity.pretrained, identity.slug) == ("tiny", None, "tiny")
    assert (identity.dim, identity.context_length, identity.dtype) == (128, 24, "float32")
    assert identity.quick_gelu is False
    assert list(identity.preprocess["size"]) == [64, 64]
    assert not model.module.training
    assert model.notes == ()


def test_weights_have_the_dtype_asked_for():
    model = load_model("tiny", None, CPU, "bfloat16")
    assert model.identity.dtype == "bfloat16"
    assert {p.dtype for p in model.module.parameters() if p.ndim > 1} == {torch.bfloat16}


def test_a_copied_folder_means_the_same_wherever_it_is(tmp_path):
    copies = [tmp_path / "a" / "model", tmp_path / "b"]
    for copy in copies:
        shutil.copytree(TINY_FOLDER, copy)
    first, second = (
        load_model(f"local-dir:{copy}", None, CPU, "float32").identity for copy in copies
    )
    assert first.identity_key() == second.identity_key()
    assert (first.slug, second.slug) == ("model", "b")
    tiny = load_model("tiny", None, CPU, "float32").identity
    assert first.weights_sha256 == tiny.weights_sha256


def test_other_weights_and_other_formats_mean_something_else(tmp_path):
    contents = []
    for seed, dtype in ((0, "float32"), (1, "float32"), (1, "bfloat16")):
        name = write_model(tmp_path / str(seed), "clip", seed)
        contents.append(load_model(name, None, CPU, dtype).identity.identity_key())
    assert all(a != b for a, b in pairwise(contents))
    assert contents[0]["weights_sha256"] != contents[1]["weights_sha256"]


def test_replaced_weights_have_another_hash(tmp_path):
    name = write_model(tmp_path, "clip", seed=0)
    before = load_model(name, None, CPU, "float32").identity.weights_sha256
    write_model(tmp_path, "clip", seed=1)
    assert load_model(name, None, CPU, "float32").identity.weights_sha256 != before


@pytest.mark.parametrize("config", [*CUT, *WHOLE])
def test_any_open_clip_class_loads_from_a_folder(tmp_path, config):
    model = load(tmp_path, config)
    text = config_of(config)["text_cfg"]
    assert (model.identity.dim, model.identity.context_length) == (16, text["context_length"])
    assert model.identity.quick_gelu is (config == "quick")


@pytest.mark.parametrize("config", CUT)
def test_causal_towers_that_pool_at_the_end_token_may_be_cut(tmp_path, config):
    assert causal_text_tower(load(tmp_path, config).module) is not None


@pytest.mark.parametrize("config", WHOLE)
def test_other_towers_are_never_cut(tmp_path, config):
    assert causal_text_tower(load(tmp_path, config).module) is None


def test_slug_names_model_and_tag():
    def slug(model, pretrained=None):
        return ModelIdentity(model, pretrained, "", False, 1, 1, {}, "float32").slug

    assert slug("ViT-B-32", "openai") == "ViT-B-32-openai"
    assert slug("hf-hub:laion/CLIP-x") == "hf-hub_laion_CLIP-x"
    assert slug("local-dir:/models/my clip/") == "my_clip"
    assert slug("ViT-B-32", "/weights/b32.safetensors") == "ViT-B-32-b32"


@pytest.mark.parametrize("model", ["ViT-B-32", "ViT-B/32"])
def test_quick_gelu_is_used_for_weights_trained_with_it(model):
    force, notes = _activation(model, "openai")
    assert force
    assert notes == [f"openai weights of {model} were trained with QuickGELU; using QuickGELU"]


@pytest.mark.parametrize(
    ("model", "pretrained"),
    [
        ("ViT-B-32-quickgelu", "openai"),
        ("ViT-B-32", "laion2b_s34b_b79k"),
        ("roberta-ViT-B-32", "laion2b_s12b_b32k"),
        ("tiny", None),
        ("hf-hub:a/b", None),
    ],
)
def test_matching_activation_is_left_alone(model, pretrained):
    assert _activation(model, pretrained) == (False, [])


def test_weights_trained_with_gelu_are_refused_by_a_quick_gelu_model():
    message = "'laion2b_s34b_b79k' is neither .* nor a tag of ViT-B-32-quickgelu; its tags: openai"
    with pytest.raises(UsageError, match=message):
        load_model("ViT-B-32-quickgelu", "laion2b_s34b_b79k", CPU, "float32")


def test_unknown_model_is_refused_with_close_names():
    with pytest.raises(UsageError, match=r"'ViT-B-33' is not known .* close names: .*ViT-B-32"):
        load_model("ViT-B-33", "openai", CPU, "float32")


def test_model_without_pretrained_is_refused_with_its_tags():
    with pytest.raises(UsageError, match="'ViT-B-32' needs --pretrained; its tags: openai, "):
        load_model("ViT-B-32", None, CPU, "float32")


def test_unknown_tag_is_refused_with_the_tags():
    with pytest.raises(UsageError, match="'opena' is neither a weights file nor a tag of ViT-B-32"):
        load_model("ViT-B-32", "opena", CPU, "float32")


@pytest.mark.parametrize("model", ["hf-hub:org/name", f"local-dir:{TINY_FOLDER}", "tiny"])
def test_pretrained_with_a_name_that_says_it_all_is_refused(model):
    with pytest.raises(UsageError, match="--pretrained openai has no meaning"):
        load_model(model, "openai", CPU, "float32")


def test_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"has no open_clip_config\.json; give a folder"):
        load_model(f"local-dir:{tmp_path}", None, CPU, "float32")


@pytest.mark.parametrize("text", ["{", '{"model_cfg": {}}', '{"model_cfg": {"embed_dim": 8}}'])
def test_folder_with_a_broken_config_is_refused(tmp_path, text):
    name = write_model(tmp_path, "clip")
    (tmp_path / "open_clip_config.json").write_text(text)
    with pytest.raises(UsageError, match="cannot be loaded"):
        load_model(name, None, CPU, "float32")


def test_folder_without_its_tokenizer_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    name = write_model(tmp_path, "custom")
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "org/none"
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="cannot be loaded"):
        load_model(name, None, CPU, "float32")


def test_weights_of_another_model_are_refused(tmp_path):
    name = write_model(tmp_path / "a", "clip")
    write_model(tmp_path / "b", "custom")
    shutil.copy(tmp_path / "b" / "open_clip_model.safetensors", tmp_path / "a")
    config = json.loads((tmp_path / "a" / "open_clip_config.json").read_text())
    config["model_cfg"]["embed_dim"] = 24
    (tmp_path / "a" / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="check that the weights belong to the model"):
        load_model(name, None, CPU, "float32")


@pytest.mark.parametrize("content", [b"", b"no weights at all, but long enough"])
def test_damaged_weights_are_refused(tmp_path, content):
    name = write_model(tmp_path, "clip")
    (tmp_path / "open_clip_model.safetensors").write_bytes(content)
    with pytest.raises(UsageError, match="cannot be loaded"):
        load_model(name, None, CPU, "float32")


@pytest.mark.parametrize(
    "file", ["open_clip_pytorch_model.bin", "pytorch_model.bin", "model.pth", "weights.pt"]
)
def test_pickled_weights_in_a_folder_are_never_opened(tmp_path, file):
    name = write_model(tmp_path / "model", "clip")
    (tmp_path / "model" / "open_clip_model.safetensors").unlink()
    (tmp_path / "model" / file).write_bytes(pickle.dumps(Boom(tmp_path / "boom")))
    with pytest.raises(WeightsMissing, match=r"has no weights; put open_clip_model\.safetensors"):
        load_model(name, None, CPU, "float32")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("file", ["open_clip_pytorch_model.bin", "aaa.bin"])
def test_pickled_weights_beside_safe_ones_are_not_opened(tmp_path, file):
    name = write_model(tmp_path / "model", "clip")
    (tmp_path / "model" / "open_clip_model.safetensors").rename(
        tmp_path / "model" / "model.safetensors"
    )
    (tmp_path / "model" / file).write_bytes(pickle.dumps(Boom(tmp_path / "boom")))
    identity = load_model(name, None, CPU, "float32").identity
    assert not (tmp_path / "boom").exists()
    safe = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert identity.weights_sha256 == hashlib.sha256(safe).hexdigest()


def test_hostile_weights_file_is_refused_and_not_run(tmp_path):
    path = tmp_path / "evil.pt"
    torch.save({"state_dict": Boom(tmp_path / "boom")}, path)
    with pytest.raises(UsageError, match=r"holds more than tensors, .* as safetensors$"):
        load_model("ViT-S-32", str(path), CPU, "float32")
    assert not (tmp_path / "boom").exists()


OFFLINE = """
import sys, torch
from clipsieve.clip.model import load_model
from clipsieve.errors import WeightsMissing
for model, tag in (("ViT-B-32", "laion2b_s34b_b79k"), ("hf-hub:org/name", None)):
    try:
        load_model(model, tag, torch.device("cpu"), "float32")
    except WeightsMissing as error:
        print(error)
"""


def test_missing_weights_are_told_with_the_command_that_fetches_them(tmp_path):
    # In a process of its own: the hub client reads these at import.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OFFLINE],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "weights of ViT-B-32 laion2b_s34b_b79k are not on this machine" in done.stdout
    assert "hf download laion/CLIP-ViT-B-32-laion2B-s34B-b79K" in done.stdout
    assert "hf download org/name --local-dir org_name" in done.stdout
    assert done.stdout.count("--model local-dir:FOLDER") == 2


def test_fetch_command_without_a_hub_is_python():
    tags = open_clip.list_pretrained_tags_by_model("RN50")
    without = [t for t in tags if not open_clip.get_pretrained_cfg("RN50", t).get("hf_hub")]
    for tag in without:
        assert fetch_command("RN50", tag).startswith('python -c "import open_clip')


@pytest.fixture
def no_module(monkeypatch):
    """Make open_clip refuse to build or load a model; a test that loads one fails."""

    def refuse(*_args, **_kwargs):
        raise AssertionError("a module was created")

    def forbid():
        for name in ("create_model", "load_checkpoint"):
            monkeypatch.setattr(open_clip, name, refuse)
        monkeypatch.setattr(torch.nn.Module, "__init__", refuse)

    return forbid


def identity_of_the_module(name):
    """What the loaded module itself, its tokenizer and its weights file say of a model."""
    model = load_model(name, None, CPU, "float32")
    folder = TINY_FOLDER if name == "tiny" else Path(name.removeprefix("local-dir:"))
    weights = (folder / "open_clip_model.safetensors").read_bytes()
    with torch.inference_mode():
        module: Any = model.module
        texts = module.encode_text(model.tokenize(["a cat"]))
    config = open_clip.get_model_preprocess_cfg(model.module)
    return model.identity, {
        "dim": texts.shape[1],
        "context_length": model.tokenize(["a cat"]).shape[1],
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "quick_gelu": any(type(m).__name__ == "QuickGELU" for m in model.module.modules()),
        "preprocess": Preprocess.from_config(config).to_json(),
        "model": name,
        "pretrained": None,
        "dtype": "float32",
    }


@pytest.mark.parametrize("config", ["tiny", *CUT, *WHOLE])
def test_a_model_is_identified_without_being_created(tmp_path, no_module, config):
    name = "tiny" if config == "tiny" else write_model(tmp_path, config)
    loaded, seen = identity_of_the_module(name)
    no_module()
    identity, notes = identify(name, None, "float32")
    assert identity == loaded
    assert asdict(identity) == seen
    assert notes == ()
    assert identify(name, None, "bfloat16")[0] == replace(loaded, dtype="bfloat16")
    assert identify(name, None, "auto")[0].dtype == "auto"


@pytest.mark.parametrize(
    ("changes", "vision"),
    [
        ({"mean": [0.1, 0.2, 0.3], "interpolation": "bilinear"}, {}),
        ({"resize_mode": "squash", "fill_color": 3}, {"image_size": 48}),
        ({}, {"image_size": [32, 48]}),
    ],
)
def test_preprocessing_is_identified_from_the_config(tmp_path, no_module, changes, vision):
    name = write_model(tmp_path, "clip")
    path = tmp_path / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["preprocess_cfg"].update(changes)
    config["model_cfg"]["vision_cfg"].update(vision)
    path.write_text(json.dumps(config))
    module = open_clip.create_model(name, load_weights=False)
    expected = Preprocess.from_config(open_clip.get_model_preprocess_cfg(module)).to_json()
    no_module()
    assert identify(name, None, "float32")[0].preprocess == expected


@pytest.mark.parametrize(
    ("model", "tag"), [("ViT-B-32", "openai"), ("ViT-B-32", "datacomp_xl_s13b_b90k")]
)
def test_preprocessing_of_a_tag_is_that_of_open_clip(tmp_path, monkeypatch, model, tag):
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"not read")
    monkeypatch.setattr(open_clip, "download_pretrained", lambda _tag: str(weights))
    identity, notes = identify(model, tag, "float32")
    config = open_clip.get_pretrained_cfg(model, tag)
    assert identity.preprocess["mean"] == list(config["mean"])
    assert identity.preprocess["std"] == list(config["std"])
    assert identity.preprocess["interpolation"] == config["interpolation"]
    assert list(identity.preprocess["size"]) == [224, 224]
    assert (identity.dim, identity.context_length) == (512, 77)
    assert identity.quick_gelu is (tag == "openai")
    assert bool(notes) is (tag == "openai")
    assert identity.weights_sha256 == hashlib.sha256(b"not read").hexdigest()


def test_a_config_that_the_module_does_not_follow_is_refused(tmp_path, monkeypatch):
    name = write_model(tmp_path, "clip")
    other = open_clip.get_model_preprocess_cfg(load_model(name, None, CPU, "float32").module)
    other = {**other, "mean": (0.25, 0.25, 0.25)}
    monkeypatch.setattr(open_clip, "get_model_preprocess_cfg", lambda _module: other)
    with pytest.raises(UsageError, match="correct preprocess_cfg and image_size in the config"):
        load_model(name, None, CPU, "float32")


def test_the_factor_of_cosines_is_that_of_the_weights(tmp_path):
    stored = load_file(TINY_FOLDER / "open_clip_model.safetensors")["logit_scale"]
    tiny = load_model("tiny", None, CPU, "float32")
    assert logit_scale(tiny) == pytest.approx(math.exp(stored.item()), rel=1e-6)
    assert logit_scale(tiny) != pytest.approx(1 / 0.07, rel=1e-3)  # what it was trained from
    name = write_model(tmp_path, "clip")
    random = load_model(name, None, CPU, "float32")
    assert logit_scale(random) == pytest.approx(1 / 0.07, rel=1e-5)


def test_a_model_without_a_factor_has_one():
    bare = replace(load_model("tiny", None, CPU, "float32"), module=torch.nn.Identity())
    assert logit_scale(bare) == 1.0
