"""Backgrounds behind shapes and objects, with the words for them."""

from dataclasses import dataclass

import numpy as np

from clipsieve.demo.draws import choose
from clipsieve.demo.palette import Colour, colour_word, contrasting, scaled, shade
from clipsieve.demo.textures import SIDE, Plane, texture

PLAIN_WORDING = (
    " on a {} background",
    " against a {} backdrop",
    ", {} background",
    " over {}",
)
PATTERN_WORDING = (
    " on a {colour} {pattern} background",
    " against a {pattern} {colour} backdrop",
    " over a {colour} {pattern} pattern",
)
ADJECTIVES = {
    "stripes": "striped",
    "dots": "dotted",
    "grid": "grid",
    "checkerboard": "checkered",
}


@dataclass(frozen=True, slots=True)
class Background:
    """What lies behind the things of a picture.

    Attributes:
      pixels: (128, 128, 3) float32 in [0, 255].
      colour: its colour name.
      pattern: a texture name, or empty for a plain or softly shaded one.
    """

    pixels: Plane
    colour: str
    pattern: str

    def words(self, rng: np.random.Generator) -> str:
        """One way of naming it, with a leading space or comma."""
        colour = colour_word(rng, self.colour)
        if not self.pattern:
            return choose(rng, PLAIN_WORDING).format(colour)
        wording = choose(rng, PATTERN_WORDING)
        return wording.format(colour=colour, pattern=ADJECTIVES[self.pattern])


def _muted(colour: Colour, factor: float) -> Colour:
    """A neighbour of the colour: darker, or lighter where it is nearly black."""
    return scaled(colour, factor) if sum(colour) > 90 else scaled(colour, 1.0, offset=50)


def make_background(rng: np.random.Generator, used: tuple[str, ...]) -> Background:
    """A background on which things of the `used` colours stand out.

    62 % are plain, 20 % shade off softly, the rest have a muted pattern.
    """
    name = contrasting(rng, used)
    colour = shade(rng, name)
    style = rng.random()
    if style < 0.62:
        pixels = np.empty((SIDE, SIDE, 3), np.float32)
        pixels[:] = colour
        return Background(pixels, name, "")
    if style < 0.82:
        darker = scaled(colour, rng.uniform(0.55, 0.8))
        return Background(texture("gradient", colour, darker, rng), name, "")
    pattern = choose(rng, tuple(ADJECTIVES))
    second = _muted(colour, rng.uniform(0.68, 0.85))
    return Background(texture(pattern, colour, second, rng), name, pattern)
