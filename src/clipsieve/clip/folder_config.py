"""The configuration of a model in a folder, checked before anything is made of it.

Such folders are shared.  A model is built before its weights are read, so a configuration could
take memory that no weights file fills, or name a part that is fetched from elsewhere.
"""

import gzip
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from clipsieve.errors import UsageError
from clipsieve.store.json_text import parse_json
from clipsieve.store.validation import shown

CONFIG = "open_clip_config.json"
MERGES = "bpe_merges.txt.gz"
_MOST_CONFIG_BYTES = 1 << 20
#: The merges of OpenAI's tokenizer have 3.2 MB.
_MOST_MERGES_BYTES = 64 << 20

#: Numbers of a configuration and the largest that is accepted, several times any known model's.
_NUMBERS = {
    "embed_dim": 1 << 16,
    "vision_cfg.image_size": 1 << 13,
    "vision_cfg.patch_size": 1 << 13,
    "vision_cfg.width": 1 << 16,
    "vision_cfg.layers": 1 << 10,
    "vision_cfg.head_width": 1 << 16,
    "vision_cfg.attn_pooler_queries": 1 << 16,
    "text_cfg.context_length": 1 << 17,
    "text_cfg.vocab_size": 1 << 22,
    "text_cfg.width": 1 << 16,
    "text_cfg.heads": 1 << 10,
    "text_cfg.layers": 1 << 10,
    "multimodal_cfg.width": 1 << 16,
    "multimodal_cfg.heads": 1 << 10,
    "multimodal_cfg.layers": 1 << 10,
    "multimodal_cfg.context_length": 1 << 17,
    "multimodal_cfg.vocab_size": 1 << 22,
    "multimodal_cfg.n_queries": 1 << 16,
}
#: Widths of towers are multiplied by these.
_RATIOS = ("vision_cfg.mlp_ratio", "text_cfg.mlp_ratio", "multimodal_cfg.mlp_ratio")
#: Options of tokenizers that decide nothing about what is loaded.
_TOKENIZER_OPTIONS = {"clean", "strip_sep_token", "language", "reduction_mask"}


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of a folder's `open_clip_config.json`; its two parts are objects.

    Raises:
      UsageError: if it is too long, no JSON, or of another form.
    """
    place = folder / CONFIG
    try:
        if place.stat().st_size > _MOST_CONFIG_BYTES:
            raise ValueError(f"more than {_MOST_CONFIG_BYTES:,} bytes")
        content = parse_json(place.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("it is no object")
        for part in ("model_cfg", "preprocess_cfg"):
            if not isinstance(content.get(part, {}), dict):
                raise ValueError(f"{part} must be an object, is {shown(content[part])}")
    except ValueError as error:
        raise UsageError(f"{place} cannot be loaded: {error}; give the model's own") from error
    except OSError as error:
        raise UsageError(f"{place} cannot be read ({error.strerror}); check the folder") from error
    return content


def check_folder(folder: Path, weights: Path) -> None:
    """Refuse a folder whose model would be larger than its weights, or load what is elsewhere.

    Raises:
      UsageError: names the field, and what is wrong with it.
    """
    config = read_config(folder).get("model_cfg", {})
    try:
        for part in ("vision_cfg", "text_cfg"):
            if not isinstance(config.get(part), dict):
                raise ValueError(f"{part} must be an object, is {shown(config.get(part))}")
        _check_numbers(config)
        _check_names(config)
        _check_room(config, weights.stat().st_size)
    except ValueError as error:
        raise UsageError(
            f"model folder {folder} with weights {weights.name} cannot be loaded: {CONFIG}: "
            f"{error}; give the model's own configuration"
        ) from error
    merges = folder / MERGES
    if merges.is_file():
        _check_merges(merges, merges.stat().st_mtime_ns)


def check_vocabulary(folder: Path, tokenizer: Any) -> None:
    """Refuse a tokenizer with more tokens than the model of a folder has vectors for.

    Raises:
      UsageError: says which file is missing or another model's.
    """
    text = read_config(folder).get("model_cfg", {}).get("text_cfg", {})
    tokens = getattr(tokenizer, "vocab_size", None)
    known = text.get("vocab_size", 49408)
    if isinstance(tokens, int) and isinstance(known, int) and tokens > known:
        state = "is another model's" if (folder / MERGES).is_file() else "is missing"
        raise UsageError(
            f"model folder {folder} has vectors of {known:,} tokens and its tokenizer makes "
            f"{tokens:,}: {MERGES} {state}; put the model's own there"
        )


def _check_numbers(config: Mapping[str, Any]) -> None:
    """Raise ValueError for numbers of another type or out of range."""
    for name, most in _NUMBERS.items():
        value = _value(config, name)
        parts = value if isinstance(value, list) and 0 < len(value) <= 8 else [value]
        for part in parts if value is not None else ():
            if not isinstance(part, int) or isinstance(part, bool) or not 1 <= part <= most:
                raise ValueError(f"{name} must be an int from 1 to {most:,}, is {shown(value)}")
    for name in _RATIOS:
        ratio = _value(config, name)
        if ratio is not None and (not isinstance(ratio, int | float) or not 0 < ratio <= 64):
            raise ValueError(f"{name} must be a number up to 64, is {shown(ratio)}")


def _check_names(config: Mapping[str, Any]) -> None:
    """Raise ValueError for names of what is not in the folder."""
    hub = _value(config, "text_cfg.hf_model_name")
    if hub is not None:
        raise ValueError(
            f"text_cfg.hf_model_name {shown(hub)} is a model of a hub, which is not fetched"
        )
    timm = _value(config, "vision_cfg.timm_model_name")
    if timm is not None and (
        not isinstance(timm, str) or not timm.replace(".", "_").isidentifier()
    ):
        raise ValueError(f"vision_cfg.timm_model_name {shown(timm)} is no model of timm's own")
    options = _value(config, "text_cfg.tokenizer_kwargs")
    if options is not None:
        unknown = set(options) - _TOKENIZER_OPTIONS if isinstance(options, dict) else {options}
        if unknown:
            raise ValueError(f"text_cfg.tokenizer_kwargs has {shown(sorted(map(str, unknown)))}")


def _check_room(config: Mapping[str, Any], size: int) -> None:
    """Raise ValueError if the towers' matrices alone have more numbers than the weights bytes."""
    least = 0
    for tower, width in (("vision_cfg", 768), ("text_cfg", 512), ("multimodal_cfg", 512)):
        part = config.get(tower)
        is_timm = tower == "vision_cfg" and isinstance(part, dict) and "timm_model_name" in part
        if not isinstance(part, dict) or is_timm:
            continue
        wide, layers = part.get("width", width), part.get("layers", 12)
        if isinstance(layers, list):  # a ResNet
            least += wide * wide * sum(layers)
            continue
        least += 4 * wide * wide * layers
        if tower == "vision_cfg":
            image, patch = part.get("image_size", 224), part.get("patch_size", 16)
            sides = image if isinstance(image, list) else [image, image]
            cuts = patch if isinstance(patch, list) else [patch, patch]
            least += wide * (sides[0] // cuts[0]) * (sides[-1] // cuts[-1])
        else:
            vocabulary = part.get("vocab_size", 49408) if tower == "text_cfg" else 0
            least += wide * (vocabulary + part.get("context_length", 77))
    if least > size:
        raise ValueError(f"the model has at least {least:,} numbers, its weights {size:,} bytes")


def _value(config: Mapping[str, Any], name: str) -> Any:
    """Return the value of a dotted name; None if it is not there."""
    value: Any = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


@cache
def _check_merges(path: Path, _mtime_ns: int) -> None:
    """Refuse merges that are damaged, or expand to more than any tokenizer's."""
    left = _MOST_MERGES_BYTES
    try:
        with gzip.open(path) as file:
            while block := file.read(1 << 20):
                left -= len(block)
                if left < 0:
                    raise UsageError(
                        f"{path} expands to more than {_MOST_MERGES_BYTES:,} bytes; put the "
                        "model's own there"
                    )
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} is damaged ({error}); put the model's own there") from error
