"""Counts of rows add up, however the rows are split."""

import numpy as np
import pytest

from clipsieve.schemas.states import RowState
from clipsieve.statistics.counts import RowCounts


@pytest.mark.parametrize("shards", [1, 7, 50])
def test_any_split_in_any_order_gives_the_same_counts(shards):
    rng = np.random.default_rng(shards)
    states = [list(RowState)[n] for n in rng.integers(0, len(RowState), 300)]
    cuts = np.sort(rng.integers(0, 301, shards - 1))
    parts = [RowCounts.of(part.tolist()) for part in np.split(np.array(states), cuts)]
    whole = RowCounts.of(states)
    for _ in range(5):
        total = sum((parts[n] for n in rng.permutation(shards)), RowCounts())
        assert (total.states, total.rows, total.shards) == (whole.states, 300, shards)


def test_grouping_does_not_matter():
    a, b, c = (RowCounts.of(states) for states in (["ok"], ["ok", "decode_error"], []))
    assert (a + b) + c == a + (b + c) == c + b + a


def test_zero_changes_nothing():
    counts = RowCounts.of(["ok", "empty_caption"])
    assert counts + RowCounts() == RowCounts() + counts == counts
    assert RowCounts().rows == 0


def test_json_gives_the_counts_back():
    counts = RowCounts.of(["ok", "ok", "missing_image"]) + RowCounts.of([])
    assert RowCounts.from_json(counts.to_json()) == counts
    assert counts.to_json() == {"states": {"missing_image": 1, "ok": 2}, "shards": 2}
