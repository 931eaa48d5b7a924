"""The number format that `--dtype auto` stands for on this machine and this model."""

import time
from dataclasses import replace

import torch

from clipsieve.clip.device import WORTHWHILE, candidate_dtypes
from clipsieve.clip.encode import Encoder, is_small
from clipsieve.clip.model import ClipModel, load_model

TRIAL_IMAGES = 8
TRIAL_ROUNDS = 5


def load_fastest(model: str, pretrained: str | None, device: torch.device) -> ClipModel:
    """Load `model` in the format that the device computes best.

    Where there is a choice (a CPU with bfloat16 units) both are timed on the model itself, in
    turns; bfloat16 is taken only if its best round is at least `WORTHWHILE` times as fast as
    float32's.  A note says what was measured.  The choice is recorded with the output, so that a
    later run of the same folder does not choose again.  A small model is never the bottleneck and
    stays exact.
    """
    candidates = candidate_dtypes(device)
    first = load_model(model, pretrained, device, candidates[0])
    if len(candidates) == 1 or is_small(first):
        return first
    loaded = [first, *(load_model(model, pretrained, device, dtype) for dtype in candidates[1:])]
    exact, fast = (min(seconds) for seconds in _rounds(loaded))
    ratio = exact / fast
    chosen = loaded[1] if ratio >= WORTHWHILE else loaded[0]
    note = f"{candidates[1]} measured {ratio:.1f}x float32 here; using {chosen.identity.dtype}"
    return replace(chosen, notes=(*chosen.notes, note))


def _rounds(models: list[ClipModel]) -> list[list[float]]:
    """Seconds for a batch of noise images, `TRIAL_ROUNDS` for each model, taken in turns."""
    height, width = models[0].preprocess.size
    pixels = torch.randint(0, 256, (TRIAL_IMAGES, 3, height, width), dtype=torch.uint8)
    encoders = [Encoder(model, TRIAL_IMAGES) for model in models]
    for encoder in encoders:
        encoder.encode_images(pixels)
    times: list[list[float]] = [[] for _ in models]
    for _ in range(TRIAL_ROUNDS):
        for encoder, taken in zip(encoders, times, strict=True):
            start = time.perf_counter()
            encoder.encode_images(pixels)
            taken.append(time.perf_counter() - start)
    return times
