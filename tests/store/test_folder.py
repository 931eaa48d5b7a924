"""The output folder: tables, footers, arrays and JSON, read back or refused."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.errors import LedgerError
from clipsieve.schemas import footers
from clipsieve.store import seal
from clipsieve.store.folder import OutputFolder

FOOTER = {footers.FAMILY: "clip", footers.ROWS: "3"}
TABLE = pa.table({"a": [1, 2, 3], "b": ["x", "y", "z"], "c": [0.5, 1.5, 2.5]})


@pytest.fixture
def folder(tmp_path):
    return OutputFolder.open(tmp_path)


def flip_page_bytes(path, column):
    """Change one byte inside the first data page of a column."""
    chunk = pq.read_metadata(path).row_group(0).column(column)
    raw = bytearray(path.read_bytes())
    raw[chunk.data_page_offset + chunk.total_compressed_size - 3] ^= 1
    path.write_bytes(raw)


def test_shards_are_the_ledgers_files_in_order(tmp_path, folder):
    for name in ("b", "a.c", "a"):
        folder.write_table(f"samples/{name}.parquet", TABLE, {})
    (tmp_path / "samples" / "a.parquet.tmp-1").touch()
    (tmp_path / "samples" / "notes.txt").touch()
    assert folder.shards() == folder.tables("samples") == ["a", "a.c", "b"]
    assert folder.tables("scores/clip/rev=0") == []


@pytest.mark.parametrize("count", [0, 1, 200])
def test_footers_read_at_once_are_those_read_one_by_one(tmp_path, folder, count):
    names = [f"samples/{number:03}.parquet" for number in range(count)]
    expected = []
    for number, name in enumerate(names):
        sound = number % 7 != 3
        if sound:
            folder.write_table(name, TABLE, {footers.SHARD: str(number)})
        elif number % 2:  # the other half is missing
            folder.write_text(name, "damaged")
        expected.append({footers.SHARD: str(number)} if sound else {})
    assert folder.read_footers(iter(names[::-1])) == expected[::-1]
    assert [folder.read_footer(name) for name in names] == expected


def test_a_refusal_of_the_system_is_told_by_footers_read_at_once_too(tmp_path, folder):
    folder.write_table("a.parquet", TABLE, FOOTER)
    (tmp_path / "loop.parquet").symlink_to(tmp_path / "loop.parquet")
    with pytest.raises(OSError, match="symbolic links"):
        folder.read_footers(["a.parquet", "loop.parquet"])


def test_table_and_footer_are_read_back(folder):
    folder.write_table("a/b.parquet", TABLE, FOOTER)
    assert folder.read_table("a/b.parquet").equals(TABLE)
    assert folder.read_schema("a/b.parquet").remove_metadata() == TABLE.schema
    assert folder.read_footer("a/b.parquet") == FOOTER


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        (["c", "a"], ["c", "a"]),
        (["a", "c"], ["a", "c"]),
        (["b", "none", "a"], ["b", "a"]),
        (["none"], []),
        ([], []),
        (None, ["a", "b", "c"]),
    ],
)
def test_columns_are_those_asked_for_in_that_order(folder, wanted, given):
    folder.write_table("a.parquet", TABLE, FOOTER)
    table = folder.read_table("a.parquet", wanted)
    assert table.column_names == given
    assert all(table[name].equals(TABLE[name]) for name in given)


def test_one_changed_byte_inside_a_page_is_damage(tmp_path, folder):
    numbers = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    table = pa.table({"a": numbers, "b": numbers[::-1]})
    folder.write_table("a.parquet", table, FOOTER)
    flip_page_bytes(tmp_path / "a.parquet", 1)
    message = r"a\.parquet is missing or damaged \(.*CRC.*\); run `clipsieve run` again"
    with pytest.raises(LedgerError, match=message):
        folder.read_table("a.parquet")
    with pytest.raises(LedgerError, match=message), folder.open_table("a.parquet") as file:
        file.read_row_group(0)
    assert folder.read_table("a.parquet", ["a"]).equals(table.select(["a"]))


@pytest.mark.parametrize("read", ["read_table", "read_schema"])
@pytest.mark.parametrize("content", [None, b"", b"not a Parquet file at all"])
def test_a_table_that_is_missing_or_damaged_is_a_ledger_error(tmp_path, folder, read, content):
    if content is not None:
        (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(LedgerError, match=r"a\.parquet is missing or damaged .* run` again"):
        getattr(folder, read)("a.parquet")


def test_arrays_are_read_back(folder):
    arrays = {"b": np.arange(6.0).reshape(2, 3), "a": np.array([], np.int32), "s": np.array("x")}
    folder.write_arrays("fits/a.npz", arrays)
    found = folder.read_arrays("fits/a.npz")
    assert set(found) == {"a", "b", "s"}
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)


def test_bytes_of_arrays_depend_on_names_and_values_only(tmp_path, folder):
    arrays = {"b": np.arange(3), "a": np.ones(2)}
    folder.write_arrays("x.npz", arrays)
    folder.write_arrays("y.npz", dict(reversed(arrays.items())))
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "y.npz").read_bytes()


def test_damaged_arrays_are_a_ledger_error_with_the_cure(tmp_path, folder):
    folder.write_arrays("x.npz", {"a": np.arange(1000)})
    raw = (tmp_path / "x.npz").read_bytes()
    flipped = bytearray(raw)
    flipped[len(raw) // 2] ^= 1
    for damaged in (b"", raw[:100], raw[:-10], b"not an archive", bytes(flipped)):
        (tmp_path / "x.npz").write_bytes(damaged)
        with pytest.raises(LedgerError, match=r"x\.npz is damaged .*makes it again"):
            folder.read_arrays("x.npz")
    with pytest.raises(LedgerError, match=r"none\.npz is missing; .*makes it again"):
        folder.read_arrays("none.npz")


def test_pickled_objects_are_never_loaded(tmp_path, folder):
    np.savez(tmp_path / "x.npz", a=np.array([{}], object))
    seal.add_blank_comment(tmp_path / "x.npz")
    seal.seal(tmp_path / "x.npz")
    with pytest.raises(LedgerError, match="allow_pickle=False"):
        folder.read_arrays("x.npz")


def test_json_is_readable_and_refuses_nan(tmp_path, folder):
    path = tmp_path / "x.json"
    folder.write_json("x.json", {"b": 1, "a": None})
    assert folder.read_json("x.json") == {"a": None, "b": 1}
    before = json.loads(path.read_text())
    assert list(before) == ["a", "b", "clipsieve.sha256"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.write_json("x.json", {"a": float("nan")})
    assert json.loads(path.read_text()) == before
