"""Sums of float64 arrays that have the same bits in whatever order their parts are added."""

from dataclasses import dataclass

import numpy as np

from clipsieve.errors import ClipsieveError

#: Largest magnitude of a value that is added.
LARGEST = 2.0**15

#: Bits of a limb below the first, and the exponent of the first's unit.
_WIDTH = 52
_FIRST = -20
_HALF = 1 << (_WIDTH - 1)
#: Elements that are worked on at once: they stay in the caches of a core.
_BLOCK = 1 << 14


@dataclass(frozen=True, eq=False)
class ExactSum:
    """A sum of float64 arrays of one shape, kept as integers, so that `+` rounds nothing.

    Addition of floats is associative only up to rounding; that of integers is associative, so any
    order and grouping of the same parts gives the same bits.

    A value is taken to the nearest multiple of `2**(32 - 52 * limbs)`: 2**-72 with two limbs, which
    is exact from 2**-20 upwards and an error of 1e-22 at most below.  At least 2**27 values of the
    largest magnitude, 2**15, can be added; a value that stands for 4,096 rows gives 5e11 rows.

    Attributes:
      limbs: (L, ...) int64, L >= 2.  The sum is that of `limbs[i] * 2**(-20 - 52 * i)`; all but
        the first are from -2**51 to below 2**51, which makes them unique.
    """

    limbs: np.ndarray

    @classmethod
    def from_values(cls, values: np.ndarray, limbs: int = 2) -> "ExactSum":
        """Start a sum with one array.

        Args:
          values: float64 of any shape, finite and at most `LARGEST` in magnitude.
          limbs: at least 2; the same for all that are added.

        Raises:
          ClipsieveError: for a value that is NaN, infinite or too large.
        """
        values = np.asarray(values, np.float64)
        if values.size:
            low, high = float(values.min()), float(values.max())
            if not (low >= -LARGEST and high <= LARGEST):
                raise ClipsieveError(
                    f"values from {low} to {high} cannot be summed exactly; they must be finite "
                    f"and at most {LARGEST:g} in magnitude, so add fewer rows at once"
                )
        parts = np.empty((limbs, values.size), np.int64)
        flat = values.reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            remainder = flat[block] * 2.0**-_FIRST
            for at in range(limbs):
                if at:
                    remainder *= 2.0**_WIDTH
                whole = np.rint(remainder)
                parts[at, block] = whole
                remainder -= whole
            _carry(parts[:, block])
        return cls(parts.reshape(limbs, *values.shape))

    @classmethod
    def zeros(cls, shape: tuple[int, ...], limbs: int = 2) -> "ExactSum":
        """Return the sum of no arrays of a shape."""
        return cls(np.zeros((limbs, *shape), np.int64))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the arrays that are summed."""
        return tuple(self.limbs.shape[1:])

    def __add__(self, other: "ExactSum") -> "ExactSum":
        """Return the sum of the parts of both.

        Raises:
          ClipsieveError: if shapes or numbers of limbs differ.
        """
        if self.limbs.shape != other.limbs.shape:
            raise ClipsieveError(
                f"sums with limbs of shapes {self.limbs.shape} and {other.limbs.shape} cannot be "
                "added; both must be of one statistic"
            )
        limbs = self.limbs + other.limbs
        flat = limbs.reshape(len(limbs), -1)
        for start in range(0, flat.shape[1], _BLOCK):
            _carry(flat[:, start : start + _BLOCK])
        return ExactSum(limbs)

    def __eq__(self, other: object) -> bool:
        """Whether both have the same bits."""
        return isinstance(other, ExactSum) and np.array_equal(self.limbs, other.limbs)

    __hash__ = None  # type: ignore[assignment]

    def value(self) -> np.ndarray:
        """Return the sum as float64, within one unit in the last place."""
        total = self.limbs[-1].astype(np.float64)
        for limb in self.limbs[-2::-1]:
            total *= 2.0**-_WIDTH
            total += limb
        total *= 2.0**_FIRST
        return np.asarray(total)


def _carry(limbs: np.ndarray) -> None:
    """Bring all limbs but the first into their range, in place."""
    for at in range(len(limbs) - 1, 0, -1):
        carry = limbs[at] + _HALF
        carry >>= _WIDTH
        limbs[at - 1] += carry
        carry <<= _WIDTH
        limbs[at] -= carry
