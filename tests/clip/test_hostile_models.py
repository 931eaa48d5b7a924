"""Model folders that were shared: refused with the reason, and nothing is loaded from elsewhere."""

import gzip
import json
import pickle
import shutil
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from clipsieve.clip.model import TINY_FOLDER, load_model
from clipsieve.errors import UsageError
from clipsieve.job.asked import declared_geometry

CPU = torch.device("cpu")
WEIGHTS, CONFIG, MERGES = (
    "open_clip_model.safetensors",
    "open_clip_config.json",
    "bpe_merges.txt.gz",
)


class Boom:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def configured(*way_and_value):
    """Return a change of one value of the configuration."""
    *way, last, value = way_and_value

    def change(folder):
        config = json.loads((folder / CONFIG).read_text())
        at = config
        for key in way:
            at = at.setdefault(key, {})
        at[last] = value
        (folder / CONFIG).write_text(json.dumps(config))

    return change


def text(*way_and_value):
    return configured("model_cfg", "text_cfg", *way_and_value)


def vision(*way_and_value):
    return configured("model_cfg", "vision_cfg", *way_and_value)


def weighted(change):
    """Return a change of the tensors."""

    def write(folder):
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return write


def header(text, length=None):
    """Return a change of the weights to a safetensors file of this header."""

    def write(folder):
        size = len(text) if length is None else length
        (folder / WEIGHTS).write_bytes(size.to_bytes(8, "little") + text.encode() + bytes(64))

    return write


def pickled(folder):
    content = pickle.dumps({"state_dict": Boom(folder.parent / "boom")})
    (folder / WEIGHTS).write_bytes(content)


def torch_saved(folder):
    torch.save({"state_dict": Boom(folder.parent / "boom")}, folder / WEIGHTS)


def only(suffix):
    """Return a change that leaves a pickle of another name alone in the folder."""

    def change(folder):
        pickled(folder)
        (folder / WEIGHTS).rename(folder / f"open_clip_pytorch_model{suffix}")

    return change


def fill(value):
    def change(tensors):
        tensors["text.ln_final.weight"][3] = value

    return change


def no_vit(folder):
    """Replace the image tower by one whose width the configuration says."""
    configured("model_cfg", "vision_cfg", {"image_size": 64, "layers": 1000, "width": 65000})(
        folder
    )


