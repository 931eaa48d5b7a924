"""Near-duplicate pictures: pairs of unit vectors whose cosine reaches a threshold."""

import numpy as np

from clipsieve.audit.components import Components

#: Rows on either side of one product: with 2,048 it holds 16 MiB, and at most 64 MiB of pairs.
BLOCK_ROWS = 2048
#: Pairs in one exact comparison of vectors.
_PAIRS = 8192
#: Above the error of a float32 product of unit vectors: closer to the threshold is asked again.
_DOUBT = 1e-4


def near_duplicates(unit: np.ndarray, threshold: float, block_rows: int = BLOCK_ROWS) -> Components:
    """Pictures joined wherever the cosine of two is at least `threshold`.

    Joining is transitive: the ends of a chain of near-duplicates share a set.  The answer does
    not depend on `block_rows` or the order of rows: a product that falls within 1e-4 of the
    threshold is computed again in float64.  Takes N^2 / 2 products; memory is a block's.

    Args:
      unit: (N, D) float32, rows of unit norm; N may be 0.
      threshold: cosine, in (0, 1].
      block_rows: rows on either side of one product.

    Returns:
      N numbers in their sets.
    """
    sets = Components(len(unit))
    for top in range(0, len(unit), block_rows):
        rows = unit[top : top + block_rows]
        for left in range(top, len(unit), block_rows):
            columns = unit[left : left + block_rows]
            one, other = np.nonzero(rows @ columns.T >= threshold - _DOUBT)
            for start in range(0, len(one), _PAIRS):
                pair = one[start : start + _PAIRS] + top, other[start : start + _PAIRS] + left
                # Most pairs of a picture with many copies are joined by others before.
                apart = sets.apart(*pair)
                first, second = pair[0][apart], pair[1][apart]
                near = _cosine(unit, first, second) >= threshold
                sets.join(first[near], second[near])
    return sets


def _cosine(unit: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(E,) float64 cosines of the pairs."""
    product = unit[one].astype(np.float64) * unit[other]
    return np.asarray(product.sum(axis=1))
