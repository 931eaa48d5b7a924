"""A file is wholly old or wholly new."""

import json
import threading

import pytest

from clipsieve.store.atomic import MARK, replacing, sweep, temporary_name, write_json, write_text


def test_text_is_written_and_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"
    write_text(path, "grün")
    assert path.read_bytes() == "grün".encode()
    assert [p.name for p in path.parent.iterdir()] == ["c.txt"]


def test_an_exception_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "x.parquet"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("half way")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_first_write_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "x"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_old_file_is_there_until_the_new_one_is(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_no_glob_of_a_reader_matches_a_temporary_file(tmp_path):
    with replacing(tmp_path / "x.parquet") as temporary:
        temporary.touch()
        assert list(tmp_path.glob("*.parquet")) == []


def test_the_last_of_two_writers_wins(tmp_path):
    path = tmp_path / "x"
    with replacing(path) as first:
        first.write_text("first")
        with replacing(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_many_writers_leave_one_whole_file(tmp_path):
    path = tmp_path / "x"
    texts = [f"{n}" * 10_000 for n in range(8)]
    threads = [threading.Thread(target=write_text, args=(path, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_sweep_removes_only_what_interrupted_writes_left(tmp_path):
    kept = tmp_path / "samples" / "a.parquet"
    write_text(kept, "whole")
    left = [
        tmp_path / f"dataset.json{MARK}{'1' * 32}",
        kept.with_name(temporary_name("b.parquet")),
    ]
    mine = [
        tmp_path / f"x.json{MARK}{'1' * 32}",
        kept.with_name(f"c.parquet{MARK}2"),
        tmp_path / "other" / f"x{MARK}{'1' * 32}",
        kept.with_name(f"d{MARK}{'1' * 32}.parquet"),
    ]
    (tmp_path / "other").mkdir()
    for path in (*left, *mine):
        path.touch()
    assert sweep(tmp_path) == sorted(left)
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == {kept, *mine}


def test_json_is_readable_and_refuses_nan(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"b": 1, "a": None})
    assert json.loads(path.read_text()) == {"a": None, "b": 1}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": None, "b": 1}
