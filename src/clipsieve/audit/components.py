"""Connected components of a graph whose edges come in blocks."""

import numpy as np


class Components:
    """Sets of numbers from 0 to `size` - 1, each alone at first; `join` unites sets.

    Edges are not kept, so memory does not grow with their number.  The order in which they come
    does not matter.
    """

    def __init__(self, size: int) -> None:
        """`size` sets of one number each."""
        self._parent = np.arange(size, dtype=np.int64)

    def copy(self) -> "Components":
        """The same sets, to be joined further without changing these."""
        other = Components(0)
        other._parent = self._parent.copy()
        return other

    def labels(self) -> np.ndarray:
        """(size,) int64: the smallest number of the set that each number is in."""
        return self._parent.copy()

    def apart(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """(E,) bool: whether `one[i]` and `other[i]` are in different sets."""
        return np.asarray(self._parent[one] != self._parent[other])

    def join(self, one: np.ndarray, other: np.ndarray) -> None:
        """Unite the sets of `one[i]` and `other[i]` for each i; both (E,) integers."""
        while True:
            apart = self.apart(one, other)
            if not apart.any():
                return
            one, other = one[apart], other[apart]
            roots = self._parent[one], self._parent[other]
            low, high = np.minimum(*roots), np.maximum(*roots)
            # A root with several smaller partners takes the smallest; the next round does the rest.
            np.minimum.at(self._parent, high, low)
            self._flatten()

    def _flatten(self) -> None:
        """Let every number point at the root of its set."""
        while True:
            above = self._parent[self._parent]
            if np.array_equal(above, self._parent):
                return
            self._parent = above
