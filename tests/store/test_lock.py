"""One writer at a time, and no lock outlives its holder."""

import os
import signal
import subprocess
import sys

import pytest

from clipsieve.errors import Locked, UsageError
from clipsieve.store.folder import OutputFolder

HOLDER = """
import sys
from clipsieve.store.folder import OutputFolder
with OutputFolder.open(sys.argv[1]).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path` until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_second_process_is_told_who_holds_the_lock(tmp_path, holder):
    message = f"{tmp_path} is being written by process {holder.pid}; wait for it to end"
    with pytest.raises(Locked, match=message) as refusal, OutputFolder.open(tmp_path).lock():
        pass
    assert refusal.value.exit_code == 75


def test_lock_is_free_after_the_holder_ended(tmp_path, holder):
    holder.communicate()
    with OutputFolder.open(tmp_path).lock():
        pass


def test_lock_is_free_after_the_holder_was_killed(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with OutputFolder.open(tmp_path).lock():
        assert (tmp_path / ".lock-holder").read_text() == str(os.getpid())


def test_lock_is_free_after_an_exception(tmp_path):
    folder = OutputFolder.open(tmp_path / "new" / "folder")
    with pytest.raises(RuntimeError, match="in the block"), folder.lock():
        raise RuntimeError("in the block")
    with folder.lock():
        pass


def test_lock_is_not_taken_twice_in_one_process(tmp_path):
    folder = OutputFolder.open(tmp_path)
    with folder.lock(), pytest.raises(Locked, match=str(os.getpid())), folder.lock():
        pass


def test_folders_have_locks_of_their_own(tmp_path):
    with OutputFolder.open(tmp_path / "a").lock(), OutputFolder.open(tmp_path / "b").lock():
        pass


def test_a_holder_that_cannot_be_read_is_unknown(tmp_path):
    folder = OutputFolder.open(tmp_path)
    with folder.lock():
        (tmp_path / ".lock-holder").unlink()
        (tmp_path / ".lock-holder").mkdir()
        try:
            with pytest.raises(Locked, match="by process unknown"), folder.lock():
                pass
        finally:
            (tmp_path / ".lock-holder").rmdir()


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    message = r"file/out cannot be written to \(Not a directory\); choose another"
    with pytest.raises(UsageError, match=message), OutputFolder.open(tmp_path / "file/out").lock():
        pass
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("begun", [False, True])
def test_a_refused_first_run_leaves_no_lock_beside_a_users_file(tmp_path, begun):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "mine").mkdir()
    folder = OutputFolder.open(tmp_path)
    with pytest.raises(UsageError), folder.lock():
        if begun:
            folder.write_text("dataset.json", "{}")
        raise UsageError("refused")
    left = {"notes.txt", "mine"} | ({"dataset.json", ".lock"} if begun else set())
    assert {path.name for path in tmp_path.iterdir()} == left
