"""Seals: a changed byte of any kind of file is seen, and other programs read sealed files."""

import hashlib
import io
import json
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.store import seal
from clipsieve.store.folder import OutputFolder
from clipsieve.store.seal import Damaged

TABLE = pa.table({"a": pa.array(range(50)), "s": [f"text {n}" for n in range(50)]})
VALUE = {"b": [1, {"d": 1, "c": 2}], "a": "é \u2028", "clipsieve": "clipsieve.sha256"}


def write_table(folder, name):
    folder.write_table(name, TABLE, {"clipsieve.run_id": "clipsieve.sha256: " + "0" * 64})


WRITERS = {
    "x.parquet": write_table,
    "x.json": lambda folder, name: folder.write_json(name, VALUE),
    "line.json": lambda folder, name: folder.write_json(name, VALUE, indent=None),
    "x.npz": lambda folder, name: folder.write_arrays(name, {"x": np.arange(9.0)}),
    "x.sql": lambda folder, name: folder.write_sql(name, "SELECT 1;\n"),
}


@pytest.fixture
def folder(tmp_path):
    return OutputFolder.open(tmp_path)


def is_sound(content: bytes) -> bool:
    try:
        seal.verify(io.BytesIO(content), len(content))
    except Damaged:
        return False
    return True


@pytest.mark.parametrize("name", WRITERS)
def test_every_flipped_bit_of_every_byte_is_seen(tmp_path, folder, name):
    WRITERS[name](folder, name)
    content = (tmp_path / name).read_bytes()
    assert is_sound(content)
    for at in range(len(content)):
        flipped = bytearray(content)
        flipped[at] ^= 1 << at % 8
        assert not is_sound(bytes(flipped)), f"byte {at} of {len(content)}"


@pytest.mark.parametrize("name", WRITERS)
def test_every_cut_and_every_byte_too_many_is_seen(tmp_path, folder, name):
    WRITERS[name](folder, name)
    content = (tmp_path / name).read_bytes()
    assert not any(is_sound(content[:end]) for end in range(len(content)))
    assert not is_sound(content + b"\0") and not is_sound(content + b"0" * 100)
    assert not is_sound(b"\0" + content)


@pytest.mark.parametrize("name", WRITERS)
def test_the_seal_is_the_sha256_of_the_file_with_zeros_in_its_place(tmp_path, folder, name):
    WRITERS[name](folder, name)
    content = (tmp_path / name).read_bytes()
    sealed = folder.verify(name)
    digits = sealed.sha256.encode()
    assert content.count(digits) == 1
    assert hashlib.sha256(content.replace(digits, b"0" * 64)).hexdigest() == sealed.sha256
    assert sealed.bytes == len(content)


@pytest.mark.parametrize("name", WRITERS)
def test_equal_content_has_equal_bytes(tmp_path, folder, name):
    WRITERS[name](folder, name)
    first = (tmp_path / name).read_bytes()
    WRITERS[name](folder, name)
    assert (tmp_path / name).read_bytes() == first


def test_sealed_files_are_read_by_others(tmp_path, folder):
    for name, write in WRITERS.items():
        write(folder, name)
    read = pq.read_table(tmp_path / "x.parquet", page_checksum_verification=True)
    assert read.replace_schema_metadata() == TABLE
    assert json.loads((tmp_path / "x.json").read_text())["b"] == VALUE["b"]
    with np.load(tmp_path / "x.npz") as arrays:
        assert arrays["x"].tolist() == list(range(9))
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        assert archive.testzip() is None


def test_json_keeps_its_order_or_is_sorted_at_every_depth(folder, tmp_path):
    folder.write_json("sorted.json", {"b": {"d": 1, "c": 2}, "a": 0})
    folder.write_json("own.json", {"b": {"d": 1, "c": 2}, "a": 0}, sort_keys=False)
    content = json.loads((tmp_path / "sorted.json").read_text())
    assert list(content)[:2] == ["a", "b"] and list(content["b"]) == ["c", "d"]
    own = folder.read_json("own.json")
    assert list(own) == ["b", "a"] and list(own["b"]) == ["d", "c"]


def test_a_footer_is_read_without_the_seal(folder):
    write_table(folder, "x.parquet")
    assert list(folder.read_footer("x.parquet")) == ["clipsieve.run_id"]


def test_a_table_written_in_parts_is_sealed(folder):
    with folder.writing_table("x.parquet", TABLE.schema, {"clipsieve.rows": "100"}) as writer:
        writer.write_table(TABLE)
        writer.write_table(TABLE)
    assert folder.verify("x.parquet").bytes and folder.read_table("x.parquet").num_rows == 100


def test_the_seal_of_a_large_footer_is_found(folder):
    wide = pa.table({f"column {n}": [n] for n in range(9000)})
    sealed = folder.write_table("x.parquet", wide, {})
    assert folder.verify("x.parquet") == sealed


def test_a_file_without_a_place_for_the_seal_is_not_sealed(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("{}")
    with pytest.raises(Damaged, match=r"has no clipsieve\.sha256"):
        seal.seal(path)


def test_a_sealed_file_is_not_sealed_again(tmp_path, folder):
    folder.write_json("x.json", {"a": 1})
    with pytest.raises(ValueError, match=r"no blank clipsieve\.sha256"):
        seal.seal(tmp_path / "x.json")


def test_the_name_of_the_seal_is_no_key_of_a_value(folder):
    with pytest.raises(ValueError, match="not a key of one's own"):
        folder.write_json("x.json", {"clipsieve.sha256": "mine"})
