"""The history of runs: one record a shard and stage, gathered when a run ends."""

import subprocess
import sys

import pytest

from clipsieve.store.files import LocalFiles
from clipsieve.store.folder import OutputFolder
from clipsieve.store.records import (
    DONE,
    FAILED,
    SCORED,
    ShardRecord,
    add_record,
    gather_records,
    new_run_id,
    read_records,
    write_run,
)

RECORD = ShardRecord("r1", "a", "/in/a", DONE, 3, {"ok": 3})
WRITER = """
import sys
from clipsieve.store.folder import OutputFolder
from clipsieve.store.records import DONE, ShardRecord, add_record
folder = OutputFolder.open(sys.argv[1])
sys.stdin.readline()
for number in range(50):
    add_record(folder, ShardRecord("r1", f"{sys.argv[2]}-{number}", "/in", DONE))
"""


@pytest.fixture
def folder(tmp_path):
    return OutputFolder.open(tmp_path)


def test_records_of_a_run_are_read_back(folder):
    done = ShardRecord("r1", "a", "/in/a", DONE, 3, {"ok": 3}, None, 0.5, 1.0)
    failed = ShardRecord("r1", "b", "/in/b", FAILED, error="cannot read\nit", ended_at=2.0)
    other = ShardRecord("r2", "a", "/in/a", DONE, ended_at=3.0)
    for record in (done, other, failed):
        add_record(folder, record)
    assert read_records(folder, "r1") == [done, failed]
    assert read_records(folder) == [done, failed, other]
    assert read_records(folder, "r3") == []


def test_no_history_has_no_records(folder):
    assert read_records(folder) == []


def test_records_of_one_time_are_always_in_the_same_order(folder):
    for number in (5, 1, 9, 3, 7, 0, 8, 2, 6, 4):
        add_record(folder, ShardRecord("r1", f"s{number}", "/in", DONE))
    assert [record.shard for record in read_records(folder)] == [f"s{n}" for n in range(10)]


def test_gathering_keeps_the_records_in_one_file(tmp_path, folder):
    records = [ShardRecord("r1", name, "/in", DONE, ended_at=n) for n, name in enumerate("cab")]
    for record in records[::-1]:
        add_record(folder, record)
    gather_records(folder, "r1")
    assert [p.name for p in (tmp_path / "_runs").iterdir()] == ["r1.shards.jsonl"]
    assert read_records(folder) == read_records(folder, "r1") == records
    gather_records(folder, "r1")
    assert read_records(folder) == records


def test_a_run_without_records_leaves_no_file(tmp_path, folder):
    gather_records(folder, "r1")
    assert list(tmp_path.iterdir()) == []


def test_gathering_keeps_the_lines_of_an_earlier_run_of_the_same_id(folder):
    first = ShardRecord("r1", "a", "/in/a", DONE, ended_at=1.0)
    second = ShardRecord("r1", "a", "/in/a", SCORED, ended_at=2.0)
    add_record(folder, first)
    gather_records(folder, "r1")
    add_record(folder, second)
    assert read_records(folder) == [first, second]
    gather_records(folder, "r1")
    assert read_records(folder) == [first, second]


def test_gathering_one_run_leaves_the_others(tmp_path, folder):
    other = ShardRecord("r2", "b", "/in/b", DONE)
    add_record(folder, RECORD)
    add_record(folder, other)
    gather_records(folder, "r1")
    assert sorted(p.name for p in (tmp_path / "_runs").iterdir()) == [
        "r1.shards.jsonl",
        "r2.shards",
    ]
    assert read_records(folder, "r2") == [other]


def test_a_gathering_killed_before_the_records_were_removed_doubles_none(tmp_path, folder):
    add_record(folder, RECORD)
    (single,) = (tmp_path / "_runs" / "r1.shards").iterdir()
    content = single.read_bytes()
    gather_records(folder, "r1")
    folder.write_text(f"_runs/r1.shards/{single.name}", content.decode())
    assert read_records(folder) == [RECORD]


def test_records_of_killed_runs_that_were_never_gathered_are_read(folder):
    killed = ShardRecord("r1", "a", "/in/a", DONE, ended_at=1.0)
    ended = ShardRecord("r2", "b", "/in/b", DONE, ended_at=2.0)
    add_record(folder, killed)
    add_record(folder, ended)
    write_run(folder, "r2", {"status": "ok"})
    assert read_records(folder) == [killed, ended]