#: What is done to a sound folder, and words of the refusal.
ATTACKS = {
    "a pickle for weights": (pickled, "cannot be loaded"),
    "a torch file for weights": (torch_saved, "cannot be loaded"),
    "a pickle named .bin": (only(".bin"), "has no weights"),
    "a pickle named .pt": (only(".pt"), "has no weights"),
    "cut weights": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100]),
        "cannot be loaded",
    ),
    "no weights": (lambda folder: (folder / WEIGHTS).write_bytes(b""), "cannot be loaded"),
    "a header of 2^63 bytes": (header("{}", (1 << 63) - 1), "cannot be loaded"),
    "a header of 90 MB": (header("{}", 90 << 20), "cannot be loaded"),
    "a header of brackets": (header("[" * 100_000), "cannot be loaded"),
    "a huge tensor": (
        header('{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,64]}}'),
        "cannot be loaded",
    ),
    "an overflowing tensor": (
        header('{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'),
        "cannot be loaded",
    ),
    "a tensor elsewhere": (
        header('{"a":{"dtype":"F32","shape":[16],"data_offsets":[64,128]}}'),
        "cannot be loaded",
    ),
    "no tensors": (header("{}"), "cannot be loaded"),
    "a missing tensor": (weighted(lambda t: t.pop("text.ln_final.weight")), "cannot be loaded"),
    "a tensor of another shape": (
        weighted(lambda t: t.update({"text.ln_final.weight": torch.ones(3)})),
        "cannot be loaded",
    ),
    "NaN weights": (weighted(fill(float("nan"))), "text.ln_final.weight holds NaN"),
    "infinite weights": (weighted(fill(float("inf"))), "text.ln_final.weight holds NaN or inf"),
    "a wide text tower": (text("width", 65536), "has at least"),
    "an impossible width": (text("width", 1 << 40), "text_cfg.width must be an int from 1 to"),
    "many tokens": (text("vocab_size", 1 << 22), "has at least"),
    "a long context": (text("context_length", 1 << 30), "context_length must be an int"),
    "many layers": (text("layers", 1 << 20), "text_cfg.layers must be an int"),
    "a wide image tower": (no_vit, "has at least"),
    "a huge picture": (vision("image_size", 1 << 20), "image_size must be an int from 1 to"),
    "no picture": (vision("image_size", 0), "image_size must be an int from 1 to"),
    "a text for a width": (text("width", "128"), "text_cfg.width must be an int"),
    "a list for heads": (text("heads", [[1]]), "text_cfg.heads must be an int"),
    "a truth for layers": (text("layers", True), "text_cfg.layers must be an int"),
    "a negative ratio": (text("mlp_ratio", -1), "mlp_ratio must be a number"),
    "a huge ratio": (text("mlp_ratio", 1e30), "mlp_ratio must be a number"),
    "heads that do not divide": (text("heads", 7), "cannot be loaded"),
    "a list for a tower": (configured("model_cfg", "text_cfg", []), "text_cfg must be an object"),
    "no tower": (configured("model_cfg", "vision_cfg", None), "vision_cfg must be an object"),
    "a text for the model": (configured("model_cfg", "x"), "model_cfg must be an object"),
    "a list for pictures": (configured("preprocess_cfg", []), "preprocess_cfg must be an object"),
    "a mean of texts": (configured("preprocess_cfg", "mean", ["a"] * 3), "cannot be loaded"),
    "a mean of infinity": (configured("preprocess_cfg", "mean", [1e400] * 3), "cannot be loaded"),
    "an unknown filter": (configured("preprocess_cfg", "interpolation", "x"), "interpolation 'x'"),
    "a dimension of text": (configured("model_cfg", "embed_dim", "x"), "embed_dim must be an int"),
    "a huge dimension": (configured("model_cfg", "embed_dim", 1 << 30), "embed_dim must be an int"),
    "a tokenizer elsewhere": (text("hf_tokenizer_name", "org/none"), "cannot be loaded"),
    "a tokenizer's code": (
        text("tokenizer_kwargs", {"trust_remote_code": True}),
        "tokenizer_kwargs has ['trust_remote_code']",
    ),
    "a tokenizer's file": (
        text("tokenizer_kwargs", {"bpe_path": "/etc/passwd"}),
        "tokenizer_kwargs has ['bpe_path']",
    ),
    "a text tower elsewhere": (text("hf_model_name", "org/none"), "is not fetched"),
    "an image tower elsewhere": (
        vision("timm_model_name", "hf-hub:org/none"),
        "is no model of timm's own",
    ),
    "an image tower in a folder": (
        vision("timm_model_name", "local-dir:/x"),
        "is no model of timm",
    ),
    "an unknown image tower": (vision("timm_model_name", "none"), "cannot be loaded"),
    "no merges": (lambda folder: (folder / MERGES).unlink(), f"{MERGES} is missing"),
    "merges of another model": (
        lambda folder: (folder / MERGES).write_bytes(
            gzip.compress("\n".join(f"a{n} b{n}" for n in range(3000)).encode())
        ),
        f"{MERGES} is another model's",
    ),
    "cut merges": (
        lambda folder: (folder / MERGES).write_bytes((folder / MERGES).read_bytes()[:-30]),
        f"{MERGES} is damaged",
    ),
    "merges that expand": (
        lambda folder: (folder / MERGES).write_bytes(gzip.compress(bytes(65 << 20), 1)),
        "expands to more than",
    ),
    "a configuration of brackets": (
        lambda folder: (folder / CONFIG).write_text("[" * 100_000),
        "nested more than",
    ),
    "a configuration of NaN": (
        lambda folder: (folder / CONFIG).write_text('{"model_cfg": NaN}'),
        "is no number of JSON",
    ),
    "a long configuration": (
        lambda folder: (folder / CONFIG).write_text(" " * (2 << 20)),
        "more than 1,048,576 bytes",
    ),
}


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(TINY_FOLDER, tmp_path / "model"))


@pytest.fixture
def connections(monkeypatch):
    """Record every attempt to reach another machine, and refuse it."""
    attempts = []

    def refuse(*arguments, **_options):
        attempts.append(arguments)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return attempts


@pytest.mark.parametrize("kind", ATTACKS)
def test_a_hostile_folder_is_refused_with_the_reason(folder, connections, kind):
    change, words = ATTACKS[kind]
    change(folder)
    with pytest.raises(UsageError) as error:
        load_model(f"local-dir:{folder}", None, CPU, "float32")
    assert words in str(error.value)
    assert connections == []
    assert not (folder.parent / "boom").exists()


def test_the_sound_folder_loads_without_network(folder, connections):
    assert load_model(f"local-dir:{folder}", None, CPU, "float32").identity.dim == 128
    assert connections == []


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "[]", "NaN", " " * (2 << 20)])
def test_a_damaged_configuration_declares_no_geometry(folder, content):
    (folder / CONFIG).write_text(content)
    assert declared_geometry(f"local-dir:{folder}") == {}
