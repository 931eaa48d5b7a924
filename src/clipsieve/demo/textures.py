"""Two-colour textures as weight maps that fill the whole picture."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clipsieve.demo.palette import Colour

SIDE = 128  #: pixels; every picture is drawn at this side

Plane = NDArray[np.float32]
_ROW, _COLUMN = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)


@dataclass(frozen=True, slots=True)
class Frame:
    """Pixel coordinates of a texture, turned and shifted at random.

    Attributes:
      u: (128, 128) float32, pixels along the texture.
      v: (128, 128) float32, pixels across it.
      period: pixels from one repetition to the next, 12 to 30.
      rng: for whatever else a texture varies.
    """

    u: Plane
    v: Plane
    period: float
    rng: np.random.Generator

    def distance_and_angle(self) -> tuple[Plane, Plane]:
        """Polar coordinates about a point near the middle; radians in [-pi, pi]."""
        x, y = self.rng.uniform(40, 88, 2)
        return np.hypot(_COLUMN - x, _ROW - y), np.arctan2(_ROW - y, _COLUMN - x)


def _plane(values: ArrayLike) -> Plane:
    """Weights from numbers or truth values."""
    return np.asarray(values, np.float32)


def _wave(phase: Plane) -> Plane:
    """1 in the first half of each turn of `phase` (turns), else 0."""
    return _plane(phase % 1.0 < 0.5)


def _stripes(frame: Frame) -> Plane:
    return _wave(frame.u / frame.period)


def _checkerboard(frame: Frame) -> Plane:
    step = frame.period / 1.6
    return _plane((np.floor(frame.u / step) + np.floor(frame.v / step)) % 2)


def _dots(frame: Frame) -> Plane:
    half = frame.period / 2
    distance = np.hypot(frame.u % frame.period - half, frame.v % frame.period - half)
    return _plane(distance < frame.period * frame.rng.uniform(0.25, 0.36))


def _grid(frame: Frame) -> Plane:
    line = frame.period * 0.2
    on_line = (frame.u % frame.period < line) | (frame.v % frame.period < line)
    return _plane(on_line)


def _rings(frame: Frame) -> Plane:
    return _wave(frame.distance_and_angle()[0] / frame.period)


def _gradient(frame: Frame) -> Plane:
    return _plane((frame.u - frame.u.min()) / np.ptp(frame.u))


def _plaid(frame: Frame) -> Plane:
    return _plane((_wave(frame.u / frame.period) + _wave(frame.v / frame.period)) / 2)


def _rays(frame: Frame) -> Plane:
    turns = frame.distance_and_angle()[1] / (2 * np.pi)
    return _wave(turns * int(frame.rng.integers(5, 10)) + frame.rng.random())


def _zigzag(frame: Frame) -> Plane:
    slope = np.abs(frame.u % frame.period - frame.period / 2) * 1.4
    return _wave((frame.v + slope) / frame.period)


def _bricks(frame: Frame) -> Plane:
    height, width, mortar = frame.period * 0.7, frame.period * 1.4, frame.period * 0.12
    shift = np.floor(frame.v / height) % 2 * width / 2
    on_mortar = (frame.v % height < mortar) | ((frame.u + shift) % width < mortar)
    return _plane(on_mortar)


def _waves(frame: Frame) -> Plane:
    bend = 0.35 * frame.period * np.sin(2 * np.pi * frame.u / (frame.period * 1.8))
    return _wave((frame.v + bend) / frame.period)


#: Name -> weight map and the largest angle in radians by which it may be turned.
TEXTURE_MAPS: dict[str, tuple[Callable[[Frame], Plane], float]] = {
    "stripes": (_stripes, np.pi),
    "checkerboard": (_checkerboard, 0.15),
    "dots": (_dots, np.pi),
    "grid": (_grid, 0.1),
    "rings": (_rings, np.pi),
    "gradient": (_gradient, np.pi),
    "plaid": (_plaid, 0.0),
    "rays": (_rays, np.pi),
    "zigzag": (_zigzag, np.pi),
    "bricks": (_bricks, 0.0),
    "waves": (_waves, np.pi),
}


def texture(name: str, first: Colour, second: Colour, rng: np.random.Generator) -> Plane:
    """Fill a picture with a texture of two colours.

    Args:
      name: a key of `TEXTURE_MAPS`.
      first: colour where the map is 1.
      second: colour where the map is 0.
      rng: gives period, angle and offset.

    Returns:
      (128, 128, 3) float32 in [0, 255].
    """
    weights, turn = TEXTURE_MAPS[name]
    angle = rng.uniform(-turn, turn)
    x, y = _COLUMN + np.float32(rng.uniform(0, 60)), _ROW + np.float32(rng.uniform(0, 60))
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    frame = Frame(x * cosine + y * sine, y * cosine - x * sine, rng.uniform(12, 30), rng)
    weight = weights(frame)[..., np.newaxis]
    return _plane(first) * weight + _plane(second) * (1 - weight)
