"""Flat shapes as closed outlines in unit coordinates.

An outline is an (N, 2) float64 array of x, y with y pointing down, inside the unit circle or
slightly outside it.  Shapes that vary take their proportions from the generator they are given.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import ImageDraw

from clipsieve.demo.draws import choose, coin
from clipsieve.demo.palette import Colour

Outline = NDArray[np.float64]
UP = -np.pi / 2


def _polygon(corners: int, radii: tuple[float, ...] = (1.0,)) -> Outline:
    """Corners at equal angles, the first pointing up, `radii` taken in turn."""
    angles = UP + 2 * np.pi * np.arange(corners) / corners
    reach = np.resize(radii, corners)
    return np.column_stack([reach * np.cos(angles), reach * np.sin(angles)])


def _box(width: float, height: float) -> Outline:
    return np.array([(-width, -height), (width, -height), (width, height), (-width, height)])


def _either_way(rng: np.random.Generator, outline: Outline) -> Outline:
    """The outline lying or standing."""
    return outline if coin(rng, 0.5) else outline[:, ::-1]


def _circle(rng: np.random.Generator) -> Outline:
    return _polygon(48)


def _square(rng: np.random.Generator) -> Outline:
    return _box(0.85, 0.85)


def _triangle(rng: np.random.Generator) -> Outline:
    return _polygon(3)


def _star(rng: np.random.Generator) -> Outline:
    return _polygon(10, (1.0, 0.42))


def _diamond(rng: np.random.Generator) -> Outline:
    return _polygon(4, (1.0, 0.68))


def _cross(rng: np.random.Generator) -> Outline:
    arm = 0.33
    quarter = np.array([(-arm, -1.0), (arm, -1.0), (arm, -arm)])
    turn = np.array([(0.0, 1.0), (-1.0, 0.0)])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


def _ring(rng: np.random.Generator) -> Outline:
    edge = np.concatenate([_polygon(48), _polygon(48)[:1]])
    return np.concatenate([edge, edge[::-1] * rng.uniform(0.6, 0.75)])


def _oval(rng: np.random.Generator) -> Outline:
    return _either_way(rng, _polygon(48) * (1.0, rng.uniform(0.45, 0.6)))


def _pentagon(rng: np.random.Generator) -> Outline:
    return _polygon(5)


def _rectangle(rng: np.random.Generator) -> Outline:
    return _either_way(rng, _box(1.0, rng.uniform(0.35, 0.5)))


def _heart(rng: np.random.Generator) -> Outline:
    t = np.linspace(0, 2 * np.pi, 40)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.column_stack([16 * np.sin(t) ** 3, -y]) / 16


def _crescent(rng: np.random.Generator) -> Outline:
    outer, inner = np.linspace(0.25, 1.75, 40) * np.pi, np.linspace(1.65, 0.35, 40) * np.pi
    back = np.column_stack([np.cos(outer), np.sin(outer)])
    front = np.column_stack([0.4 + 0.75 * np.cos(inner), 0.75 * np.sin(inner)])
    return np.concatenate([back, front])


def _arrow(rng: np.random.Generator) -> Outline:
    half = np.array([(-1.0, 0.25), (0.2, 0.25), (0.2, 0.7), (1.0, 0.0)])
    outline = np.concatenate([half, half[-2::-1] * (1, -1)])
    return outline @ _rotation(choose(rng, (0, 1, 2, 3)) * np.pi / 2)


OUTLINES: dict[str, Callable[[np.random.Generator], Outline]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "diamond": _diamond,
    "cross": _cross,
    "ring": _ring,
    "oval": _oval,
    "pentagon": _pentagon,
    "rectangle": _rectangle,
    "heart": _heart,
    "crescent": _crescent,
    "arrow": _arrow,
}


def _rotation(angle: float) -> Outline:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([(cosine, sine), (-sine, cosine)])


def draw_shape(
    draw: ImageDraw.ImageDraw,
    name: str,
    centre: tuple[float, float],
    radius: float,
    colour: Colour,
    rng: np.random.Generator,
) -> None:
    """Draw one shape, tilted by at most 0.15 radians so that its name stays true.

    Args:
      draw: the picture to draw on.
      name: a key of `OUTLINES`.
      centre: x, y in pixels.
      radius: pixels.
      colour: fill.
      rng: gives proportions and tilt.
    """
    outline = OUTLINES[name](rng) @ _rotation(rng.uniform(-0.15, 0.15))
    corners = (outline * radius + centre).ravel().tolist()
    draw.polygon(corners, fill=colour)
