"""Small drawings of everyday things, each a few parts in unit coordinates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import ImageDraw

from clipsieve.demo.palette import Colour, scaled

WOOD: Colour = (110, 68, 35)
INK: Colour = (20, 20, 20)
GLASS: Colour = (215, 233, 252)
LEAF: Colour = (40, 130, 40)


@dataclass(frozen=True, slots=True)
class Pen:
    """Draws in unit coordinates: x and y in [-1, 1], y down, (0, 0) at the thing's centre."""

    draw: ImageDraw.ImageDraw
    centre: tuple[float, float]
    radius: float

    def _place(self, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        x, y = self.centre
        return [(x + u * self.radius, y + v * self.radius) for u, v in points]

    def _width(self, share: float) -> int:
        return max(2, int(share * self.radius))

    def polygon(self, *points: tuple[float, float], fill: Colour) -> None:
        """A filled polygon."""
        self.draw.polygon(self._place(points), fill=fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        """A filled rectangle."""
        self.draw.rectangle(self._place([(left, top), (right, bottom)]), fill=fill)

    def oval(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        fill: Colour | None = None,
        outline: Colour | None = None,
        width: float = 0.0,
    ) -> None:
        """An ellipse in the given box; `width` is that of the outline."""
        box = self._place([(left, top), (right, bottom)])
        self.draw.ellipse(box, fill=fill, outline=outline, width=self._width(width))

    def disc(self, x: float, y: float, radius: float, fill: Colour) -> None:
        """A filled circle."""
        self.oval(x - radius, y - radius, x + radius, y + radius, fill=fill)

    def dome(self, height: float, fill: Colour) -> None:
        """The upper half of an ellipse as wide as the thing."""
        box = self._place([(-1, -height), (1, height)])
        self.draw.pieslice(box, 180, 360, fill=fill)

    def line(self, *points: tuple[float, float], fill: Colour, width: float) -> None:
        """A line through the points."""
        self.draw.line(self._place(points), fill=fill, width=self._width(width))

    def smile(
        self, left: float, top: float, right: float, bottom: float, fill: Colour, width: float
    ) -> None:
        """The lower arc of the ellipse in the given box."""
        box = self._place([(left, top), (right, bottom)])
        self.draw.arc(box, 10, 170, fill=fill, width=self._width(width))


def _house(pen: Pen, colour: Colour, rng: np.random.Generator) -> None:
    pen.box(-0.75, -0.1, 0.75, 1.0, colour)
    pen.polygon((-1.0, -0.1), (0.0, -1.0), (1.0, -0.1), fill=scaled(colour, 0.45))
    pen.box(-0.2, 0.4, 0.2, 1.0, scaled(WOOD, 0.7))
    pen.box(0.35, 0.15, 0.6, 0.4, GLASS)


def _tree(pen: Pen, colour: Colour, rng: np.random.Generator) -> None:
    pen.box(-0.13, 0.4, 0.13, 1.0, WOOD)
    for half, foot, top in ((0.8, 0.5, -0.2), (0.65, 0.05, -0.6), (0.5, -0.4, -1.0)):
        pen.polygon((-half, foot), (0.0, top), (half, foot), fill=colour)


def _flower(pen: Pen, colour: Colour, rng: np.random.Generator) -> None:
    pen.box(-0.06, 0.1, 0.06, 1.0, LEAF)
    petals = int(rng.integers(5, 8))
    for angle in 2 * np.pi * np.arange(petals) / petals:
        pen.disc(0.45 * np.cos(angle), 0.45 * np.sin(angle) - 0.3, 0.28, colour)
    yellowish = colour[0] > 150 and colour[1] > 150 and colour[2] < 90
    pen.disc(0.0, -0.3, 0.22, WOOD if yellowish else (250, 220, 60))


def _face(pen: Pen, colour: Colour, rng: np.random.Generator) -> None:
    ink = INK if sum(colour) > 200 else (240, 240, 240)
    pen.oval(-1.0, -1.0, 1.0, 1.0, fill=colour, outline=scaled(colour, 0.45))
    for x in (-0.35, 0.35):
        pen.disc(x, -0.28, 0.17, ink)
    pen.smile(-0.6, -0.4, 0.6, 0.65, ink, 0.12)


def _car(pen: Pen, colour: Colour, rng: np.random.Generator) -> None:
    pen.box(-1.0, -0.1, 1.0, 0.5, colour)
    pen.polygon((-0.6, -0.1), (-0.35, -0.6), (0.4, -0.6), (0.7, -0.1), fill=colour)
    pen.polygon((-0.42, -0.12), (-0.26, -0.48), (0.3, -0.48), (0.5, -0.12), fill=GLASS)
    for x in (-0.55, 0.55):
        pen.disc(x, 0.53, 0.27, INK)
        pen.disc(x, 0.53, 0.1, (180, 180, 180))


def _boat(pen: Pen, colour: Colour, rng: np.random.Generator) -> None:
    pen.polygon((-1.0, 0.4), (1.0, 0.4), (0.6, 0.9), (-0.6, 0.9), fill=WOOD)
    pen.box(-0.05, -1.0, 0.05, 0.4, scaled(WOOD, 0.7))
    pen.polygon((0.1, -0.95), (0.85, 0.25), (0.1, 0.25), fill=colour)
    pen.polygon((-0.1, -0.7), (-0.7, 0.25), (-0.1, 0.25), fill=colour)


def _cloud(pen: Pen, colour: Colour, rng: np.random.Generator) -> None:
    for x, y, radius in ((-0.6, 0.22, 0.38), (-0.15, -0.1, 0.5), (0.35, 0.05, 0.42)):
        pen.disc(x, y, radius, colour)
    pen.disc(0.68, 0.27, 0.33, colour)
    pen.box(-0.6, 0.25, 0.68, 0.6, colour)


def _sun(pen: Pen, colour: Colour, rng: np.random.Generator) -> None:
    pen.disc(0.0, 0.0, 0.5, colour)
    for angle in 2 * np.pi * np.arange(10) / 10 + rng.uniform(0, 0.3):
        x, y = float(np.cos(angle)), float(np.sin(angle))
        pen.line((0.62 * x, 0.62 * y), (x, y), fill=colour, width=0.12)


def _mushroom(pen: Pen, colour: Colour, rng: np.random.Generator) -> None:
    pen.box(-0.22, 0.0, 0.22, 1.0, (240, 228, 205))
    pen.dome(0.9, colour)
    spot = (250, 250, 250) if sum(colour) < 600 else scaled(colour, 0.7)
    for x, y in ((-0.5, -0.3), (0.0, -0.6), (0.45, -0.25)):
        pen.disc(x, y, 0.12, spot)


def _cup(pen: Pen, colour: Colour, rng: np.random.Generator) -> None:
    pen.oval(0.3, -0.4, 1.0, 0.4, outline=colour, width=0.16)
    pen.polygon((-0.8, -0.7), (0.6, -0.7), (0.5, 0.8), (-0.7, 0.8), fill=colour)
    pen.oval(-0.8, -0.85, 0.6, -0.55, fill=scaled(colour, 0.45))


def _fish(pen: Pen, colour: Colour, rng: np.random.Generator) -> None:
    pen.oval(-0.9, -0.5, 0.5, 0.5, fill=colour)
    pen.polygon((0.35, 0.0), (1.0, -0.55), (1.0, 0.55), fill=colour)
    pen.polygon((-0.3, -0.4), (0.1, -0.85), (0.2, -0.35), fill=scaled(colour, 0.45))
    pen.disc(-0.55, -0.1, 0.11, (255, 255, 255))
    pen.disc(-0.55, -0.1, 0.06, INK)


def _snowman(pen: Pen, colour: Colour, rng: np.random.Generator) -> None:
    edge = scaled(colour, 0.45)
    pen.oval(-0.6, 0.0, 0.6, 1.0, fill=colour, outline=edge)
    pen.oval(-0.42, -0.6, 0.42, 0.2, fill=colour, outline=edge)
    pen.oval(-0.3, -1.0, 0.3, -0.45, fill=colour, outline=edge)
    pen.polygon((0.0, -0.75), (0.5, -0.68), (0.0, -0.62), fill=(245, 120, 20))
    for y in (-0.35, -0.1, 0.3, 0.6):
        pen.disc(0.0, y, 0.06, INK)


def _umbrella(pen: Pen, colour: Colour, rng: np.random.Generator) -> None:
    pen.dome(1.0, colour)
    for x in (-0.75, -0.25, 0.25, 0.75):
        pen.oval(x - 0.25, -0.12, x + 0.25, 0.12, fill=scaled(colour, 0.45))
    pen.box(-0.05, 0.0, 0.05, 0.8, WOOD)
    pen.smile(-0.05, 0.6, 0.4, 1.0, WOOD, 0.1)


DRAWINGS: dict[str, Callable[[Pen, Colour, np.random.Generator], None]] = {
    "house": _house,
    "tree": _tree,
    "flower": _flower,
    "face": _face,
    "car": _car,
    "boat": _boat,
    "cloud": _cloud,
    "sun": _sun,
    "mushroom": _mushroom,
    "cup": _cup,
    "fish": _fish,
    "snowman": _snowman,
    "umbrella": _umbrella,
}


def draw_object(
    draw: ImageDraw.ImageDraw,
    name: str,
    centre: tuple[float, float],
    radius: float,
    colour: Colour,
    rng: np.random.Generator,
) -> None:
    """Draw one object whose main part has the given colour.

    Args:
      draw: the picture to draw on.
      name: a key of `DRAWINGS`.
      centre: x, y in pixels.
      radius: half the width in pixels.
      colour: of the main part; other parts keep natural colours.
      rng: gives details such as the number of petals.
    """
    DRAWINGS[name](Pen(draw, centre, radius), colour, rng)
