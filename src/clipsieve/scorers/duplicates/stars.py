"""Near-duplicates joined around representatives: every member is near its own, whatever the rest.

Joining whatever is near whatever else, as connected components do, makes chains whose ends have
nothing in common.  A star has no chain.
"""

import numpy as np


def stars(count: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Join nodes that share an edge with a centre.

    Nodes are taken in their order.  The first that is in no star yet is the centre of one, and all
    its neighbours that are in none yet join it.

    Args:
      count: nodes, from the one that is preferred as a centre to the one that is least.
      one: (E,) int64, an end of each edge; edges may be there several times, in either direction.
      other: (E,) int64, its other end.

    Returns:
      (count,) int64: the centre of each node, its own number if it is one.

    >>> stars(4, np.array([0, 1, 2]), np.array([1, 2, 3])).tolist()
    [0, 0, 2, 2]
    """
    sources, targets = np.concatenate([one, other]), np.concatenate([other, one])
    order = np.argsort(sources, kind="stable")
    targets = targets[order]
    ends = np.cumsum(np.bincount(sources, minlength=count))
    centre = np.full(count, -1, np.int64)
    start = 0
    for node, end in enumerate(ends.tolist()):
        if centre[node] < 0:
            centre[node] = node
            if end > start:
                near = targets[start:end]
                centre[near[centre[near] < 0]] = node
        start = end
    return centre
