"""Load any open_clip model, say exactly which one it is, and refuse to run it wrong.

The only module of the library that imports open_clip.
"""

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import open_clip
import torch
from open_clip.pretrained import download_pretrained_from_hf
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from open_clip.transformer import text_global_pool

from clipsieve.clip.device import DTYPES
from clipsieve.clip.folder_config import CONFIG, MERGES, check_folder, check_vocabulary, read_config
from clipsieve.clip.identity import TINY, ModelIdentity
from clipsieve.clip.preprocess import Preprocess
from clipsieve.clip.tokenize import BoundedTokenizer
from clipsieve.errors import ClipsieveError, DeviceError, UsageError, WeightsMissing
from clipsieve.store.names import slug

TINY_FOLDER = Path(__file__).resolve().parents[1] / "demo" / "tiny"
_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_CHECKPOINTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
)
_TOWER_PARTS = (
    "token_embedding",
    "positional_embedding",
    "transformer",
    "ln_final",
    "text_projection",
)

Tokenizer = Callable[[Sequence[str]], torch.Tensor]
"""Maps B captions to (B, context length) int64 token ids."""


@dataclass(frozen=True, slots=True)
class ClipModel:
    """A loaded model, ready to encode."""

    identity: ModelIdentity
    module: torch.nn.Module
    tokenize: Tokenizer
    preprocess: Preprocess
    device: torch.device
    dtype: torch.dtype
    notes: tuple[str, ...] = ()


def identify(
    model: str, pretrained: str | None, dtype: str
) -> tuple[ModelIdentity, tuple[str, ...]]:
    """Find out which model a name stands for, without loading it: from its config and weights file.

    Args:
      model: see `ModelIdentity`.
      pretrained: open_clip's tag, or a weights file; only for open_clip's own model names.
      dtype: number format of the forward pass.

    Returns:
      The identity, and what to tell the user about it.

    Raises:
      UsageError: for an unknown model or tag.
      WeightsMissing: if the weights are not here and cannot be fetched; says how to fetch them.
    """
    force_quick_gelu, notes = _activation(model, pretrained)
    name, folder = _resolve_name(model, pretrained)
    checkpoint = _checkpoint(model, pretrained, folder)
    if folder is not None:
        check_folder(folder, checkpoint)
    with _quiet(), _readable(model, checkpoint):
        config = open_clip.get_model_config(name.replace("/", "-") if ":" not in name else name)
        size = config["vision_cfg"].get("image_size", 224)
        preprocess = {**_preprocess_config(model, pretrained, folder), "size": size}
        identity = ModelIdentity(
            model=model,
            pretrained=pretrained,
            weights_sha256=_sha256_of(checkpoint, checkpoint.stat().st_mtime_ns),
            quick_gelu=force_quick_gelu or bool(config.get("quick_gelu", False)),
            dim=int(config["embed_dim"]),
            context_length=int(_tokenizer(name, folder).context_length),
            preprocess=Preprocess.from_config(preprocess).to_json(),
            dtype=dtype,
        )
    return identity, tuple(notes)


def load_model(model: str, pretrained: str | None, device: torch.device, dtype: str) -> ClipModel:
    """Load `model` onto `device` with weights and activations in `dtype`.

    Args:
      model: see `ModelIdentity`.
      pretrained: open_clip's tag, or a weights file; only for open_clip's own model names.
      device: where to compute.
      dtype: "float32", "bfloat16" or "float16".

    Raises:
      UsageError: for an unknown model or tag, or weights that do not fit the model.
      WeightsMissing: if the weights are not here and cannot be fetched; says how to fetch them.
      DeviceError: if the model does not fit the device's memory.
    """
    identity, notes = identify(model, pretrained, dtype)
    force_quick_gelu, _ = _activation(model, pretrained)
    name, folder = _resolve_name(model, pretrained)
    checkpoint = _checkpoint(model, pretrained, folder)
    with _quiet(), _readable(model, checkpoint):
        try:
            module = open_clip.create_model(
                name,
                pretrained=pretrained,
                load_weights=folder is None,
                precision=_PRECISIONS[dtype],
                device=device,
                force_quick_gelu=force_quick_gelu,
                require_pretrained=folder is None,
                pretrained_text=False,
                weights_only=True,
            )
            if folder is not None:  # open_clip would choose among the files itself, pickles too
                open_clip.load_checkpoint(module, str(checkpoint))
            tokenizer = _tokenizer(name, folder)
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"model {model!r} in {dtype} does not fit the memory of {device}: {error}; "
                "use a smaller model, another --dtype, or another --device"
            ) from error
    module.eval()
    _check_finite(module, model, checkpoint)
    preprocess = Preprocess.from_config(open_clip.get_model_preprocess_cfg(module))
    if preprocess.to_json() != identity.preprocess:
        raise UsageError(
            f"model {model!r} prepares images as {preprocess.to_json()}, its config says "
            f"{identity.preprocess}; correct preprocess_cfg and image_size in the config"
        )
    return ClipModel(identity, module, tokenizer, preprocess, device, DTYPES[dtype], notes)


