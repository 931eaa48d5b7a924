"""When a process counts as stuck, with real ones."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from clipsieve.job.activity import Activity

STALL = 0.4
COMPUTES = "while True: pass"
SLEEPS = "import time; time.sleep(300)"
WRITES = """
import os, time
while True:
    os.write(1, b"x" * 8192)
    time.sleep(0.02)
"""


@contextmanager
def running(code: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has begun to run `code`."""
    begun = f"import sys; print(file=sys.stderr, flush=True)\n{code}"
    with open("/dev/null", "wb") as null:
        process = subprocess.Popen(
            [sys.executable, "-c", begun], stdout=null, stderr=subprocess.PIPE
        )
    try:
        assert process.stderr is not None
        process.stderr.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def check_for(activity: Activity, seconds: float, every: float = 0.02) -> str | None:
    """The first verdict within a time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(every)
        verdict = activity.check()
        if verdict is not None:
            return verdict
    return None


@pytest.mark.parametrize("code", [SLEEPS, COMPUTES])
def test_a_process_that_is_stopped_or_waits_is_stuck(code):
    with running(code) as process:
        if code == COMPUTES:
            process.send_signal(signal.SIGSTOP)
        assert check_for(Activity(process.pid, STALL), 20) == "did nothing for 0.4s"


@pytest.mark.parametrize("code", [COMPUTES, WRITES])
def test_a_process_that_computes_or_moves_bytes_is_not(code):
    with running(code) as process:
        assert check_for(Activity(process.pid, STALL), 4 * STALL) is None


def test_computing_without_a_report_counts_for_a_limited_time(monkeypatch):
    monkeypatch.setattr("clipsieve.job.activity.PATIENCE", 2)
    with running(COMPUTES) as process:
        verdict = check_for(Activity(process.pid, STALL), 20)
        assert verdict == "finished no step in 0.8s, though it computes"


def test_a_report_is_progress_of_a_process_that_does_nothing_else():
    with running(SLEEPS) as process:
        activity = Activity(process.pid, STALL)
        for _ in range(4):
            assert check_for(activity, STALL / 2) is None
            activity.report()


def test_time_in_which_nobody_looked_does_not_count(monkeypatch):
    monkeypatch.setattr("clipsieve.job.activity.STEP_SECONDS", STALL / 4)
    with running(SLEEPS) as process:
        activity = Activity(process.pid, STALL)
        time.sleep(2 * STALL)  # as while the driver was stopped itself
        assert activity.check() is None


def test_a_process_that_has_ended_is_not_stuck():
    with running("pass") as process:
        process.wait()
        assert Activity(process.pid, STALL).check() is None
