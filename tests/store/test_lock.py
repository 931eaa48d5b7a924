"""One writer at a time, and no lock outlives its holder."""

import os
import signal
import subprocess
import sys

import pytest

from clipsieve.errors import Locked
from clipsieve.store.layout import Layout
from clipsieve.store.lock import exclusive

HOLDER = """
import sys
from clipsieve.store.layout import Layout
from clipsieve.store.lock import exclusive
with exclusive(Layout.at(sys.argv[1])):
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
    with pytest.raises(Locked, match=message) as refusal, exclusive(Layout.at(tmp_path)):
        pass
    assert refusal.value.exit_code == 75


def test_lock_is_free_after_the_holder_ended(tmp_path, holder):
    holder.communicate()
    with exclusive(Layout.at(tmp_path)):
        pass


def test_lock_is_free_after_the_holder_was_killed(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with exclusive(Layout.at(tmp_path)):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"


def test_lock_is_free_after_an_exception(tmp_path):
    layout = Layout.at(tmp_path / "new" / "folder")
    with pytest.raises(RuntimeError, match="in the block"), exclusive(layout):
        raise RuntimeError("in the block")
    with exclusive(layout):
        pass


def test_lock_is_not_taken_twice_in_one_process(tmp_path):
    with exclusive(Layout.at(tmp_path)), pytest.raises(Locked, match=str(os.getpid())):
        with exclusive(Layout.at(tmp_path)):
            pass


def test_folders_have_locks_of_their_own(tmp_path):
    with exclusive(Layout.at(tmp_path / "a")), exclusive(Layout.at(tmp_path / "b")):
        pass
