"""Which files of a folder are verified, when they are read again, and what is kept of it."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.store import names
from clipsieve.store.integrity import (
    add_checks,
    check_files,
    damaged,
    drop_replaced,
    move_aside,
    read_checks,
    save_checks,
    sealed_files,
    with_replaced,
)
from clipsieve.store.records import DONE, ShardRecord, add_record
from tests.store.folders import make_folder, path_of, shard_of

RUN_ID = "20260101T000000Z-abcdef"


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "out", [shard_of("a", 7), shard_of("b", 5)])[0]


def flip(path, at=None, keep_time=False):
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 4
    before = path.stat()
    path.write_bytes(content)
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_every_file_that_a_job_writes_is_sealed_and_sound(folder):
    kinds = {name.partition("/")[0] for name in sealed_files(folder)}
    assert kinds >= {"dataset.json", "_runs", "samples", "embeddings", "scores", "wide"}
    assert damaged(check_files(folder)) == {}
    on_disk = {
        os.path.relpath(os.path.join(at, file), folder.root)
        for at, _, files in os.walk(folder.root)
        for file in files
    }
    assert on_disk - set(sealed_files(folder)) <= {".lock", ".lock-holder"}


OTHERS = (
    "samples/._a.parquet",
    "samples/notes.txt",
    "samples/a.parquet.tmp-" + "0" * 32,
    "samples/a.parquet.damaged",
    "samples/deeper/a.parquet",
    "sql/mine.sql",
    "sql/.views.sql",
    "metrics/notes.json",
    "fits/.x/y.npz",
    "removals/list/notes.json",
    "wide/mine.parquet",
    "_runs/r.stop",
)


def test_files_that_clipsieve_does_not_write_are_not_looked_at(folder):
    before = sealed_files(folder)
    for name in OTHERS:
        folder.write_text(name, "mine")
    path_of(folder, "metrics/caf\udce9.json").write_text("mine")
    os.symlink("loop", path_of(folder, "samples/loop"))
    assert sealed_files(folder) == before
    drop_replaced(folder)
    assert all(path_of(folder, name).exists() for name in OTHERS[:3] + OTHERS[4:])


def test_only_files_that_changed_are_read_again(folder):
    save_checks(folder, check_files(folder))
    path = path_of(folder, names.samples("a"))
    flip(path, keep_time=True)
    assert damaged(check_files(folder)) == {}  # neither size nor time tells
    os.utime(path)
    assert list(damaged(check_files(folder))) == ["samples/a.parquet"]


def test_a_full_check_reads_all_and_what_it_finds_is_not_forgotten(folder):
    save_checks(folder, check_files(folder))
    flip(path_of(folder, names.samples("a")), keep_time=True)
    checks = check_files(folder, known={})
    assert damaged(checks) == {"samples/a.parquet": "its bytes do not match the sha256 in it"}
    save_checks(folder, checks)
    assert damaged(check_files(folder)) == damaged(checks)
    flip(path_of(folder, names.samples("a")), keep_time=True)  # the bit is right again
    assert damaged(check_files(folder)) == {}


def test_checks_are_kept_as_a_table(folder):
    save_checks(folder, check_files(folder))
    table = pq.read_table(path_of(folder, names.FILES))
    assert table["name"].to_pylist() == sealed_files(folder)
    status = path_of(folder, names.samples("a")).stat()
    (row,) = [row for row in table.to_pylist() if row["name"] == "samples/a.parquet"]
    assert (row["bytes"], row["version"]) == (status.st_size, status.st_mtime_ns)
    assert row["sha256"] == folder.verify("samples/a.parquet").sha256 and row["problem"] is None


@pytest.mark.parametrize("content", [b"", b"PAR1", None])
def test_damaged_checks_are_reported_and_everything_is_read(folder, content):
    save_checks(folder, check_files(folder))
    path = path_of(folder, names.FILES)
    flip(path) if content is None else path.write_bytes(content)
    assert read_checks(folder) == {}
    checks = check_files(folder)
    assert list(damaged(checks)) == [names.FILES]
    save_checks(folder, checks)
    assert damaged(check_files(folder)) == {} and names.FILES not in read_checks(folder)


def test_a_file_written_just_now_is_not_read(folder):
    seal = folder.verify("samples/a.parquet")
    flip(path_of(folder, names.samples("a")))
    assert damaged(check_files(folder, written={"samples/a.parquet": seal})) == {}
    path_of(folder, names.samples("a")).write_bytes(b"cut")
    assert list(damaged(check_files(folder, written={"samples/a.parquet": seal})))


def test_an_emptied_and_an_unsealed_file_are_damaged(folder):
    path_of(folder, names.samples("a")).write_bytes(b"")
    path_of(folder, names.samples("x")).write_text("no Parquet")
    assert damaged(check_files(folder)) == {
        "samples/a.parquet": "it is empty",
        "samples/x.parquet": "it has no clipsieve.sha256, so it is cut or overwritten",
    }


def test_a_file_moved_aside_is_dropped_once_it_is_made_again(folder):
    content = path_of(folder, names.samples("a")).read_bytes()
    move_aside(folder, names.samples("a"))
    assert folder.shards() == ["b"]
    drop_replaced(folder)
    assert path_of(folder, "samples/a.parquet.damaged").read_bytes() == content
    path_of(folder, names.samples("a")).write_bytes(b"damaged again")
    assert move_aside(folder, names.samples("a")) == "samples/a.parquet.damaged2"
    assert path_of(folder, "samples/a.parquet.damaged").read_bytes() == content
    path_of(folder, names.samples("a")).write_bytes(content)
    drop_replaced(folder)
    assert folder.files.list_files("samples") == ["a.parquet", "b.parquet"]


def test_a_sound_file_in_the_place_of_another_is_told_until_it_changes(folder):
    own, other = (folder.verify(names.samples(shard)) for shard in "ab")
    record = ShardRecord(RUN_ID, "a", "/in/a", DONE, files={names.samples("a"): own})
    add_record(folder, record)
    assert damaged(with_replaced(folder, check_files(folder))) == {}
    content = path_of(folder, names.samples("b")).read_bytes()
    path_of(folder, names.samples("a")).write_bytes(content)
    assert damaged(check_files(folder)) == {} and own != other
    told = {"samples/a.parquet": f"it is not the file that run {RUN_ID} wrote"}
    checks = with_replaced(folder, check_files(folder))
    assert damaged(checks) == told
    save_checks(folder, checks)
    assert damaged(check_files(folder)) == told
    os.utime(path_of(folder, names.samples("a")))
    assert damaged(check_files(folder)) == {}


def test_a_file_that_was_not_written_with_its_ledger_is_told(folder, tmp_path):
    other, _ = make_folder(tmp_path / "other", [shard_of("a", 7, seed=5), shard_of("b", 5)])
    (name,) = (n for n in sealed_files(folder) if "embeddings" in n and n.endswith("a.parquet"))
    assert damaged(with_replaced(folder, check_files(folder))) == {}
    path_of(folder, name).write_bytes(path_of(other, name).read_bytes())
    assert damaged(check_files(folder)) == {}
    told = {name: "it is not the file that was written with the shard's ledger"}
    checks = with_replaced(folder, check_files(folder))
    assert damaged(checks) == told
    save_checks(folder, checks)
    assert damaged(check_files(folder)) == told


def test_a_file_of_a_run_whose_record_was_lost_is_not_told(folder):
    other = folder.verify(names.samples("b"))
    add_record(folder, ShardRecord("r9", "a", "", DONE, files={names.samples("a"): other}))
    assert damaged(with_replaced(folder, check_files(folder))) == {}


def test_a_file_that_may_not_be_read_does_not_end_the_check(folder):
    path = path_of(folder, names.samples("a"))
    path.unlink()
    path.symlink_to("/proc/self/mem")  # a file that is there, and that cannot be read
    flip(path_of(folder, names.samples("b")))
    assert list(damaged(check_files(folder))) == ["samples/a.parquet", "samples/b.parquet"]


def test_checks_of_another_form_are_as_none(folder):
    folder.write_table(names.FILES, pa.table({"name": [None], "bytes": ["x"]}), {})
    assert read_checks(folder) == {}


def test_seals_are_kept_without_reading(folder):
    save_checks(folder, check_files(folder, below="samples"))
    seal = folder.verify(names.MANIFEST)
    add_checks(folder, {names.MANIFEST: seal, "samples/gone.parquet": seal})
    assert set(read_checks(folder)) == {"samples/a.parquet", "samples/b.parquet", "dataset.json"}
