"""Stars against their definition; members are always next to their centre."""

import numpy as np
import pytest

from clipsieve.scorers.duplicates.stars import stars


def naive(count, edges):
    centre: list[int | None] = [None] * count
    for node in range(count):
        if centre[node] is None:
            centre[node] = node
            for other in range(count):
                if centre[other] is None and {(node, other), (other, node)} & edges:
                    centre[other] = node
    return centre


@pytest.mark.parametrize("seed", range(20))
def test_random_graphs(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 40))
    ends = rng.integers(0, count, (int(rng.integers(0, 60)), 2))
    got = stars(count, ends[:, 0], ends[:, 1]).tolist()
    edges = {(int(a), int(b)) for a, b in ends}
    assert got == naive(count, edges)
    for node, centre in enumerate(got):
        assert node == centre or {(node, centre), (centre, node)} & edges
        assert got[centre] == centre <= node


def test_a_chain_is_cut():
    chain = np.arange(5)
    assert stars(6, chain, chain + 1).tolist() == [0, 0, 2, 2, 4, 4]


def test_no_edges():
    nothing = np.empty(0, np.int64)
    assert stars(3, nothing, nothing).tolist() == [0, 1, 2]
    assert stars(0, nothing, nothing).tolist() == []
