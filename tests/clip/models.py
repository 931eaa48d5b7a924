"""Very small models with random weights, in folders as `local-dir:` takes them."""

import json
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

from clipsieve.clip.model import load_model

VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}

#: Configurations by name; those in CUT have towers whose captions may be cut.
CONFIGS: dict[str, dict[str, Any]] = {
    "clip": {},
    "custom": {"custom_text": True},
    "eos": {"custom_text": True, "text_cfg": {"pool_type": "eos", "eos_id": 49407}},
    "bias": {"custom_text": True, "text_cfg": {"proj_bias": True}},
    "quick": {"quick_gelu": True},
    "wide": {
        "vision_cfg": {"width": 512, "head_width": 64, "layers": 2},
        "text_cfg": {"context_length": 77, "width": 512, "heads": 8, "layers": 6},
    },
    "siglip": {
        "custom_text": True,
        "init_logit_bias": -10,
        "text_cfg": {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
    },
    "classed": {"custom_text": True, "text_cfg": {"embed_cls": True}},
    "padded": {"custom_text": True, "text_cfg": {"no_causal_mask": True, "use_pad_mask": True}},
    "coca": {
        "custom_text": True,
        "vision_cfg": {"output_tokens": True, "attentional_pool": True, "attn_pooler_heads": 2},
        "text_cfg": {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**TEXT, "dim_head": 16, "n_queries": 4, "attn_pooler_heads": 2},
    },
}
CUT = ("clip", "custom", "eos", "bias", "quick", "wide")
WHOLE = ("siglip", "classed", "coca")


def config_of(name, dim=16):
    changes = CONFIGS[name]
    return {
        "embed_dim": dim,
        **changes,
        "vision_cfg": VISION | changes.get("vision_cfg", {}),
        "text_cfg": TEXT | changes.get("text_cfg", {}),
    }


def write_model(folder, name, seed=0):
    """Write the folder of a model with random weights; its name for `--model`."""
    folder.mkdir(parents=True, exist_ok=True)
    mean = std = [0.5, 0.5, 0.5]
    preprocess = {"mean": mean, "std": std, "interpolation": "bicubic", "resize_mode": "shortest"}
    config = {"model_cfg": config_of(name), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(seed)
    module = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    weights = {key: value.contiguous() for key, value in module.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def load(folder, name, dtype="float32"):
    return load_model(write_model(folder, name), None, torch.device("cpu"), dtype)
