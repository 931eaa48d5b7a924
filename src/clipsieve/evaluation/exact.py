"""Exact sums: the same bits for any split and any order of the rows.

A sum is a Python integer, a multiple of 2**-96; integers are added exactly and written as JSON.
"""

import numpy as np

#: Bits below the binary point.
BITS = 96
_LIMB = 32
#: Rows summed at once: with values up to 2**14 no limb overflows 63 bits.
_ROWS = 1 << 16


def exact_total(values: np.ndarray) -> int:
    """Return the sum of values in units of 2**-96.

    Each value is rounded to that unit, and the rounded values are added without an error.

    Args:
      values: (N,) finite, at most 2**14 in absolute value; N = 0 gives 0.

    >>> exact_value(exact_total(np.array([0.1, 0.2])))
    0.30000000000000004
    """
    wide = np.asarray(values, np.float64)
    total = 0
    for first in range(0, len(wide), _ROWS):
        rest, part = wide[first : first + _ROWS], 0
        for limb in range(_LIMB, BITS + 1, _LIMB):
            scale = 2.0**limb
            digits = np.rint(rest * scale)
            part = (part << _LIMB) + int(digits.astype(np.int64).sum())
            rest = rest - digits / scale  # exact: a multiple of the last place of `rest`
        total += part
    return total


def exact_value(total: int) -> float:
    """Return the float64 nearest to a sum of `exact_total`."""
    return total / (1 << BITS)
