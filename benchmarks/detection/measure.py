"""What is measured of a model: does the attack work, and is it seen."""

from dataclasses import dataclass

import numpy as np
from attacks import Attack, Poisoned
from detectors import DETECTORS, density_scores, sample_rows
from numpy.typing import NDArray
from training import SmallClip
from world import World

from clipsieve.demo.evaluate import auroc
from clipsieve.demo.prompts import TEMPLATES

PAIRS = 20_000  #: of the clean data
AUTO_REFERENCE = 283  #: twice the square root of the rows; `clipsieve` takes 512 and 2,048

#: Reference sizes and how many samples of each are averaged.
REFERENCES = {AUTO_REFERENCE: 2, 512: 2, 1024: 1, 2048: 1, 4096: 1, 8192: 1, PAIRS: 1}
UNIT_REFERENCE = 2048  #: size at which normalised embeddings are scored, too
SIMILARITY = "1 - CLIP similarity"


@dataclass(frozen=True, slots=True)
class Detection:
    """How well one detector tells planted rows from all others.

    Attributes:
      detector: name.
      reference: rows of the reference sample.
      unit: whether embeddings were normalised.
      planted: planted rows in the reference, a mean over samples.
      auroc: in [0, 1], a mean over samples.
      fpr95: share of clean rows flagged where 95 % of the planted are, a mean over samples.
    """

    detector: str
    reference: int
    unit: bool
    planted: float
    auroc: float
    fpr95: float


@dataclass(frozen=True, slots=True)
class Success:
    """How often pictures that the model was not trained on are called the target.

    Attributes:
      accuracy: share of clean pictures called by their class, the target being one more choice.
      untriggered: share of clean pictures of other classes called the target.
      triggered: the attack's success rate: the same share of pictures with the trigger, or of
        pictures drawn for the attack.
    """

    accuracy: float
    untriggered: float
    triggered: float


def fpr_at_95(planted: NDArray[np.floating], clean: NDArray[np.floating]) -> float:
    """Share of clean scores at or above the score that 95 % of the planted reach.

    >>> fpr_at_95(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 0.5, 4.0]))
    0.5
    """
    needed = int(np.ceil(0.95 * len(planted)))
    threshold = np.sort(planted)[len(planted) - needed]
    return float((clean >= threshold).mean())


def unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows of `features` at norm one."""
    normalized: NDArray[np.float32] = features / np.linalg.norm(features, axis=1, keepdims=True)
    return normalized


def success(model: SmallClip, attack: Attack, held_out: World, seed: int, marked: float) -> Success:
    """Call held-out pictures by the nearest prompt of the classes and the target.

    Args:
      model: poisoned or not.
      attack: says how pictures get the trigger, or draws them.
      held_out: ordinary pictures.
      seed: of the pictures that are drawn for the attack; not that of the training data.
      marked: see `world.draw_picture`.
    """
    names = list(dict.fromkeys((*held_out.names, attack.target)))
    means = [model.embed_texts([text.format(name) for text in TEMPLATES]).mean(0) for name in names]
    prompts = unit(np.stack(means))
    target = names.index(attack.target)
    called = (model.embed_images(held_out.images) @ prompts.T).argmax(axis=1)
    others = held_out.classes != target
    pictures = attack.planted_images(held_out.images[others], seed, marked)
    triggered = (model.embed_images(pictures) @ prompts.T).argmax(axis=1)
    return Success(
        accuracy=float((called == held_out.classes)[held_out.classes >= 0].mean()),
        untriggered=float((called[others] == target).mean()),
        triggered=float((triggered == target).mean()),
    )


def _detection(
    detector: str, size: int, is_unit: bool, drawn: list[tuple[int, float, float]]
) -> Detection:
    planted, areas, rates = np.mean(drawn, axis=0).tolist()
    return Detection(detector, size, is_unit, planted, areas, rates)


def detections(model: SmallClip, attack: Attack, data: Poisoned, seed: int) -> list[Detection]:
    """Every detector at every reference size, and the CLIP similarity.

    Args:
      model: embeds; it need not be the one trained on `data`.
      attack: whose planted rows are to be found.
      data: all rows are scored, except those that other attacks planted.
      seed: of the reference samples.
    """
    data = data.only(attack)
    count = len(data.images)
    is_planted = np.zeros(count, bool)
    is_planted[data.rows[attack.name]] = True
    features = model.embed_images(data.images)
    found = []
    for is_unit in (False, True):
        sizes = {UNIT_REFERENCE: REFERENCES[UNIT_REFERENCE]} if is_unit else REFERENCES
        scaled = unit(features) if is_unit else features
        for size, samples in sizes.items():
            drawn: dict[str, list[tuple[int, float, float]]] = {name: [] for name in DETECTORS}
            for sample in range(samples):
                reference = sample_rows(count, min(size, count), 100 * seed + sample)
                for name, score in density_scores(scaled, reference).items():
                    planted, clean = score[is_planted], score[~is_planted]
                    inside = int(is_planted[reference].sum())
                    drawn[name].append((inside, auroc(planted, clean), fpr_at_95(planted, clean)))
            found += [_detection(name, size, is_unit, values) for name, values in drawn.items()]
    texts = model.embed_texts([str(caption) for caption in data.captions])
    dissimilar = 1 - (unit(features) * texts).sum(axis=1)
    planted, clean = dissimilar[is_planted], dissimilar[~is_planted]
    values = [(0, auroc(planted, clean), fpr_at_95(planted, clean))]
    return [*found, _detection(SIMILARITY, 0, True, values)]