def logit_scale(model: ClipModel) -> float:
    """Return the factor that the model multiplies cosines with, e.g. 100; 1 if it has none."""
    value = getattr(model.module, "logit_scale", None)
    return 1.0 if value is None else float(value.detach().float().exp())


def count_cut(model: ClipModel, texts: Sequence[str]) -> int:
    """Return how many texts have more tokens than the model reads."""
    tokenize: Any = model.tokenize
    context = model.identity.context_length
    blank = int(tokenize([""])[0, -1])
    tokens = tokenize(list(texts))
    full = (tokens[:, -1] != blank).nonzero().flatten().tolist()
    if not full:
        return 0
    longer = tokenize([texts[row] for row in full], context_length=context + 1)
    return int((longer[:, -1] != blank).sum())


def causal_text_tower(module: torch.nn.Module) -> torch.nn.Module | None:
    """The text tower of `module` if tokens after the end token cannot change its result.

    That needs a causal attention mask, pooling at the end token, no class token and no padding
    mask.  None for every other tower, whose captions are then never cut.
    """
    tower = getattr(module, "text", module)
    pool = getattr(tower, "pool_type", getattr(tower, "text_pool_type", None))
    known = all(hasattr(tower, name) for name in _TOWER_PARTS)
    causal = known and getattr(tower, "attn_mask", None) is not None
    plain = getattr(tower, "cls_emb", None) is None and not getattr(tower, "use_pad_mask", False)
    return tower if causal and plain and pool in ("argmax", "eos") else None


def encode_cut_text(
    tower: torch.nn.Module, tokens: torch.Tensor, projected_rows: int | None = None
) -> torch.Tensor:
    """`encode_text` of captions cut to their first T columns, T at most the context length.

    The same operations as open_clip's own text tower, with positions and mask cut to T; equal to
    it whenever every end token is among the T columns.

    Args:
      tower: what `causal_text_tower` gave.
      tokens: (B, T) int64, on the tower's device.
      projected_rows: rows that the final projection takes at a time, its last part filled up with
        zeros; None is all B at once.

    Returns:
      (B, D) features, not normalised, in the model's dtype.
    """
    length = tokens.shape[1]
    parts: Any = tower  # a Module's attributes have no useful static types
    dtype = parts.transformer.get_cast_dtype()
    x = parts.token_embedding(tokens).to(dtype) + parts.positional_embedding[:length].to(dtype)
    x = parts.ln_final(parts.transformer(x, attn_mask=parts.attn_mask[:length, :length]))
    pool = getattr(parts, "pool_type", getattr(parts, "text_pool_type", None))
    end = getattr(parts, "eos_id", getattr(parts, "text_eos_id", None))
    pooled: torch.Tensor = text_global_pool(x, tokens, pool, eos_token_id=end)
    if parts.text_projection is None:
        return pooled
    if projected_rows is None:
        return _projected(pooled, parts.text_projection)
    filled = torch.nn.functional.pad(pooled, (0, 0, 0, -len(pooled) % projected_rows))
    starts = range(0, len(filled), projected_rows)
    pieces = [filled[start : start + projected_rows] for start in starts]
    projected = torch.cat([_projected(piece, parts.text_projection) for piece in pieces])
    return projected[: len(pooled)]


