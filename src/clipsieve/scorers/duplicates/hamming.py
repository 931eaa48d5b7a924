"""All pairs of 64-bit values within a Hamming distance, exact and without comparing all of them.

The 64 bits are dealt into `distance + m` blocks.  Values that differ in at most `distance` bits
agree in at least m blocks, so it is enough to compare values that agree in all blocks of one of
the (distance + m choose m) sets of m: sorted by those bits, they are neighbours.  This is the
multi-index hashing of Manku, Jain and Das Sarma, WWW 2007, section 3.  m is chosen for the number
of values: more blocks mean longer keys, and so fewer pairs to compare, but more sorts.

Bit i is dealt to block i modulo the number of blocks: neighbouring bits of a perceptual hash say
much the same, and a block of them would have few values.
"""

from collections.abc import Iterator
from itertools import combinations
from math import comb

import numpy as np

from clipsieve.errors import UsageError

#: Above it the sets of blocks are so many that the search is hardly better than comparing all.
MOST_BITS = 8
#: Pairs that are compared at once; with their indices they take 100 MB.
_PAIRS = 1 << 22
#: Values with one key from which they are compared as blocks of a matrix.
_LONG_RUN = 512
#: Cost of a sort, in comparisons a value.
_SORT_COST = 30
_MOST_BLOCKS_EQUAL = 4


def hamming_pairs(
    values: np.ndarray, distance: int, agreeing: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all pairs of values that differ in at most `distance` bits, each pair once.

    Memory is that of the values and of 4 million pairs, however many share a key; time grows with
    the square of the number that do.

    Args:
      values: (N,) uint64, all different; N may be 0.
      distance: bits, 0 to 8.
      agreeing: the m of the method; None chooses it for N.

    Yields:
      Two (P,) int64 arrays of positions in `values`, the first below the second in each pair.

    Raises:
      UsageError: for a distance out of range.
    """
    check_distance(distance)
    if distance == 0 or len(values) < 2:
        return  # all are different
    m = agreeing or _agreeing_blocks(len(values), distance)
    masks = _block_masks(distance + m)
    for number, blocks in enumerate(combinations(range(len(masks)), m)):
        key = values & np.bitwise_or.reduce(masks[list(blocks)])
        order = np.argsort(key, kind="stable")
        ordered = values[order]
        for one, other in _near_in_runs(key[order], ordered, distance):
            # A pair is found with each set of blocks in which it agrees: the first of them counts.
            differing = ordered[one] ^ ordered[other]
            new = _first_agreeing(differing, masks, m) == number
            first, second = order[one[new]], order[other[new]]
            if len(first):
                yield np.minimum(first, second), np.maximum(first, second)


def check_distance(distance: int) -> None:
    """Refuse a distance that is not an int from 0 to 8.

    Raises:
      UsageError: if it is not.
    """
    if isinstance(distance, bool) or not isinstance(distance, int | np.integer):
        raise UsageError(f"a Hamming distance must be an int, got {distance!r}")
    if not 0 <= distance <= MOST_BITS:
        raise UsageError(f"a Hamming distance must be from 0 to {MOST_BITS}, got {distance}")


def _agreeing_blocks(count: int, distance: int) -> int:
    """The m for which sorting and comparing random values costs least."""

    def cost(m: int) -> float:
        key_bits = 64 * m // (distance + m)
        pairs: float = count**2 / 2 ** (key_bits + 1)
        return comb(distance + m, m) * (_SORT_COST * count + pairs)

    return min(range(1, _MOST_BLOCKS_EQUAL + 1), key=cost)


def _block_masks(blocks: int) -> np.ndarray:
    """(blocks,) uint64: the bits of each block."""
    return np.array(
        [sum(1 << bit for bit in range(block, 64, blocks)) for block in range(blocks)], np.uint64
    )


def _near_in_runs(
    keys: np.ndarray, values: np.ndarray, distance: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions of pairs within `distance` that have one key; `keys` is sorted."""
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    lengths = np.diff(np.append(starts, len(keys)))
    ends = np.repeat(starts + lengths, lengths)
    later = ends - np.arange(len(keys)) - 1  # values that follow with the same key
    later[np.repeat(lengths > _LONG_RUN, lengths)] = 0
    positions = np.flatnonzero(later)
    totals = np.cumsum(later[positions])
    for part in np.split(
        positions, np.searchsorted(totals, np.arange(_PAIRS, _last(totals), _PAIRS))
    ):
        counts = later[part]
        one = np.repeat(part, counts)
        within = np.arange(len(one)) - np.repeat(np.cumsum(counts) - counts, counts)
        other = one + 1 + within
        near = np.bitwise_count(values[one] ^ values[other]) <= distance
        yield one[near], other[near]
    for run in np.flatnonzero(lengths > _LONG_RUN):
        yield from _near_in_run(values, starts[run], starts[run] + lengths[run], distance)


def _near_in_run(
    values: np.ndarray, start: int, end: int, distance: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions of pairs within `distance` among consecutive values."""
    at = start
    while at < end:
        rows = max(1, min(end - at, _PAIRS // (end - at)))
        differing = values[at : at + rows, None] ^ values[None, at:end]
        one, other = np.nonzero(np.bitwise_count(differing) <= distance)
        later = other > one
        yield one[later] + at, other[later] + at
        at += rows


def _first_agreeing(differing: np.ndarray, masks: np.ndarray, m: int) -> np.ndarray:
    """Number of the first set of m blocks in which each pair agrees, given the XOR of the two."""
    agrees = (differing[:, None] & masks[None]) == 0
    first = np.full(len(differing), -1)
    sets = list(combinations(range(len(masks)), m))
    for number in range(len(sets) - 1, -1, -1):
        first[agrees[:, list(sets[number])].all(axis=1)] = number
    return first


def _last(totals: np.ndarray) -> int:
    return int(totals[-1]) if len(totals) else 0
