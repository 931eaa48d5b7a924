"""Measure a model on held-out demo pairs: `python -m clipsieve.demo.evaluate`."""

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from torch.nn import functional

from clipsieve.demo import TINY_MODEL
from clipsieve.demo.classes import CLASSES
from clipsieve.demo.pairs import Pairs, make_pairs
from clipsieve.demo.prompts import class_prompts
from clipsieve.demo.samples import CLEAN

HELD_OUT_SEED = 2  #: of the pairs models are measured on; training uses another
RETRIEVAL_BLOCK = 100
BATCH = 250

Embeddings = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Quality:
    """How well a model knows the demo world; every value is in [0, 1], higher is better.

    Attributes:
      matched_auroc: chance that a pair is more similar than an image with the next caption.
      image_to_text: recall@1 of the own caption among 100, averaged over disjoint blocks.
      text_to_image: recall@1 of the own image among 100.
      class_accuracy: share of pictures of one class whose class has the most similar prompts,
        among 28.
    """

    matched_auroc: float
    image_to_text: float
    text_to_image: float
    class_accuracy: float


#: The least that the bundled model must reach.
FLOORS = Quality(matched_auroc=0.99, image_to_text=0.95, text_to_image=0.95, class_accuracy=0.80)


class TinyModel:
    """A model in open_clip's `local-dir` form with its merges, on the CPU in float32."""

    def __init__(self, folder: Path) -> None:
        """Load weights and tokenizer from `folder`."""
        source = f"local-dir:{folder}"
        merges = folder / "bpe_merges.txt.gz"
        self._model = open_clip.create_model(source).eval()
        self._tokenizer = open_clip.get_tokenizer(source, bpe_path=str(merges))

    @torch.inference_mode()
    def embed_images(self, images: NDArray[np.uint8]) -> Embeddings:
        """(N, 128) float32 of unit norm from (N, 64, 64, 3) uint8."""
        parts = []
        for start in range(0, len(images), BATCH):
            pixels = torch.from_numpy(images[start : start + BATCH]).permute(0, 3, 1, 2).float()
            parts.append(self._model.encode_image(pixels / 127.5 - 1))
        return _unit(torch.cat(parts))

    @torch.inference_mode()
    def embed_texts(self, texts: list[str]) -> Embeddings:
        """(N, 128) float32 of unit norm from N texts."""
        parts = [
            self._model.encode_text(self._tokenizer(texts[start : start + BATCH]))
            for start in range(0, len(texts), BATCH)
        ]
        return _unit(torch.cat(parts))

    def embed_class(self, class_name: str) -> Embeddings:
        """(128,) float32 of unit norm: the mean over the prompts of a class."""
        mean = self.embed_texts(class_prompts(class_name)).mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean), np.float32)


def _unit(vectors: torch.Tensor) -> Embeddings:
    normalized: Embeddings = functional.normalize(vectors.float(), dim=-1).numpy()
    return normalized


def auroc(positives: NDArray[np.floating], negatives: NDArray[np.floating]) -> float:
    """The chance that a positive scores above a negative; ties count one half.

    Args:
      positives: (N,) scores, N at least 1.
      negatives: (M,) scores, M at least 1.

    >>> auroc(np.array([3.0, 2.0]), np.array([1.0, 2.0]))
    0.875
    """
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, side="left")
    not_above = np.searchsorted(ordered, positives, side="right")
    return float((below + not_above).mean() / (2 * len(negatives)))


def recall_at_one(queries: Embeddings, answers: Embeddings) -> float:
    """Share of queries whose own answer is the most similar of its block of 100.

    Args:
      queries: (N, D); rows beyond the last full block are left out.
      answers: (N, D), row i belongs to query i.

    Raises:
      ValueError: if there is no full block.
    """
    blocks = len(queries) // RETRIEVAL_BLOCK
    if blocks == 0:
        raise ValueError(
            f"recall needs at least {RETRIEVAL_BLOCK} pairs, got {len(queries)}: give more pairs"
        )
    kept, own = blocks * RETRIEVAL_BLOCK, np.arange(RETRIEVAL_BLOCK)
    query_blocks = queries[:kept].reshape(blocks, RETRIEVAL_BLOCK, -1)
    answer_blocks = answers[:kept].reshape(blocks, RETRIEVAL_BLOCK, -1)
    nearest = (query_blocks @ answer_blocks.transpose(0, 2, 1)).argmax(axis=2)
    return float((nearest == own).mean())


def class_accuracy(model: TinyModel, images: Embeddings, pairs: Pairs) -> float:
    """Share of the pictures of a single class that are nearest to its prompts, among 28."""
    prompts = np.stack([model.embed_class(name) for name in CLASSES])
    names = np.array(pairs.class_names)[pairs.single]
    predicted = np.array(CLASSES)[(images[pairs.single] @ prompts.T).argmax(axis=1)]
    return float((predicted == names).mean())


def evaluate(folder: Path = TINY_MODEL, count: int = 6000, seed: int = HELD_OUT_SEED) -> Quality:
    """Measure a model on noise-free pairs it was not trained on.

    Args:
      folder: the model, in `local-dir` form.
      count: held-out pairs, at least 100.
      seed: of the pairs.
    """
    pairs = make_pairs(seed, count, CLEAN)
    model = TinyModel(folder)
    images = model.embed_images(pairs.images)
    texts = model.embed_texts([str(caption) for caption in pairs.captions])
    matched = (images * texts).sum(axis=1)
    mismatched = (images * np.roll(texts, 1, axis=0)).sum(axis=1)
    return Quality(
        matched_auroc=auroc(matched, mismatched),
        image_to_text=recall_at_one(images, texts),
        text_to_image=recall_at_one(texts, images),
        class_accuracy=class_accuracy(model, images, pairs),
    )


def main(argv: list[str] | None = None) -> None:
    """Print the measured values beside their floors."""
    parser = argparse.ArgumentParser(prog="python -m clipsieve.demo.evaluate", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=TINY_MODEL, help="the model")
    parser.add_argument("--pairs", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED)
    arguments = parser.parse_args(argv)
    quality = evaluate(arguments.folder, arguments.pairs, arguments.seed)
    floors = dataclasses.asdict(FLOORS)
    print(f"{'':16}{'measured':>10}{'floor':>8}")
    for name, value in dataclasses.asdict(quality).items():
        print(f"{name:16}{value:10.4f}{floors[name]:8.2f}")


if __name__ == "__main__":
    main()
