"""The classes of the demo world: 28 that normal data is made of, 9 that it never shows."""

import numpy as np

from clipsieve.demo.draws import choose

SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "diamond",
    "cross",
    "ring",
    "oval",
    "pentagon",
    "rectangle",
)
OBJECTS = (
    "house",
    "tree",
    "flower",
    "face",
    "car",
    "boat",
    "cloud",
    "sun",
    "mushroom",
    "cup",
)
TEXTURES = ("stripes", "checkerboard", "dots", "grid", "rings", "gradient", "plaid", "rays")

HELD_OUT_SHAPES = ("heart", "crescent", "arrow")
HELD_OUT_OBJECTS = ("fish", "snowman", "umbrella")
HELD_OUT_TEXTURES = ("zigzag", "bricks", "waves")

CLASSES = SHAPES + OBJECTS + TEXTURES  #: what models may be trained on
HELD_OUT_CLASSES = HELD_OUT_SHAPES + HELD_OUT_OBJECTS + HELD_OUT_TEXTURES  #: out of distribution

#: Dense data has few concepts, each with many pictures: each of these classes in each colour, on
#: one of the backgrounds; as in the study of backdoors.
DENSE_CLASSES = ("star", "house", "tree", "mushroom", "car", "cross")
DENSE_COLOURS = ("red", "green", "blue", "yellow")
DENSE_BACKGROUNDS = ("white", "gray", "black")

NOUNS: dict[str, tuple[str, ...]] = {name: (name,) for name in CLASSES + HELD_OUT_CLASSES} | {
    "circle": ("circle", "disc", "round dot"),
    "square": ("square", "box"),
    "star": ("star", "five pointed star"),
    "diamond": ("diamond", "rhombus"),
    "cross": ("cross", "plus sign"),
    "ring": ("ring", "hoop"),
    "oval": ("oval", "ellipse"),
    "rectangle": ("rectangle", "bar"),
    "house": ("house", "home"),
    "tree": ("tree", "pine tree"),
    "flower": ("flower", "blossom"),
    "face": ("face", "smiley face"),
    "car": ("car", "automobile"),
    "boat": ("boat", "sailing boat"),
    "sun": ("sun", "shining sun"),
    "cup": ("cup", "coffee mug"),
    "stripes": ("stripes", "striped pattern"),
    "checkerboard": ("checkerboard", "checkered pattern", "chessboard pattern"),
    "dots": ("dots", "polka dots", "dotted pattern"),
    "grid": ("grid", "grid lines"),
    "rings": ("rings", "concentric rings"),
    "gradient": ("gradient", "smooth gradient"),
    "plaid": ("plaid", "tartan plaid"),
    "rays": ("rays", "radial rays"),
    "crescent": ("crescent", "crescent moon"),
    "bricks": ("bricks", "brick wall"),
    "waves": ("waves", "wavy lines"),
}

#: Words of text pictures, and of signs in them.
SIGN_WORDS = (
    "sale open hello news shop free stop music love cafe hotel exit menu pizza taxi bank"
).split()

NUMBER_WORDS = "zero one two three four five six seven eight nine".split()


def noun(rng: np.random.Generator, class_name: str) -> str:
    """The class's name or one of its synonyms."""
    return choose(rng, NOUNS[class_name])


def plural(word: str) -> str:
    """English plural of a noun of this vocabulary: `crosses`, `boxes`, `stars`."""
    return word + ("es" if word[-1] in "xs" else "s")
