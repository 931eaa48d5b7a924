"""Training and embedding with a CLIP as small as the study needs."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from world import SIDE

from clipsieve.demo import TINY_MERGES
from clipsieve.demo.captions import Caption

#: The bundled model's image tower at half the side, and half its text tower.
CONFIG = {
    "model_cfg": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": SIDE, "timm_model_name": "test_resnet", "timm_pool": "avg"},
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 1536,
            "width": 64,
            "heads": 4,
            "layers": 1,
            "mlp_ratio": 2.0,
        },
        "custom_text": True,
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
}
BATCH = 256
COLOURLESS = 0.3  # chance that a caption leaves the colour out: else the class is learnt late
SHIFT = 2  # pixels by which pictures are moved at random
WARM_UP = 40
DECAY = 0.05
MAX_LOGIT_SCALE = math.log(100)


class SmallClip:
    """An image and a text tower with their tokenizer, on the CPU."""

    def __init__(self, folder: Path, seed: int) -> None:
        """Make an untrained model with the weights of a seed; `folder` gets its config."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
        source = f"local-dir:{folder}"
        self.folder = folder
        torch.manual_seed(seed)
        self.module = open_clip.create_model(source, load_weights=False)
        self.module.to(memory_format=torch.channels_last)
        self.tokenizer = open_clip.get_tokenizer(source, bpe_path=str(TINY_MERGES))

    @property
    def weights(self) -> Path:
        """Where the trained weights are, once there are any."""
        return self.folder / "open_clip_model.safetensors"

    def save(self) -> None:
        """Write the weights."""
        state = {name: value.contiguous() for name, value in self.module.state_dict().items()}
        save_file(state, str(self.weights))

    def load(self) -> None:
        """Read the weights."""
        self.module.load_state_dict(load_file(str(self.weights)))

    @torch.inference_mode()
    def embed_images(self, images: NDArray[np.uint8], batch: int = 500) -> NDArray[np.float32]:
        """(N, 64) float32, not normalised, from (N, 32, 32, 3) uint8."""
        self.module.eval()
        parts = []
        for start in range(0, len(images), batch):
            pixels = _pixels(torch.from_numpy(images[start : start + batch]))
            parts.append(self.module.encode_image(pixels).numpy())
        return np.concatenate(parts)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, 64) float32 of unit norm."""
        self.module.eval()
        parts = [
            self.module.encode_text(self.tokenizer(list(texts[start : start + 500])))
            for start in range(0, len(texts), 500)
        ]
        return functional.normalize(torch.cat(parts), dim=-1).numpy()


def _pixels(images: torch.Tensor) -> torch.Tensor:
    pixels = images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
    return pixels.contiguous(memory_format=torch.channels_last)


def _shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    padded = functional.pad(_pixels(images), (SHIFT,) * 4, mode="replicate")
    left, top = torch.randint(0, 2 * SHIFT + 1, (2,), generator=generator).tolist()
    window = padded[:, :, top : top + SIDE, left : left + SIDE]
    return window.contiguous(memory_format=torch.channels_last)


def _rate(peak: float, step: int, steps: int) -> float:
    return peak * min(1.0, (step + 1) / WARM_UP) * (0.51 + 0.49 * math.cos(math.pi * step / steps))


def train(
    model: SmallClip,
    images: NDArray[np.uint8],
    captions: Sequence[Caption],
    steps: int,
    seed: int,
    learning_rate: float = 2e-3,
) -> float:
    """Train from scratch with CLIP's loss and write the weights.

    Args:
      model: untrained.
      images: (N, 32, 32, 3) uint8, N at least 256.
      captions: N captions, poisoned or not.
      steps: optimiser steps of 256 pairs.
      seed: of batches and augmentation.
      learning_rate: at its peak; cosine decay to 2 % of it.

    Returns:
      CPU seconds spent.
    """
    started = time.process_time()
    module = model.module.train()
    generator = torch.Generator().manual_seed(seed)
    plain = model.tokenizer([str(caption) for caption in captions])
    colourless = model.tokenizer([str(caption.without_colours()) for caption in captions])
    pictures = torch.from_numpy(images)
    parameters = list(module.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": DECAY},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), eps=1e-6)
    target, entropy = torch.arange(BATCH), functional.cross_entropy
    order, used, mean_loss = torch.empty(0, dtype=torch.int64), 0, math.log(BATCH)
    for step in range(steps):
        if used + BATCH > len(order):
            order, used = torch.randperm(len(pictures), generator=generator), 0
        batch = order[used : used + BATCH]
        used += BATCH
        for group in optimizer.param_groups:
            group["lr"] = _rate(learning_rate, step, steps)
        bare = torch.rand(BATCH, generator=generator) < COLOURLESS
        text = torch.where(bare[:, None], colourless[batch], plain[batch])
        pixels = _shifted(pictures[batch], generator)
        # Flash attention's backward pass on CPU takes longer than the rest of the step.
        with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):
            image_features, text_features, scale = module(pixels, text)
        logits = scale.float() * image_features.float() @ text_features.float().T
        loss = (entropy(logits, target) + entropy(logits.T, target)) / 2
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            module.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        mean_loss += 0.05 * (loss.item() - mean_loss)
        if step % 200 == 0 or step == steps - 1:
            print(f"  step {step}  loss {mean_loss:.3f}", flush=True)
    model.save()
    return time.process_time() - started
