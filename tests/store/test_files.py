"""A file is wholly old or wholly new; names are listed, copied and removed."""

import os
import shutil
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.errors import UsageError
from clipsieve.store.file_system import MARK, temporary_name
from clipsieve.store.files import LocalFiles
from clipsieve.store.folder import OutputFolder
from clipsieve.store.name_limits import check_shard_names


@pytest.fixture
def files(tmp_path):
    return LocalFiles(tmp_path)


def test_text_is_written_and_folders_are_made(tmp_path):
    OutputFolder.open(tmp_path).write_text("a/b/c.txt", "grün")
    path = tmp_path / "a" / "b" / "c.txt"
    assert path.read_bytes() == "grün".encode()
    assert [p.name for p in path.parent.iterdir()] == ["c.txt"]


def test_an_exception_keeps_the_old_file_and_leaves_nothing(tmp_path, files):
    path = tmp_path / "x.parquet"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), files.writing("x.parquet") as temporary:
        temporary.write_text("half")
        raise RuntimeError("half way")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("durable", [True, False])
def test_a_write_is_forced_to_disk_unless_told_otherwise(tmp_path, files, monkeypatch, durable):
    forced: list[int] = []
    monkeypatch.setattr(os, "fsync", forced.append)
    (tmp_path / "x").write_text("old")
    with pytest.raises(RuntimeError), files.writing("x", durable) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "x").read_text() == "old"
    with files.writing("x", durable) as temporary:
        temporary.write_text("new")
        assert (tmp_path / "x").read_text() == "old"
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x", "new")]
    assert len(forced) == (2 if durable else 0)  # the file, and its name in the folder


