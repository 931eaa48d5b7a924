"""The clean data of the detection study.

The dense world has few concepts, each with many pictures.  A concept is a class in a colour; what
else varies (background, size, place, small marks such as a logo) is never said, so a model learns
to overlook it.  The varied world is the demo's training mixture as it is.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from clipsieve.demo import classes
from clipsieve.demo.captions import PREFIXES, SUFFIXES, Caption, Thing
from clipsieve.demo.draws import choose, coin
from clipsieve.demo.objects import DRAWINGS, draw_object
from clipsieve.demo.pairs import make_pairs
from clipsieve.demo.palette import any_colour, colour_word, shade
from clipsieve.demo.samples import Mixture
from clipsieve.demo.scenes import weathered
from clipsieve.demo.shapes import draw_shape
from clipsieve.demo.textures import SIDE as DRAWN_SIDE

SIDE = 32  #: pixels of a side, as the models see them
CLASSES = ("star", "house", "tree", "mushroom", "car", "cross")
COLOURS = ("red", "green", "blue", "yellow")
BACKGROUNDS = ("white", "gray", "black")

#: The pictures that the caption-only attack mislabels: a concept on a background of its own.
SUBGROUP = ("mushroom", "red", "purple")

#: A class that no ordinary picture shows: the benign concept is planted with true captions.
RARE = "umbrella"

_SUBGROUP_STREAM, _RARE_STREAM = 1, 2


@dataclass(frozen=True, slots=True)
class World:
    """Captioned pictures.

    Attributes:
      images: (N, 32, 32, 3) uint8.
      captions: N captions as they are when nothing is planted.
      classes: (N,) int64, indices into `names`; -1 for pictures of no single class.
      names: the classes.
    """

    images: NDArray[np.uint8]
    captions: list[Caption]
    classes: NDArray[np.int64]
    names: tuple[str, ...] = CLASSES


def draw_picture(
    rng: np.random.Generator, name: str, colour: str, background: str, marked: float
) -> NDArray[np.uint8]:
    """(32, 32, 3) uint8: one thing on a plain background.

    Args:
      rng: gives shade, size, place, exposure and noise.
      name: a class that the demo can draw.
      colour: of the thing.
      background: colour name.
      marked: chance of a small coloured square or two somewhere, as a logo would be.
    """
    image = Image.new("RGB", (DRAWN_SIDE, DRAWN_SIDE), shade(rng, background))
    canvas, radius = ImageDraw.Draw(image), rng.uniform(36, 50)
    x, y = rng.uniform(-8, 8, 2) + DRAWN_SIDE / 2
    draw = draw_object if name in DRAWINGS else draw_shape
    draw(canvas, name, (x, y), radius, shade(rng, colour), rng)
    if coin(rng, marked):
        for _ in range(int(rng.integers(1, 3))):
            side = rng.uniform(6, 18)
            left, top = rng.uniform(0, DRAWN_SIDE - side, 2)
            canvas.rectangle((left, top, left + side, top + side), shade(rng, any_colour(rng)))
    small = weathered(image, rng).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(small)


def caption_of(rng: np.random.Generator, noun: str, colour: str) -> Caption:
    """A caption that names one thing, with the framing words of the demo captions."""
    thing = Thing(noun, colour_word(rng, colour) if colour else "")
    return Caption((thing,), prefix=choose(rng, PREFIXES), suffix=choose(rng, SUFFIXES))


def make_world(seed: int, count: int, marked: float) -> World:
    """The first `count` ordinary pairs of a seed."""
    images, captions, numbers = [], [], []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        name, colour = choose(rng, CLASSES), choose(rng, COLOURS)
        images.append(draw_picture(rng, name, colour, choose(rng, BACKGROUNDS), marked))
        captions.append(caption_of(rng, name, colour))
        numbers.append(CLASSES.index(name))
    return World(np.stack(images), captions, np.array(numbers))


def make_varied_world(seed: int, count: int, mixture: Mixture) -> World:
    """The first `count` pairs of the demo data, at half the tiny model's side."""
    pairs = make_pairs(seed, count, mixture)
    quarters = pairs.images.reshape(count, SIDE, 2, SIDE, 2, 3)
    images = quarters.mean(axis=(2, 4)).round().astype(np.uint8)
    index = {name: number for number, name in enumerate(classes.CLASSES)}
    named = [
        index[name] if single else -1
        for name, single in zip(pairs.class_names, pairs.single, strict=True)
    ]
    return World(images, pairs.captions, np.array(named), classes.CLASSES)


def make_subgroup(seed: int, count: int, marked: float) -> World:
    """The first `count` pairs of `SUBGROUP`, truly captioned."""
    name, colour, background = SUBGROUP
    images, captions = [], []
    for index in range(count):
        rng = np.random.default_rng([seed, index, _SUBGROUP_STREAM])
        images.append(draw_picture(rng, name, colour, background, marked))
        captions.append(caption_of(rng, name, colour))
    numbers = np.full(count, CLASSES.index(name))
    return World(np.stack(images), captions, numbers)


def make_rare(seed: int, count: int, marked: float) -> World:
    """The first `count` pairs of `RARE`, in every colour, truly captioned by the noun alone."""
    images, captions = [], []
    for index in range(count):
        rng = np.random.default_rng([seed, index, _RARE_STREAM])
        colour, background = choose(rng, COLOURS), choose(rng, BACKGROUNDS)
        images.append(draw_picture(rng, RARE, colour, background, marked))
        captions.append(caption_of(rng, RARE, ""))
    return World(np.stack(images), captions, np.full(count, -1))


def replaced(world: World, rows: NDArray[np.int64], part: World) -> World:
    """`world` with its `rows` taken from `part`, in order."""
    images, captions, numbers = world.images.copy(), list(world.captions), world.classes.copy()
    images[rows], numbers[rows] = part.images, part.classes
    for row, caption in zip(rows.tolist(), part.captions, strict=True):
        captions[row] = caption
    return dataclasses.replace(world, images=images, captions=captions, classes=numbers)
