"""Values of every row are joined in the order of the dataset, whatever the split."""

import numpy as np
import pytest

from clipsieve.statistics.row_arrays import RowArrays
from clipsieve.transforms.merge import Merge
from tests.transforms.combining import combined_every_way

ROWS = {"b": 30, "a": 1, "empty": 0, "c10": 45, "c9": 24}


def observed(batch_rows):
    """One state a batch; values tell their shard and row."""
    states = []
    for number, (shard, rows) in enumerate(ROWS.items()):
        for start in range(0, max(rows, 1), batch_rows):
            at = np.arange(start, min(start + batch_rows, rows))
            arrays = {"row": at, "value": np.stack([at * 0.5, at + 100.0 * number], axis=1)}
            states.append(RowArrays({(shard, start): arrays}))
    return states


@pytest.mark.parametrize("batch_rows", [1, 7, 1000])
def test_any_split_and_order_gives_all_rows_in_the_order_of_the_dataset(batch_rows):
    shards = sorted(ROWS)
    rows = np.concatenate([np.arange(ROWS[shard]) for shard in shards])
    numbers = np.concatenate([[list(ROWS).index(shard)] * ROWS[shard] for shard in shards])
    results = list(combined_every_way(Merge(RowArrays()), observed(batch_rows)))
    assert len(results) == 12
    for result in results:
        joined = result.joined()
        assert joined.keys() == {"row", "value"}
        assert np.array_equal(joined["row"], rows)
        assert np.array_equal(joined["value"], np.stack([rows * 0.5, rows + 100 * numbers], axis=1))


def test_adding_changes_neither_part():
    one, other = observed(1000)[:2]
    keys = list(one.parts), list(other.parts)
    assert len((one + other).parts) == 2
    assert (list(one.parts), list(other.parts)) == keys
