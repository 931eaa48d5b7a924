"""Twelve named colours: their pixels, their words, and which of them look alike."""

from collections.abc import Collection

import numpy as np

from clipsieve.demo.draws import choose

Colour = tuple[int, int, int]  #: red, green, blue in [0, 255]

PALETTE: dict[str, Colour] = {
    "red": (214, 32, 32),
    "orange": (245, 140, 20),
    "yellow": (245, 222, 40),
    "green": (38, 150, 50),
    "teal": (20, 170, 170),
    "blue": (30, 70, 215),
    "purple": (130, 40, 170),
    "pink": (250, 130, 185),
    "brown": (120, 72, 32),
    "black": (14, 14, 14),
    "white": (250, 250, 250),
    "gray": (128, 128, 128),
}

WORDS: dict[str, tuple[str, ...]] = {name: (name,) for name in PALETTE} | {
    "teal": ("teal", "turquoise"),
    "purple": ("purple", "violet"),
    "gray": ("gray", "grey"),
    "red": ("red", "crimson"),
    "black": ("black", "jet black"),
}

#: Pairs too close to tell a thing from its background once the picture is 64 pixels wide.
CLOSE_PAIRS = (
    ("gray", "white"),
    ("gray", "black"),
    ("gray", "teal"),
    ("red", "orange"),
    ("red", "brown"),
    ("red", "pink"),
    ("orange", "yellow"),
    ("orange", "brown"),
    ("yellow", "white"),
    ("brown", "black"),
    ("pink", "white"),
    ("teal", "green"),
    ("teal", "blue"),
    ("blue", "purple"),
)


def any_colour(rng: np.random.Generator) -> str:
    """The name of one of the twelve colours."""
    return choose(rng, tuple(PALETTE))


def contrasting(rng: np.random.Generator, used: Collection[str]) -> str:
    """A colour name that is neither in `used` nor easily taken for one of them.

    Where the used colours leave nothing that far away, any unused colour will do.
    """
    close = set(used)
    for one, other in CLOSE_PAIRS:
        if one in used or other in used:
            close |= {one, other}
    far = [name for name in PALETTE if name not in close]
    return choose(rng, far or [name for name in PALETTE if name not in used])


def shade(rng: np.random.Generator, name: str) -> Colour:
    """The named colour with each channel moved by at most 18."""
    moved = np.add(PALETTE[name], rng.integers(-18, 19, 3)).clip(0, 255)
    return int(moved[0]), int(moved[1]), int(moved[2])


def scaled(colour: Colour, factor: float, offset: int = 0) -> Colour:
    """`colour * factor + offset`, kept in [0, 255]."""
    red, green, blue = (min(255, max(0, int(value * factor) + offset)) for value in colour)
    return red, green, blue


def colour_word(rng: np.random.Generator, name: str) -> str:
    """The colour's name or one of its synonyms."""
    return choose(rng, WORDS[name])