def _projected(pooled: torch.Tensor, projection: torch.nn.Linear | torch.Tensor) -> torch.Tensor:
    projected: torch.Tensor = (
        projection(pooled) if isinstance(projection, torch.nn.Linear) else pooled @ projection
    )
    return projected


def end_positions(tower: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Column of the end token of each caption: (B,) int64, by the tower's own pooling rule."""
    parts: Any = tower
    if getattr(parts, "pool_type", getattr(parts, "text_pool_type", None)) == "argmax":
        return tokens.argmax(dim=-1)
    end: int = getattr(parts, "eos_id", getattr(parts, "text_eos_id", 0))
    return torch.eq(tokens, end).int().argmax(dim=-1)


@contextmanager
def _readable(model: str, checkpoint: Path) -> Iterator[None]:
    """Turn what open_clip and its helpers raise in the block into our errors."""
    try:
        yield
    except ClipsieveError:
        raise
    except UnpicklingError as error:  # its own message says how to run the pickle
        raise UsageError(
            f"model {model!r} with weights {checkpoint} cannot be loaded: the file holds more "
            "than tensors, which is not opened; give its weights as safetensors"
        ) from error
    except Exception as error:  # open_clip, safetensors and tokenizers raise what they like
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(
            f"model {model!r} with weights {checkpoint} cannot be loaded: {reason}; "
            "check that the weights belong to the model"
        ) from error


def _check_finite(module: torch.nn.Module, model: str, checkpoint: Path) -> None:
    """Refuse weights that are NaN or infinite: every embedding would be."""
    for name, values in module.named_parameters():
        if name.startswith("text_decoder."):  # CoCa's, which makes captions
            continue
        if values.numel() and not torch.isfinite(torch.stack(values.detach().aminmax())).all():
            raise UsageError(
                f"model {model!r} with weights {checkpoint} cannot be used: {name} holds NaN or "
                "infinity; fetch the weights again"
            )


def _tokenizer(name: str, folder: Path | None) -> Any:
    """Return open_clip's tokenizer of a model; with the folder's own merges if it has some."""
    merges = folder / MERGES if folder is not None else None
    bpe = {"bpe_path": str(merges)} if merges is not None and merges.is_file() else {}
    tokenizer = open_clip.get_tokenizer(name, **bpe)
    if folder is not None:
        check_vocabulary(folder, tokenizer)
    # Those of Hugging Face take time in proportion to the text.
    if type(tokenizer) is open_clip.SimpleTokenizer and tokenizer.reduction_fn is None:
        return BoundedTokenizer(tokenizer)
    return tokenizer


def _preprocess_config(model: str, pretrained: str | None, folder: Path | None) -> dict[str, Any]:
    """Return the preprocessing of the weights, merged as `open_clip.create_model` does."""
    config: Mapping[str, Any] = _tag(model, pretrained) or {}
    if folder is not None:
        config = read_config(folder).get("preprocess_cfg", {})
    elif model.startswith("hf-hub:"):
        path = download_pretrained_from_hf(
            model.removeprefix("hf-hub:"), filename="open_clip_config.json"
        )
        config = json.loads(Path(path).read_text(encoding="utf-8")).get("preprocess_cfg", {})
    merged: dict[str, Any] = merge_preprocess_dict(asdict(PreprocessCfg()), dict(config))
    return merged


def _activation(model: str, pretrained: str | None) -> tuple[bool, list[str]]:
    """Whether QuickGELU must be forced, and what to tell the user about it.

    open_clip only warns when weights trained with one activation meet a config with the other,
    and then computes wrong embeddings.
    """
    tag = _tag(model, pretrained)
    config = open_clip.get_model_config(model.replace("/", "-")) if tag is not None else None
    if tag is None or config is None:
        return False, []
    trained, configured = bool(tag.get("quick_gelu")), bool(config.get("quick_gelu"))
    if trained and not configured:
        note = f"{pretrained} weights of {model} were trained with QuickGELU; using QuickGELU"
        return True, [note]
    # Without the suffix the config alone says what the weights were trained with.
    if configured and not trained and model.endswith("-quickgelu"):
        raise UsageError(
            f"model {model!r} computes QuickGELU but its {pretrained!r} weights were trained with "
            f"GELU; say --model {model.replace('-quickgelu', '')}"
        )
    return False, []


def _tag(model: str, pretrained: str | None) -> dict[str, Any] | None:
    """open_clip's description of the tag `pretrained`, or None if it is not a tag."""
    if pretrained is None or model == TINY or ":" in model:
        return None
    return open_clip.get_pretrained_cfg(model.replace("/", "-"), pretrained) or None


def _resolve_name(model: str, pretrained: str | None) -> tuple[str, Path | None]:
    """open_clip's name for `model`, and its folder if it has one."""
    if model == TINY:
        model = f"local-dir:{TINY_FOLDER}"
    if model.startswith("local-dir:"):
        folder = Path(os.path.expanduser(model.removeprefix("local-dir:"))).absolute()
        if not os.path.isfile(folder / CONFIG):
            raise UsageError(
                f"model folder {folder} has no open_clip_config.json; give a folder with "
                "open_clip_config.json and open_clip_model.safetensors"
            )
        name: str = f"local-dir:{folder}"
        if pretrained is not None:
            raise UsageError(f"--pretrained {pretrained} has no meaning with {model}; leave it out")
        return name, folder
    if model.startswith("hf-hub:"):
        if pretrained is not None:
            raise UsageError(f"--pretrained {pretrained} has no meaning with {model}; leave it out")
        return model, None
    known = open_clip.list_models()
    if model.replace("/", "-") not in known:
        raise UsageError(
            f"model {model!r} is not known to open_clip {open_clip.__version__}; "
            f"close names: {_close(model, known)}; or say hf-hub:org/name, local-dir:PATH or tiny"
        )
    if pretrained is None:
        tags = open_clip.list_pretrained_tags_by_model(model.replace("/", "-"))
        raise UsageError(f"model {model!r} needs --pretrained; its tags: {', '.join(tags)}")
    return model, None


def _checkpoint(model: str, pretrained: str | None, folder: Path | None) -> Path:
    """The weights file, fetched if need be."""
    if folder is not None:
        for name in _CHECKPOINTS:
            if (folder / name).is_file():
                return folder / name
        raise WeightsMissing(
            f"model folder {folder} has no weights; put open_clip_model.safetensors there"
        )
    if pretrained is not None and os.path.isfile(pretrained):
        return Path(pretrained)
    with _quiet():
        try:
            if model.startswith("hf-hub:"):
                return Path(download_pretrained_from_hf(model.removeprefix("hf-hub:")))
            tag = _tag(model, pretrained)
            if tag is None:
                tags = open_clip.list_pretrained_tags_by_model(model.replace("/", "-"))
                raise UsageError(
                    f"{pretrained!r} is neither a weights file nor a tag of {model}; "
                    f"its tags: {', '.join(tags)}"
                )
            return Path(open_clip.download_pretrained(tag))
        except UsageError:
            raise
        except Exception as error:  # the hub client raises many kinds, none of them documented
            raise WeightsMissing(
                f"weights of {model} {pretrained or ''} are not on this machine and could not be "
                f"fetched ({type(error).__name__}).  On a machine with network:\n"
                f"    {fetch_command(model, pretrained)}\n"
                "then copy the folder here and say --model local-dir:FOLDER, or set HF_HOME to a "
                "copied cache.  `--model tiny` runs without any download."
            ) from error


def fetch_command(model: str, pretrained: str | None) -> str:
    """The command that fetches the weights and config of a model."""
    tag = _tag(model, pretrained) or {}
    hub = model.removeprefix("hf-hub:") if model.startswith("hf-hub:") else tag.get("hf_hub", "")
    if hub:
        return f"hf download {hub.strip('/')} --local-dir {slug(hub.strip('/'))}"
    call = f"import open_clip; open_clip.create_model({model!r}, pretrained={pretrained!r})"
    return f'python -c "{call}"'


def _close(name: str, known: Sequence[str]) -> str:
    """Up to five names like `name`."""
    return ", ".join(get_close_matches(name, known, n=5, cutoff=0.4)) or "none"


@cache
def _sha256_of(path: Path, _mtime_ns: int) -> str:
    """sha256 of a file, computed once for each version of it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip's chatter on the root logger and timm's warnings out of the output."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(before)
