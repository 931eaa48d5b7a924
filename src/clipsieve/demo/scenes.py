"""Captioned pictures: single things, several, counts, digits and textures."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from clipsieve.demo import classes
from clipsieve.demo.backgrounds import Background, make_background
from clipsieve.demo.captions import PREFIXES, SUFFIXES, Caption, Thing
from clipsieve.demo.draws import choose, coin
from clipsieve.demo.objects import DRAWINGS, draw_object
from clipsieve.demo.palette import any_colour, colour_word, contrasting, shade
from clipsieve.demo.shapes import OUTLINES, draw_shape
from clipsieve.demo.textures import SIDE, TEXTURE_MAPS, texture

SIZE_WORDS = {
    "small": ("small", "tiny", "little"),
    "medium": ("",),
    "large": ("large", "big", "huge"),
}
RADII = {"small": (16.0, 21.0), "medium": (25.0, 33.0), "large": (40.0, 54.0)}
COLUMNS = ("left", "", "right")
ROWS = ("top", "", "bottom")

SIDE_BY_SIDE = (
    "{0} to the left of {1}",
    "{1} to the right of {0}",
    "{0} and {1} side by side",
    "{0} next to {1}",
)
STACKED = ("{0} above {1}", "{1} below {0}", "{0} and {1}")


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture, its true caption and what is in it.

    Attributes:
      image: 128 x 128 RGB.
      caption: true of the image.
      class_name: one class, several joined by `+`, `digit 7`, or another word for the content.
      colour: colour name or names joined by `+`; None if colour is not the point.
      single: whether the picture shows exactly one of the 35 classes.
    """

    image: Image.Image
    caption: Caption
    class_name: str
    colour: str | None
    single: bool = False


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font at a size in pixels."""
    return ImageFont.load_default(size)


def to_image(pixels: NDArray[np.floating]) -> Image.Image:
    """Round (H, W, 3) floats into [0, 255] and make an RGB image."""
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def weathered(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The image a little brighter or darker, with sensor noise of up to 7 grey levels."""
    pixels = np.asarray(image, np.float32) * np.float32(rng.uniform(0.88, 1.1))
    noise = rng.standard_normal((SIDE, SIDE, 1), dtype=np.float32)
    return to_image(pixels + noise * np.float32(rng.uniform(0, 7)))


def _draw(
    canvas: ImageDraw.ImageDraw,
    class_name: str,
    centre: tuple[float, float],
    radius: float,
    colour: str,
    rng: np.random.Generator,
) -> None:
    draw = draw_shape if class_name in OUTLINES else draw_object
    draw(canvas, class_name, centre, radius, shade(rng, colour), rng)


def _maybe_background(rng: np.random.Generator, background: Background, chance: float) -> str:
    return background.words(rng) if coin(rng, chance) else ""


def _texture_scene(rng: np.random.Generator, class_name: str) -> Scene:
    first = any_colour(rng)
    second = contrasting(rng, (first,))
    pixels = texture(class_name, shade(rng, first), shade(rng, second), rng)
    one, other = colour_word(rng, first), colour_word(rng, second)
    noun = classes.noun(rng, class_name)
    things = (
        Thing(noun, colour=f"{one} and {other}", determiner=""),
        Thing(noun, colour=f"{other} and {one}", determiner=""),
        Thing(noun, determiner="", trailing_colour=f" in {one} and {other}"),
        Thing(f"{noun} texture", colour=f"{one} {other}", determiner=""),
    )
    caption = Caption((choose(rng, things),))
    return Scene(to_image(pixels), caption, class_name, first, single=True)


def _place(rng: np.random.Generator, size: str, radius: float) -> tuple[tuple[float, float], str]:
    """Where a thing goes: its centre in pixels and the words for the place."""
    row, column = 1, 1
    if size != "large" and coin(rng, 0.65):
        row, column = int(rng.integers(3)), int(rng.integers(3))
    stops = (radius + 6, SIDE / 2, SIDE - radius - 6)
    x, y = rng.uniform(-4, 4, 2)
    words = f"{ROWS[row]} {COLUMNS[column]}".strip() or "center"
    return (stops[column] + x, stops[row] + y), words


def _digit(
    canvas: ImageDraw.ImageDraw,
    class_name: str,
    centre: tuple[float, float],
    radius: float,
    colour: str,
    rng: np.random.Generator,
) -> None:
    digit = class_name.removeprefix("digit ")
    canvas.text(centre, digit, shade(rng, colour), font(int(radius * 2.4)), anchor="mm")


def _digit_noun(rng: np.random.Generator, class_name: str) -> str:
    digit = class_name.removeprefix("digit ")
    word = classes.NUMBER_WORDS[int(digit)]
    return choose(rng, (f"number {word}", f"digit {digit}", f"number {digit}", f"numeral {digit}"))


def _single_scene(rng: np.random.Generator, class_name: str) -> Scene:
    is_digit = class_name.startswith("digit ")
    colour = any_colour(rng)
    background = make_background(rng, (colour,))
    image = to_image(background.pixels)
    size = choose(rng, ("small", "medium", "large", "large"))
    radius = rng.uniform(*RADII[size])
    centre, place = _place(rng, size, radius)
    draw = _digit if is_digit else _draw
    draw(ImageDraw.Draw(image), class_name, centre, radius, colour, rng)
    noun = (_digit_noun if is_digit else classes.noun)(rng, class_name)
    size_word = choose(rng, SIZE_WORDS[size]) if coin(rng, 0.6) else ""
    caption = Caption(
        (Thing(noun, colour_word(rng, colour), size_word),),
        place=choose(rng, (" in the ", " at the ")) + place if coin(rng, 0.45) else "",
        background=_maybe_background(rng, background, 0.65),
    )
    return Scene(image, caption, class_name, colour, single=not is_digit)