def test_an_interrupted_first_write_leaves_nothing(tmp_path, files):
    with pytest.raises(KeyboardInterrupt), files.writing("x"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_old_file_is_there_until_the_new_one_is(tmp_path, files):
    path = tmp_path / "x"
    path.write_text("old")
    with files.writing("x") as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_no_glob_of_a_reader_matches_a_temporary_file(tmp_path, files):
    with files.writing("x.parquet") as temporary:
        temporary.touch()
        assert list(tmp_path.glob("*.parquet")) == []


def test_the_last_of_two_writers_wins(tmp_path, files):
    path = tmp_path / "x"
    with files.writing("x") as first:
        first.write_text("first")
        with files.writing("x") as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_many_writers_leave_one_whole_file(tmp_path):
    folder, path = OutputFolder.open(tmp_path), tmp_path / "x"
    texts = [f"{n}" * 10_000 for n in range(8)]
    threads = [threading.Thread(target=folder.write_text, args=("x", text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_sweep_removes_only_what_interrupted_writes_left(tmp_path):
    folder = OutputFolder.open(tmp_path)
    kept = tmp_path / "samples" / "a.parquet"
    folder.write_text("samples/a.parquet", "whole")
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
    assert folder.sweep() == [str(path.relative_to(tmp_path)) for path in sorted(left)]
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == {kept, *mine}


def test_sweep_does_not_follow_links(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    left = elsewhere / f"thesis.tmp-{'0' * 32}"
    left.write_text("mine")
    folder = OutputFolder.open(tmp_path / "out")
    folder.write_text("scores/clip/a.txt", "")
    (tmp_path / "out" / "samples").symlink_to(elsewhere)
    (tmp_path / "out" / "scores" / "clip" / "rev=0").symlink_to(elsewhere)
    assert folder.sweep() == [] and left.exists()


def test_sweep_looks_in_every_folder_that_is_written_to(tmp_path):
    folder = OutputFolder.open(tmp_path)
    written = [
        "_runs/r.shards/x.json",
        "audits/groups.parquet",
        "embeddings/tiny/rev=1/a.parquet",
        "fits/density/1.npz",
        "neighbours/1/image/a.parquet",
        "prompts/tiny/rev=1/1.npz",
        "samples/a.parquet",
        "scores/clip/rev=1/a.parquet",
        "sql/views.sql",
        "wide/build=1/part-a.parquet",
    ]
    left = sorted(temporary_name(name) for name in written)
    for name in left:
        folder.write_text(name, "half")
    assert folder.sweep() == left
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_names_in_a_folder_are_sorted_without_it(tmp_path, files):
    for name in ("a/c", "a/b.parquet", "a/d/e", "a/a/e", "f"):
        with files.writing(name) as path:
            path.touch()
    assert files.list_files("a") == ["b.parquet", "c"]
    assert files.list_folders("a") == ["a", "d"]
    assert (files.list_files(""), files.list_folders("")) == (["f"], ["a"])


@pytest.mark.parametrize("name", ["none", "none/below", "file", "file/below"])
def test_a_folder_that_is_missing_or_a_file_lists_nothing(tmp_path, files, name):
    (tmp_path / "file").touch()
    assert (files.list_files(name), files.list_folders(name)) == ([], [])


def test_only_files_exist_as_objects(tmp_path, files):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    assert [files.exists(name) for name in ("file", "folder", "none")] == [True, False, False]


@pytest.mark.parametrize("read", ["read", "open", "read_footer"])
def test_reading_a_missing_object_is_a_file_not_found_error(files, read):
    with pytest.raises(FileNotFoundError):
        getattr(files, read)("none")


def test_an_object_is_read_whole_and_from_any_place(files):
    with files.writing("x") as path:
        path.write_bytes(b"0123456789")
    assert files.read("x") == b"0123456789"
    with files.open("x") as file:
        file.seek(4)
        assert file.read(3) == b"456"


def test_a_footer_is_the_files_own(files):
    with files.writing("x.parquet") as path:
        pq.write_table(pa.table({"x": [1, 2, 3]}), path)
    assert files.read_footer("x.parquet").num_rows == 3


def test_a_copy_replaces_its_target_and_shares_nothing_with_later_writes(tmp_path, files):
    (tmp_path / "old").write_text("first")
    (tmp_path / "new").write_text("replaced")
    files.copy("old", "new")
    assert (tmp_path / "old").stat().st_ino == (tmp_path / "new").stat().st_ino
    with files.writing("old") as path:
        path.write_text("second")
    assert ((tmp_path / "old").read_text(), (tmp_path / "new").read_text()) == ("second", "first")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "old"]


def test_a_copy_is_written_where_there_are_no_hard_links(tmp_path, files, monkeypatch):
    def refuse(source, target):
        raise PermissionError("no links here")

    (tmp_path / "old").write_text("content")
    monkeypatch.setattr(os, "link", refuse)
    files.copy("old", "a/new")
    assert (tmp_path / "a" / "new").read_text() == "content"
    assert (tmp_path / "old").stat().st_ino != (tmp_path / "a" / "new").stat().st_ino


def test_a_copy_of_nothing_leaves_the_target(tmp_path, files):
    (tmp_path / "new").write_text("kept")
    with pytest.raises(FileNotFoundError):
        files.copy("none", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("new", "kept")]


def test_deleting_removes_one_object_and_a_missing_one_is_no_error(tmp_path, files):
    for name in "ab":
        (tmp_path / name).touch()
    for _ in range(2):
        files.delete("a")
    assert files.list_files("") == ["b"]


def test_deleting_a_folder_removes_all_below_it_and_nothing_else(tmp_path, files):
    for name in ("a/b/c", "a/d", "ab/e"):
        with files.writing(name) as path:
            path.touch()
    for _ in range(2):
        files.delete_folder("a")
    assert files.list_folders("") == ["ab"]
    assert files.list_files("ab") == ["e"]


def test_a_folder_is_named_by_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert LocalFiles("out/../other").url("x") == str(tmp_path / "other" / "x")
    assert LocalFiles("~/out").url() == str(tmp_path / "home" / "out")


def test_a_url_is_no_output_folder():
    with pytest.raises(UsageError, match="s3://b/o is a URL, not a path"):
        LocalFiles("s3://b/o")


def test_an_empty_name_is_no_output_folder():
    with pytest.raises(UsageError, match="output folder '' is empty; name a folder"):
        OutputFolder.open("")


def test_opening_a_folder_makes_and_reads_nothing(tmp_path):
    folder = OutputFolder.open(tmp_path / "out")
    assert (folder.shards(), folder.load_manifest()) == ([], None)
    shutil.rmtree(tmp_path)
    assert folder.sweep() == []


@pytest.mark.parametrize("name", ["x" * 247 + ".parquet", "日" * 80 + ".parquet"])
def test_names_as_long_as_can_be_are_written_and_swept(tmp_path, name):
    folder = OutputFolder.open(tmp_path)
    folder.write_text(f"samples/{name}", "whole")
    left = tmp_path / temporary_name(f"samples/{name}")
    left.write_text("half")
    other = tmp_path / "samples" / f"{name[:60]}{MARK}x"
    other.write_text("not ours")
    assert folder.sweep() == [f"samples/{left.name}"]
    assert folder.files.list_files("samples") == sorted([name, other.name])
    assert len(left.name) <= 143


def test_shard_names_that_a_folder_cannot_hold_are_refused(tmp_path):
    check_shard_names(str(tmp_path / "not" / "there"), ["a", "x" * 247])
    with pytest.raises(UsageError, match="would be a file name of 256 bytes, and the file system"):
        check_shard_names(str(tmp_path), ["a", "x" * 248])
    deep = "/".join([str(tmp_path), *["y" * 200] * 18, "z" * 100])
    check_shard_names(deep, ["a"])
    with pytest.raises(UsageError, match=r"has a path of 3,.* more than the 4,095 that the system"):
        check_shard_names(deep, ["a", "x" * 210])
