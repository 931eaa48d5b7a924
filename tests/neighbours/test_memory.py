"""Temporaries are bounded by the options, not by queries, reference or data."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clipsieve.neighbours.index import ExactIndex, SearchOptions


class LargestTensor(TorchDispatchMode):
    """Remembers the most bytes of memory that any result of an operation lives in."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.bytes = max(self.bytes, leaf.untyped_storage().nbytes())
        return result


OPTIONS = SearchOptions(
    device="cpu", dtype="bfloat16", query_rows=64, reference_rows=1024, pairs=256
)


def largest(reference, queries, k=16):
    index = ExactIndex(reference, options=OPTIONS)
    with LargestTensor() as seen:
        lists = index.search(queries, k)
    assert lists.indices[0, 0] >= 0
    return seen.bytes


def random(rows, dim=8):
    return np.random.default_rng(rows).normal(size=(rows, dim)).astype(np.float32)


def test_the_largest_temporary_does_not_grow_with_the_queries():
    reference = random(5000, 64)
    few, many = largest(reference, random(640, 64)), largest(reference, random(6400, 64))
    # The queries themselves are not copied: a view of them counts with all of their memory.
    assert many <= max(few, 6400 * 64 * 4)
    assert few <= max(64 * 1024 * 2, 640 * 64 * 4, 5000 * 72 * 4)


@pytest.mark.parametrize("kind", ["equal", "close"])
def test_data_where_every_row_is_a_candidate(kind, monkeypatch):
    monkeypatch.setattr("clipsieve.neighbours.selection.PORTION", 1 << 14)
    reference = np.full((20_000, 8), 0.5, np.float32)
    if kind == "close":
        reference += 1e-7 * random(20_000)
    portion = 8 * (1 << 14)
    factor = 20_000 * 16 * 2
    assert largest(reference, reference[:200] + 1) <= max(factor, 8 * portion)