def test_two_processes_that_write_at_once_lose_nothing(tmp_path, folder):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), name], stdin=subprocess.PIPE, text=True
        )
        for name in "ab"
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    expected = {f"{name}-{number}" for name in "ab" for number in range(50)}
    assert {record.shard for record in read_records(folder, "r1")} == expected
    gather_records(folder, "r1")
    assert {record.shard for record in read_records(folder, "r1")} == expected


class EndingFiles(LocalFiles):
    """Files of a run that ends, and is gathered, just before the operation of a given number."""

    def __init__(self, root, operations):
        super().__init__(root)
        self.operations = operations

    def count(self):
        self.operations -= 1
        if self.operations == 0:
            gather_records(OutputFolder.open(self.root), "r1")

    def list_files(self, folder):
        self.count()
        return super().list_files(folder)

    def list_folders(self, folder):
        self.count()
        return super().list_folders(folder)

    def exists(self, name):
        self.count()
        return super().exists(name)

    def read(self, name, limit=None):
        self.count()
        return super().read(name)


@pytest.mark.parametrize("run_id", [None, "r1"])
@pytest.mark.parametrize("operations", range(1, 8))
def test_a_run_that_ends_while_its_records_are_read_loses_none(
    tmp_path, folder, operations, run_id
):
    records = [ShardRecord("r1", name, "/in", DONE, ended_at=n) for n, name in enumerate("ab")]
    for record in records:
        add_record(folder, record)
    files = EndingFiles(tmp_path, operations)
    assert read_records(OutputFolder(files), run_id) == records
    if operations < 5:
        assert files.operations <= 0


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_a_gathered_line_that_is_torn_is_left_out(tmp_path, folder, cut):
    add_record(folder, RECORD)
    add_record(folder, ShardRecord("r1", "b", "/in/b", DONE, ended_at=1.0))
    gather_records(folder, "r1")
    path = tmp_path / "_runs" / "r1.shards.jsonl"
    *records, _seal = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(records)[:-cut])
    assert read_records(folder) == [RECORD]


def test_a_torn_line_before_another_is_left_out(tmp_path, folder):
    add_record(folder, RECORD)
    gather_records(folder, "r1")
    path = tmp_path / "_runs" / "r1.shards.jsonl"
    for torn in (b'{"run_id": "r1", "sha\n', b"\xff\n"):
        path.write_bytes(torn + RECORD.to_json().encode() + b"\n")
        assert read_records(folder) == [RECORD]


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_a_record_that_is_torn_is_left_out(tmp_path, folder, cut):
    add_record(folder, RECORD)
    torn = tmp_path / "_runs" / "r1.shards" / "torn.json"
    torn.write_bytes(ShardRecord("r1", "b", "/in/b", DONE).to_json().encode()[: -cut + 1 or None])
    assert read_records(folder) == [RECORD]


def test_a_record_that_is_being_written_is_left_out(folder):
    add_record(folder, RECORD)
    with folder.files.writing("_runs/r1.shards/b.json") as path:
        path.write_text(ShardRecord("r1", "b", "/in/b", DONE).to_json() + "\n")
        assert read_records(folder) == [RECORD]


def test_a_line_separator_in_a_message_does_not_cut_a_record(folder):
    record = ShardRecord("r1", "a\u2028b", "/in/a\x85\x0c", FAILED, error="x\u2029y")
    add_record(folder, record)
    assert read_records(folder) == [record]
    gather_records(folder, "r1")
    assert read_records(folder) == [record]


def test_one_run_is_not_taken_for_another_whose_name_it_begins(folder):
    add_record(folder, ShardRecord("run.1", "a", "/in/a", DONE))
    add_record(folder, ShardRecord("run", "b", "/in/b", DONE))
    assert [record.shard for record in read_records(folder, "run")] == ["b"]
    gather_records(folder, "run.1")
    gather_records(folder, "run")
    assert [record.shard for record in read_records(folder, "run")] == ["b"]


def test_run_ids_are_different_and_sort_by_time():
    ids = [new_run_id() for _ in range(20)]
    assert len(set(ids)) == 20
    assert all(len(run_id) == 23 and run_id[8] == "T" for run_id in ids)


def test_description_of_a_run_is_beside_its_gathered_records(tmp_path, folder):
    add_record(folder, RECORD)
    write_run(folder, "r1", {"status": "ok"})
    names = sorted(path.name for path in (tmp_path / "_runs").iterdir())
    assert names == ["r1.json", "r1.shards.jsonl"]
    content = folder.read_json("_runs/r1.json")
    assert content == {"run_id": "r1", "status": "ok"}
