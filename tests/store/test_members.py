"""Shards as one dataset: their rows numbered through, and what identifies them."""

import pyarrow as pa
import pytest

from clipsieve.errors import LedgerError
from clipsieve.store import names
from clipsieve.store.members import members_key, ok_rows, read_members
from tests.store.folders import path_of, shard_of, shard_writer


@pytest.fixture
def writer(tmp_path):
    """Writer of a folder with shards of 4, 0 and 3 rows, written in another order."""
    writer = shard_writer(tmp_path)
    writer.commit(shard_of("c", 3, seed=3, no_text=[0]))
    writer.commit(shard_of("a", 4, seed=1, no_image=[2]))
    writer.commit(shard_of("b", 0, uids=pa.array([], pa.string())))
    return writer


def test_rows_are_numbered_through_in_name_order(writer):
    members = read_members(writer.folder)
    rows = [(member.shard, member.first, member.rows, member.ok) for member in members]
    assert rows == [("a", 0, 4, 3), ("b", 4, 0, 0), ("c", 4, 3, 2)]
    assert ok_rows(members) == 5


def test_keys_follow_the_content_of_a_shard_and_no_other(writer):
    before = read_members(writer.folder)
    writer.commit(shard_of("c", 3, seed=3, no_text=[0]))
    assert read_members(writer.folder) == before
    writer.commit(shard_of("c", 3, seed=4, no_text=[0], version="2"))
    after = read_members(writer.folder)
    assert [old.key == new.key for old, new in zip(before, after, strict=True)] == [
        True,
        True,
        False,
    ]
    assert members_key(after) != members_key(before)


def test_a_row_that_gains_its_embedding_changes_the_key(writer):
    before = read_members(writer.folder)
    writer.commit(shard_of("c", 3, seed=3))
    assert read_members(writer.folder)[2].key != before[2].key


def test_a_damaged_ledger_is_told_with_the_reason(writer):
    path_of(writer.folder, names.samples("b")).write_bytes(b"damaged")
    with pytest.raises(LedgerError, match=r"samples/b\.parquet is missing or damaged \(.+\)"):
        read_members(writer.folder)
