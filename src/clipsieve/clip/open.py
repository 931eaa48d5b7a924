"""The model of a process, loaded once however often it is asked for."""

import threading

from clipsieve.clip.choose import load_fastest
from clipsieve.clip.device import limit_threads, resolve_device
from clipsieve.clip.identity import ModelIdentity
from clipsieve.clip.model import ClipModel, load_model
from clipsieve.errors import UsageError

_lock = threading.Lock()
_loaded: dict[tuple[str, str | None, str, str], ClipModel] = {}


def open_model(model: str, pretrained: str | None, device: str, dtype: str) -> ClipModel:
    """Return the model; only the last one opened is kept.

    Args:
      model: see `clipsieve.clip.identity.ModelIdentity`.
      pretrained: likewise.
      device: `auto`, `cpu`, `cuda` or `cuda:N`.
      dtype: `auto` measures; the model it picks is then also kept under that format's name.
    """
    with _lock:
        key = (model, pretrained, device, dtype)
        if key not in _loaded:
            report = resolve_device(device)
            if report.device.type == "cpu":
                limit_threads()
            if dtype == "auto":
                loaded = load_fastest(model, pretrained, report.device)
            else:
                loaded = load_model(model, pretrained, report.device, dtype)
            _loaded.clear()
            _loaded[key] = _loaded[(model, pretrained, device, loaded.identity.dtype)] = loaded
        return _loaded[key]


def open_same_model(identity: ModelIdentity, device: str) -> ClipModel:
    """Return the model of this identity.

    Raises:
      UsageError: if what has its name on this machine has other weights or preprocessing.
    """
    model = open_model(identity.model, identity.pretrained, device, identity.dtype)
    if model.identity.identity_key() != identity.identity_key():
        raise UsageError(
            f"model {identity.model!r} on this machine has weights "
            f"{model.identity.weights_sha256[:12]} and preprocessing {model.identity.preprocess}, "
            f"the folder was planned with {identity.weights_sha256[:12]} and "
            f"{identity.preprocess}; install the same weights on every worker"
        )
    return model
