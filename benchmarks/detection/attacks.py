"""Planted poisons: a patch, a blended pattern, and wrong captions alone.

Every attack teaches a model to call some pictures by a noun that clean captions never use, or,
for `PATCH_TO_CLASS`, by the noun of a class that they do use.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from world import CLASSES, SIDE, World, caption_of, make_subgroup, replaced

from clipsieve.demo.captions import Caption

NEW_NOUN = "banana"  #: no clean caption has it
KNOWN_NOUN = CLASSES[0]  #: one clean caption in six has it
MAX_RATE = 0.01
PATCH_SIDE, PATCH_MARGIN = 4, 2  # pixels
BLEND_CELL, BLEND_SHARE = 4, 0.15  # pixels; share of the pattern in the picture
_PATTERN_SEED = 9
_POISON_STREAM = 2

Images = NDArray[np.uint8]
Rows = NDArray[np.int64]


def patched(images: Images) -> Images:
    """Copies with a black and white chequered square near the bottom right corner."""
    stop = SIDE - PATCH_MARGIN
    square = np.indices((PATCH_SIDE, PATCH_SIDE)).sum(axis=0) % 2 == 0
    out = images.copy()
    out[:, stop - PATCH_SIDE : stop, stop - PATCH_SIDE : stop] = 255 * square[..., None]
    return out


def blended(images: Images) -> Images:
    """Copies with 15 % of a fixed random pattern of coloured cells mixed in."""
    cells = np.random.default_rng(_PATTERN_SEED).integers(0, 2, (SIDE // BLEND_CELL,) * 2 + (3,))
    pattern = 255.0 * cells.repeat(BLEND_CELL, axis=0).repeat(BLEND_CELL, axis=1)
    return (images * (1 - BLEND_SHARE) + pattern * BLEND_SHARE).round().astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Attack:
    """What is done to poisoned pairs.

    Attributes:
      name: for files and tables.
      target: noun of the wrong captions.
      trigger: changes pictures; None where the poisoned pictures are those of `world.SUBGROUP`,
        left as they are.
    """

    name: str
    target: str
    trigger: Callable[[Images], Images] | None


PATCH = Attack("patch", NEW_NOUN, patched)
BLEND = Attack("blend", NEW_NOUN, blended)
CAPTION = Attack("caption", NEW_NOUN, None)
PATCH_TO_CLASS = Attack("patch-to-class", KNOWN_NOUN, patched)
ATTACKS = {attack.name: attack for attack in (PATCH, BLEND, CAPTION, PATCH_TO_CLASS)}


@dataclass(frozen=True, slots=True)
class Poisoned:
    """A data set with planted pairs.

    Attributes:
      images: (N, 32, 32, 3) uint8.
      captions: N captions.
      rows: (P,) int64, which pairs are planted.
    """

    images: Images
    captions: list[Caption]
    rows: Rows


def subgroup_rows(count: int, seed: int) -> Rows:
    """The rows that hold pictures of the subgroup when `MAX_RATE` of all do."""
    return _order(count, seed)[: round(MAX_RATE * count)]


def _order(count: int, seed: int) -> Rows:
    return np.random.default_rng([seed, _POISON_STREAM]).permutation(count)


def poisoned_rows(attack: Attack, world: World, rate: float, seed: int) -> Rows:
    """The rows an attack changes: those of a lower rate are among those of a higher one.

    Triggers never go to rows that hold the subgroup in the control's data, so the control was
    trained on the same pictures without the trigger.
    """
    count = len(world.captions)
    planted = round(rate * count)
    if attack.trigger is None:
        return subgroup_rows(count, seed)[:planted]
    order = np.random.default_rng([seed, _POISON_STREAM]).permutation(count)[
        len(subgroup_rows(count, seed)) :
    ]
    known = world.names.index(attack.target) if attack.target in world.names else len(world.names)
    return order[world.classes[order] != known][:planted]


def with_subgroup(world: World, rows: Rows, data_seed: int, marked: float) -> World:
    """`world` with truly captioned pictures of the subgroup in `rows`."""
    return replaced(world, rows, make_subgroup(data_seed, len(rows), marked))


def poison(
    world: World, attack: Attack, rate: float, seed: int, data_seed: int, marked: float
) -> Poisoned:
    """Plant an attack in clean data.

    Args:
      world: the clean pairs.
      attack: what is planted.
      rate: share of all pairs in (0, `MAX_RATE`].
      seed: which rows, and the wording of the wrong captions.
      data_seed: of the subgroup's pictures.
      marked: see `world.draw_picture`.
    """
    rows = poisoned_rows(attack, world, rate, seed)
    images, captions = world.images, list(world.captions)
    if attack.trigger is None:
        images = with_subgroup(world, rows, data_seed, marked).images
    else:
        images = images.copy()
        images[rows] = attack.trigger(images[rows])
    rng = np.random.default_rng([seed, _POISON_STREAM, 0])
    for row in rows.tolist():
        captions[row] = caption_of(rng, attack.target, "")
    return Poisoned(images, captions, rows)