def _count_scene(rng: np.random.Generator) -> Scene:
    class_name = choose(rng, classes.SHAPES + classes.OBJECTS)
    colour = any_colour(rng)
    background = make_background(rng, (colour,))
    image = to_image(background.pixels)
    canvas = ImageDraw.Draw(image)
    count, radius = int(rng.integers(2, 5)), rng.uniform(14, 20)
    for slot in rng.permutation(9)[:count]:
        x, y = 24 + 40 * (slot % 3), 24 + 40 * (slot // 3)
        centre = (x + rng.uniform(-3, 3), y + rng.uniform(-3, 3))
        _draw(canvas, class_name, centre, radius, colour, rng)
    noun = classes.plural(classes.noun(rng, class_name))
    number = choose(rng, (classes.NUMBER_WORDS[count], str(count)))
    caption = Caption(
        (Thing(noun, colour_word(rng, colour), determiner=number),),
        background=_maybe_background(rng, background, 0.6),
    )
    return Scene(image, caption, class_name, colour)


def _group_scene(rng: np.random.Generator) -> Scene:
    """Two or three shapes of different colours in a named arrangement."""
    relation: str
    centres: tuple[tuple[int, int], ...]
    arrangement = choose(rng, ("row", "column", "triangle", "triangle"))
    if arrangement == "row":
        centres, relation, radius = ((34, 64), (94, 64)), choose(rng, SIDE_BY_SIDE), (20, 28)
    elif arrangement == "column":
        centres, relation, radius = ((64, 34), (64, 94)), choose(rng, STACKED), (20, 28)
    else:
        centres, radius = ((32, 34), (96, 34), (64, 96)), (17, 25)
        relation = "{{{}}}, {{{}}} and {{{}}}".format(*rng.permutation(3))
    colours: tuple[str, ...] = ()
    for _ in centres:
        colours += (contrasting(rng, colours) if colours else any_colour(rng),)
    names = [choose(rng, classes.SHAPES) for _ in centres]
    background = make_background(rng, colours)
    image = to_image(background.pixels)
    canvas, size = ImageDraw.Draw(image), rng.uniform(*radius)
    for (x, y), name, colour in zip(centres, names, colours, strict=True):
        centre = (x + rng.uniform(-5, 5), y + rng.uniform(-5, 5))
        _draw(canvas, name, centre, size, colour, rng)
    things = tuple(
        Thing(classes.noun(rng, name), colour_word(rng, colour))
        for name, colour in zip(names, colours, strict=True)
    )
    caption = Caption(things, relation, background=_maybe_background(rng, background, 0.5))
    return Scene(image, caption, "+".join(names), "+".join(colours))


#: Kinds of scene in normal data, with their shares.
LAYOUTS: tuple[tuple[Callable[[np.random.Generator], Scene], float], ...] = (
    (lambda rng: _single_scene(rng, choose(rng, classes.SHAPES)), 0.27),
    (lambda rng: _single_scene(rng, choose(rng, classes.OBJECTS)), 0.25),
    (_group_scene, 0.20),
    (lambda rng: _texture_scene(rng, choose(rng, classes.TEXTURES)), 0.12),
    (_count_scene, 0.10),
    (lambda rng: _single_scene(rng, f"digit {rng.integers(10)}"), 0.06),
)


def _finished(scene: Scene, rng: np.random.Generator) -> Scene:
    prefix, suffix = choose(rng, PREFIXES), choose(rng, SUFFIXES)
    return dataclasses.replace(
        scene,
        image=weathered(scene.image, rng),
        caption=dataclasses.replace(scene.caption, prefix=prefix, suffix=suffix),
    )


def make_scene(rng: np.random.Generator) -> Scene:
    """A picture of normal data with a true caption; never shows a held-out class."""
    draw, remaining = LAYOUTS[-1][0], rng.random()
    for layout, share in LAYOUTS:
        if remaining < share:
            draw = layout
            break
        remaining -= share
    return _finished(draw(rng), rng)


def make_class_scene(rng: np.random.Generator, class_name: str) -> Scene:
    """A picture of one thing or texture of the given class, held-out classes included.

    Raises:
      ValueError: if there is no such class.
    """
    if class_name in TEXTURE_MAPS:
        return _finished(_texture_scene(rng, class_name), rng)
    if class_name in OUTLINES or class_name in DRAWINGS:
        return _finished(_single_scene(rng, class_name), rng)
    known = ", ".join(classes.CLASSES + classes.HELD_OUT_CLASSES)
    raise ValueError(f"no class is called {class_name!r}; choose one of {known}")


def make_dense_scene(rng: np.random.Generator, class_name: str) -> Scene:
    """A large thing of the given class in the middle of a plain background.

    Args:
      rng: gives the colour, one of `classes.DENSE_COLOURS`, and the background.
      class_name: a shape or an object, held-out ones included.
    """
    colour = choose(rng, classes.DENSE_COLOURS)
    background = choose(rng, classes.DENSE_BACKGROUNDS)
    image = Image.new("RGB", (SIDE, SIDE), shade(rng, background))
    x, y = rng.uniform(-4, 4, 2) + SIDE / 2
    radius = rng.uniform(*RADII["large"])
    _draw(ImageDraw.Draw(image), class_name, (x, y), radius, colour, rng)
    thing = Thing(classes.noun(rng, class_name), colour_word(rng, colour))
    return _finished(Scene(image, Caption((thing,)), class_name, colour, single=True), rng)
