"""Random draws shared by the generator."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def choose(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of `options`, all equally likely."""
    return options[int(rng.integers(len(options)))]


def coin(rng: np.random.Generator, probability: float) -> bool:
    """True with the given probability in [0, 1]."""
    return bool(rng.random() < probability)
