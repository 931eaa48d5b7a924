"""Pictures near a representative: groups of pictures without chains."""

import numpy as np

#: Rows on one side of a product.
BLOCK_ROWS = 4096
#: Rows whose neighbours are found together.
_ROWS_AT_ONCE = 256
#: Above the error of a float32 product of unit vectors: closer to the threshold is asked again.
_DOUBT = 1e-4
#: Coordinates are compared as whole multiples of this, so that every product is exact.
_GRID = float(1 << 14)


def representatives(unit: np.ndarray, threshold: float, least: int, most: int) -> np.ndarray:
    """Choose rows that have others near them, each further than `threshold` from those before it.

    Args:
      unit: (N, D) float32 of unit norm, in order of preference; N may be 0.
      threshold: cosine, in (0, 1].
      least: rows, itself included, that lie near a representative.
      most: representatives.

    Returns:
      (R,) int64 numbers of rows, rising.
    """
    free = np.ones(len(unit), bool)
    chosen: list[int] = []
    for start in range(0, len(unit), _ROWS_AT_ONCE):
        block = np.flatnonzero(free[start : start + _ROWS_AT_ONCE]) + start
        near_block = _near(unit, unit[block], threshold)
        for row, near in zip(block.tolist(), near_block, strict=True):
            if len(chosen) < most and free[row] and np.count_nonzero(near) >= least:
                chosen.append(row)
                free &= ~near
    return np.array(chosen, np.int64)


def nearest(unit: np.ndarray, centres: np.ndarray, threshold: float) -> np.ndarray:
    """The representative that each picture is nearest to.

    Args:
      unit: (N, D) float32 of unit norm.
      centres: (R, D) float32 of unit norm.
      threshold: cosine that must be reached.

    Returns:
      (N,) int64 numbers of centres; -1 where none is near.  Among equals the first.
    """
    found = np.full(len(unit), -1, np.int64)
    if not len(centres):
        return found
    for start in range(0, len(unit), BLOCK_ROWS):
        block = unit[start : start + BLOCK_ROWS]
        product = block @ centres.T
        rows, numbers = np.nonzero(product >= threshold - _DOUBT)
        exact = _exact(block[rows], centres[numbers])
        kept = exact >= threshold
        rows, numbers, exact = rows[kept], numbers[kept], exact[kept]
        order = np.lexsort((numbers, -exact, rows))
        rows, numbers = rows[order], numbers[order]
        first = np.flatnonzero(np.diff(rows, prepend=-1))
        found[start + rows[first]] = numbers[first]
    return found


def _near(unit: np.ndarray, centres: np.ndarray, threshold: float) -> np.ndarray:
    """(R, N) bool: which pictures are near which centre."""
    product = centres @ unit.T
    near = product >= threshold - _DOUBT
    ones, others = np.nonzero(near & (product <= threshold + _DOUBT))
    near[ones, others] = _exact(centres[ones], unit[others]) >= threshold
    return np.asarray(near)


def _exact(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(E,) float64 cosines of pairs of rows; the same on every machine."""
    left, right = (np.rint(side.astype(np.float64) * _GRID) for side in (one, other))
    # By the norms on the grid: equal vectors have a cosine of 1.
    squares = (left * left).sum(axis=1) * (right * right).sum(axis=1)
    return np.asarray((left * right).sum(axis=1) / np.sqrt(squares))
