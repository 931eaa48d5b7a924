"""Train the tiny CLIP model: `python -m clipsieve.demo.train FOLDER`.

One phase of contrastive training from scratch on generated pairs.  Captions lose their colours
and backgrounds at random: told every time that the star is orange and the background blue, a
small model learns the colours and never the star.
"""

import argparse
import json
import math
import time
from pathlib import Path

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from clipsieve.demo import classes, noise, vocabulary
from clipsieve.demo.captions import Caption
from clipsieve.demo.pairs import MODEL_SIDE, Pairs, make_pairs
from clipsieve.demo.prompts import TEMPLATES
from clipsieve.demo.samples import TRAINING

CONFIG = {
    "model_cfg": {
        "embed_dim": 128,
        "vision_cfg": {
            "image_size": MODEL_SIDE,
            "timm_model_name": "test_resnet",
            "timm_pool": "avg",
        },
        "text_cfg": {
            "context_length": 24,
            "vocab_size": vocabulary.VOCABULARY_SIZE,
            "width": 128,
            "heads": 4,
            "layers": 2,
            "mlp_ratio": 2.0,
        },
        "custom_text": True,
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}
DATA_SEED = 1
SHIFT = 3  # pixels by which pictures are moved at random
WARM_UP_STEPS = 60
MAX_LOGIT_SCALE = math.log(100)


def caption_variants(captions: list[Caption]) -> list[list[str]]:
    """Each caption in four versions: as it is, and without background, colours, or both."""
    return [
        [str(caption) for caption in captions],
        [str(caption.without_background()) for caption in captions],
        [str(caption.without_colours()) for caption in captions],
        [str(caption.without_colours().without_background()) for caption in captions],
    ]


def draw_variants(several: torch.Tensor, drop: float, generator: torch.Generator) -> torch.Tensor:
    """Choose the version of `caption_variants` that each pair of a batch shows this time.

    Args:
      several: (B,) bool, captions of more than one thing; colours tell these apart, so they lose
        them half as often.
      drop: chance in [0, 1] that the caption of one thing loses its colours.
      generator: source of the draws.

    Returns:
      (B,) int64 in [0, 3].
    """
    chance = torch.where(several, drop / 2, drop)
    colours = torch.rand(len(several), generator=generator) < chance
    background = torch.rand(len(several), generator=generator) < torch.where(colours, 0.7, 0.25)
    return 2 * colours.long() + background.long()


def write_vocabulary(path: Path, pairs: Pairs) -> None:
    """Trim the tokenizer's merges to the words of the demo and check them on 5,000 captions."""
    full = SimpleTokenizer()
    captions = [str(caption) for caption in pairs.captions]
    nouns = [noun for nouns in classes.NOUNS.values() for noun in nouns]
    prompts = [template.format(noun) for template in TEMPLATES for noun in nouns]
    plurals = [classes.plural(noun) for noun in nouns]
    texts = [*captions, *prompts, *plurals, *noise.KEYWORDS, *noise.BOILERPLATE]
    vocabulary.write_merges(path, vocabulary.trim_merges(full, texts))
    small = SimpleTokenizer(bpe_path=str(path))
    vocabulary.check_same_tokens(small, full, [*captions[:5000], *prompts, *plurals])


def _parameter_groups(model: torch.nn.Module, decay: float) -> list[dict[str, object]]:
    parameters = list(model.parameters())
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    others = [parameter for parameter in parameters if parameter.ndim < 2]
    return [
        {"params": matrices, "weight_decay": decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _learning_rate(peak: float, step: int, steps: int) -> float:
    warm_up = min(1.0, (step + 1) / min(WARM_UP_STEPS, max(1, steps // 6)))
    return peak * warm_up * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(B, 3, 64, 64) float32 in [-1, 1] from (B, 64, 64, 3) uint8, all moved by one shift."""
    pixels = images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
    padded = functional.pad(pixels, (SHIFT,) * 4, mode="replicate")
    left, top = torch.randint(0, 2 * SHIFT + 1, (2,), generator=generator).tolist()
    window = padded[:, :, top : top + MODEL_SIDE, left : left + MODEL_SIDE]
    return window.contiguous(memory_format=torch.channels_last)


def train(
    folder: Path,
    pairs: Pairs,
    steps: int = 2400,
    batch_size: int = 256,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.05,
    drop: float = 0.45,
    seed: int = 0,
) -> float:
    """Train from scratch and write the model in open_clip's `local-dir` form.

    Args:
      folder: gets `open_clip_config.json`, `open_clip_model.safetensors` (float16) and
        `bpe_merges.txt.gz`.
      pairs: training data.
      steps: optimiser steps.
      batch_size: pairs in a step.
      learning_rate: at its peak; cosine decay to 2 % of it.
      weight_decay: of matrices; vectors and scalars are not decayed.
      drop: chance that the caption of one thing loses its colours.
      seed: of the initial weights and of all draws.

    Returns:
      CPU seconds spent in training steps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    merges = folder / "bpe_merges.txt.gz"
    write_vocabulary(merges, pairs)
    torch.manual_seed(seed)
    source = f"local-dir:{folder}"
    model = open_clip.create_model(source, load_weights=False)
    tokenizer = open_clip.get_tokenizer(source, bpe_path=str(merges))
    model = model.to(memory_format=torch.channels_last).train()

    tokens = torch.stack(
        [tokenizer(variant).to(torch.int32) for variant in caption_variants(pairs.captions)]
    )
    several = torch.tensor([len(caption.things) > 1 for caption in pairs.captions])
    images = torch.from_numpy(pairs.images)
    optimizer = torch.optim.AdamW(
        _parameter_groups(model, weight_decay), lr=learning_rate, betas=(0.9, 0.98), eps=1e-6
    )
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(batch_size)
    order, used = torch.empty(0, dtype=torch.int64), 0
    mean_loss, started = math.log(batch_size), time.process_time()
    for step in range(steps):
        if used + batch_size > len(order):
            order, used = torch.randperm(len(images), generator=generator), 0
        batch = order[used : used + batch_size]
        used += batch_size
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(learning_rate, step, steps)
        variant = draw_variants(several[batch], drop, generator)
        pixels, text = _shifted(images[batch], generator), tokens[variant, batch].long()
        # Flash attention's backward pass on CPU takes longer than the rest of the step.
        with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):
            image_features, text_features, scale = model(pixels, text)
        logits = scale * image_features.float() @ text_features.float().T
        entropy = functional.cross_entropy
        loss = (entropy(logits, target) + entropy(logits.T, target)) / 2
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        mean_loss += 0.05 * (loss.item() - mean_loss)
        if step % 50 == 0 or step == steps - 1:
            spent = time.process_time() - started
            print(f"step {step}  loss {mean_loss:.3f}  {spent:.0f} CPU s", flush=True)
    weights = {
        name: (value.half() if value.is_floating_point() else value).contiguous().clone()
        for name, value in model.state_dict().items()
    }
    save_file(weights, str(folder / "open_clip_model.safetensors"))
    return time.process_time() - started


def main(argv: list[str] | None = None) -> None:
    """Generate pairs, train, and write the model."""
    parser = argparse.ArgumentParser(prog="python -m clipsieve.demo.train", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the model is written")
    parser.add_argument("--pairs", type=int, default=60_000, help="training pairs")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--drop", type=float, default=0.45, help="chance of colourless captions")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1, help="for making the pairs")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    pairs = make_pairs(DATA_SEED, arguments.pairs, TRAINING, arguments.processes)
    print(f"{len(pairs.captions)} pairs, for example: {pairs.captions[0]}", flush=True)
    seconds = train(
        arguments.folder,
        pairs,
        steps=arguments.steps,
        learning_rate=arguments.lr,
        drop=arguments.drop,
        seed=arguments.seed,
    )
    print(f"trained in {seconds:.0f} CPU s")


if __name__ == "__main__":
    main()
