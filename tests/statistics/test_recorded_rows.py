"""Rows found again by shard, row and uid."""

from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.scorers.base import PairBatch
from clipsieve.statistics.hash_sample import row_hashes
from clipsieve.statistics.recorded_rows import RecordedRows, recorded_rows
from clipsieve.statistics.row_arrays import RowArrays


def batch(shard, start, uids):
    return PairBatch(pa.array(uids, pa.string()), shard=shard, start=start)


def recorded_batches():
    batches = [batch("b", 0, ["x", "y"]), batch("a", 0, ["p"]), batch("c", 0, [])]
    batches += [batch("b", 2, ["z"])]
    state = RowArrays()
    for each in batches:
        hashes = row_hashes(each.uid, 5)
        state = state + RowArrays({(each.shard, each.start): {"rows.hashes": hashes}})
    return RecordedRows(recorded_rows(state), 5)


def test_rows_are_in_the_order_of_shards_and_rows():
    rows = recorded_batches()
    assert len(rows) == 4
    assert rows.positions(batch("a", 0, ["p"])).tolist() == [0]
    assert rows.positions(batch("b", 0, ["x", "y", "z"])).tolist() == [1, 2, 3]
    assert rows.positions(batch("b", 1, ["y", "z"])).tolist() == [2, 3]


def test_rows_that_were_not_recorded_have_no_position():
    rows = recorded_batches()
    assert rows.positions(batch("d", 0, ["x"])).tolist() == [-1]
    assert rows.positions(batch("b", 2, ["z", "new", "new"])).tolist() == [3, -1, -1]
    assert rows.positions(batch("b", 9, ["z"])).tolist() == [-1]
    assert rows.positions(batch("c", 0, ["z"])).tolist() == [-1]
    assert rows.positions(batch("c", 0, [])).tolist() == []


def test_a_row_of_another_uid_is_another_row():
    rows = recorded_batches()
    assert rows.positions(batch("b", 0, ["x", "other", "z"])).tolist() == [1, -1, 3]
    assert rows.places(batch("b", 0, ["x", "other", "z"])).tolist() == [1, 2, 3]


def test_arrays_are_those_that_numpy_stores_without_pickle(tmp_path):
    state = RowArrays({("a", 0): {"rows.hashes": row_hashes(pa.array(["p"]), 0)}})
    recorded: dict[str, Any] = recorded_rows(state)
    np.savez(tmp_path / "rows.npz", **recorded)
    with np.load(tmp_path / "rows.npz", allow_pickle=False) as arrays:
        rows = RecordedRows(dict(arrays), 0)
    assert rows.positions(batch("a", 0, ["p"])).tolist() == [0]
