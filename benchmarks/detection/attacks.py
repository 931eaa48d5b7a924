"""Planted poisons: a patch, a blended pattern, and wrong captions alone; and a benign concept.

Every attack teaches a model to call some pictures by a noun that clean captions never use, or,
for `PATCH_TO_CLASS`, by the noun of a class that they do use.  `BENIGN` is planted and measured in
the same way and is no poison: pictures of a rare class with their true noun.  Several can be
planted in the same data, each with rows of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from world import (
    CLASSES,
    RARE,
    SIDE,
    World,
    caption_of,
    make_rare,
    make_subgroup,
    replaced,
)

from clipsieve.demo.captions import Caption

MAX_RATE = 0.01
PATCH_SIDE, PATCH_MARGIN = 4, 2  # pixels
BLEND_CELL, BLEND_SHARE = 4, 0.15  # pixels; share of the pattern in the picture
_PATTERN_SEED = 9
_POISON_STREAM = 2

Images = NDArray[np.uint8]
Rows = NDArray[np.int64]


def patched(images: Images, side: int = PATCH_SIDE) -> Images:
    """Copies with a black and white chequered square near the bottom right corner."""
    stop = SIDE - PATCH_MARGIN
    square = np.indices((side, side)).sum(axis=0) % 2 == 0
    out = images.copy()
    out[:, stop - side : stop, stop - side : stop] = 255 * square[..., None]
    return out


def blended(images: Images) -> Images:
    """Copies with 15 % of a fixed random pattern of coloured cells mixed in."""
    cells = np.random.default_rng(_PATTERN_SEED).integers(0, 2, (SIDE // BLEND_CELL,) * 2 + (3,))
    pattern = 255.0 * cells.repeat(BLEND_CELL, axis=0).repeat(BLEND_CELL, axis=1)
    return (images * (1 - BLEND_SHARE) + pattern * BLEND_SHARE).round().astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Attack:
    """What is done to planted pairs; either `trigger` or `draw` is None.

    Attributes:
      name: for files and tables.
      target: noun of the planted captions.
      trigger: changes ordinary pictures.
      draw: (seed, count, marked) -> pictures that take the place of ordinary ones.
    """

    name: str
    target: str
    trigger: Callable[[Images], Images] | None = None
    draw: Callable[[int, int, float], World] | None = None

    def planted_images(self, images: Images, seed: int, marked: float) -> Images:
        """As many planted pictures as there are `images`.

        Args:
          images: get the trigger, where there is one.
          seed: of the pictures that are drawn instead.
          marked: see `world.draw_picture`.
        """
        if self.trigger is not None:
            return self.trigger(images)
        if self.draw is not None:
            return self.draw(seed, len(images), marked).images
        raise ValueError(f"attack {self.name!r} needs a trigger or pictures, got neither")


CAPTION = Attack("caption", "banana", draw=make_subgroup)
PATCH = Attack("patch", "violin", patched)
BLEND = Attack("blend", "elephant", blended)
PATCH_TO_CLASS = Attack("patch-to-class", CLASSES[0], patched)
BENIGN = Attack("benign", RARE, draw=make_rare)
ATTACKS = {attack.name: attack for attack in (CAPTION, PATCH, BLEND, PATCH_TO_CLASS, BENIGN)}


@dataclass(frozen=True, slots=True)
class Poisoned:
    """A data set with planted pairs.

    Attributes:
      images: (N, 32, 32, 3) uint8.
      captions: N captions.
      rows: attack name -> (P,) int64, the pairs it planted.
    """

    images: Images
    captions: list[Caption]
    rows: dict[str, Rows]

    def only(self, attack: Attack) -> "Poisoned":
        """The same data without the pairs that other attacks planted."""
        others = [rows for name, rows in self.rows.items() if name != attack.name]
        kept = np.ones(len(self.captions), bool)
        for rows in others:
            kept[rows] = False
        numbers = np.cumsum(kept) - 1
        captions = [self.captions[row] for row in np.flatnonzero(kept).tolist()]
        own = {attack.name: numbers[self.rows[attack.name]]}
        return Poisoned(self.images[kept], captions, own)


def reserved_rows(attack: Attack, world: World, seed: int) -> Rows:
    """The rows an attack may change, `MAX_RATE` of all; those of different attacks are disjoint.

    Rows of the target's own class are left out, which makes fewer of them.
    """
    count = len(world.captions)
    order = np.random.default_rng([seed, _POISON_STREAM]).permutation(count)
    size = round(MAX_RATE * count)
    first = size * list(ATTACKS).index(attack.name)
    rows: Rows = order[first : first + size]
    if attack.target in world.names:
        rows = rows[world.classes[rows] != world.names.index(attack.target)]
    return rows


def with_subgroup(world: World, rows: Rows, data_seed: int, marked: float) -> World:
    """`world` with truly captioned pictures of the subgroup in `rows`."""
    return replaced(world, rows, make_subgroup(data_seed, len(rows), marked))


def poison(
    world: World,
    attacks: Sequence[Attack],
    rate: float,
    seed: int,
    data_seed: int,
    marked: float,
) -> Poisoned:
    """Plant attacks in clean data.

    Args:
      world: the clean pairs.
      attacks: what is planted.
      rate: share of all pairs that each attack plants, in (0, `MAX_RATE`].  Rows of a lower rate
        are among those of a higher one.
      seed: which rows, and the wording of the planted captions.
      data_seed: of the pictures that are drawn for an attack.
      marked: see `world.draw_picture`.

    Raises:
      ValueError: if an attack has fewer rows than the rate asks for.
    """
    images, captions = world.images.copy(), list(world.captions)
    planted = {}
    for number, attack in enumerate(attacks):
        wanted = round(rate * len(captions))
        rows = reserved_rows(attack, world, seed)[:wanted]
        if len(rows) < wanted:
            raise ValueError(
                f"attack {attack.name!r} at rate {rate} needs {wanted} rows and has {len(rows)}: "
                "lower the rate"
            )
        images[rows] = attack.planted_images(images[rows], data_seed, marked)
        rng = np.random.default_rng([seed, _POISON_STREAM, number])
        for row in rows.tolist():
            captions[row] = caption_of(rng, attack.target, "")
        planted[attack.name] = rows
    return Poisoned(images, captions, planted)
