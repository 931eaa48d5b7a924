"""Models are loaded exactly, named exactly, and refused with a cure."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from itertools import pairwise

import open_clip
import pytest
import torch

from clipsieve.clip.model import (
    TINY_FOLDER,
    ModelIdentity,
    _activation,
    causal_text_tower,
    fetch_command,
    load_model,
)
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
    assert first.meaning() == second.meaning()
    assert (first.slug, second.slug) == ("model", "b")
    tiny = load_model("tiny", None, CPU, "float32").identity
    assert first.weights_sha256 == tiny.weights_sha256


def test_other_weights_and_other_formats_mean_something_else(tmp_path):
    meanings = []
    for seed, dtype in ((0, "float32"), (1, "float32"), (1, "bfloat16")):
        name = write_model(tmp_path / str(seed), "clip", seed)
        meanings.append(load_model(name, None, CPU, dtype).identity.meaning())
    assert all(a != b for a, b in pairwise(meanings))
    assert meanings[0]["weights_sha256"] != meanings[1]["weights_sha256"]


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
