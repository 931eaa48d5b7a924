"""What a second signal does to a process that cannot stop in order."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from clipsieve.job.signals import LEAVE_SECONDS, SECOND_SIGNAL

#: Says that it has begun, and again once the first signal has stopped the run; then does `{wait}`.
PROCESS = """
import ctypes, os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from clipsieve.control import Control
from clipsieve.job.signals import stopping_on_signals

def deadlock():
    # Not even a signal ends this wait: what a read of a hard mount is like.
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)

control = Control()
with stopping_on_signals(control):
    print("begun", flush=True)
    while not control.stopped:
        time.sleep(0.01)
    print(control.reason, flush=True)
    {wait}
"""
SLEEPS = "time.sleep(300)"
DEADLOCKS = "deadlock()"
THREAD_DEADLOCKS = """
    with ThreadPoolExecutor(1) as pool:
        pool.submit(deadlock).result()
"""


@contextmanager
def started(program: str) -> Iterator[subprocess.Popen[str]]:
    """A process after its first SIGTERM; it is killed at the end, if it still lives."""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "SIGTERM\n"
        time.sleep(0.3)  # until it waits
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("wait", "second", "code"),
    [
        (SLEEPS, signal.SIGTERM, 143),
        (DEADLOCKS, signal.SIGTERM, 143),
        (THREAD_DEADLOCKS, signal.SIGINT, 130),
    ],
)
def test_a_second_signal_ends_a_process_whatever_it_waits_for(wait, second, code):
    with started(PROCESS.format(wait=wait)) as process:
        began = time.monotonic()
        process.send_signal(second)
        errors = process.communicate(timeout=20)[1]
        assert time.monotonic() - began < LEAVE_SECONDS + 5
    assert (process.returncode, errors) == (code, SECOND_SIGNAL)


def test_a_third_signal_ends_it_at_once():
    with started(PROCESS.format(wait=DEADLOCKS)) as process:
        assert process.stderr is not None
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == SECOND_SIGNAL
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
        assert time.monotonic() - began < LEAVE_SECONDS


def test_whoever_catches_the_interrupt_goes_on():
    words = f"except KeyboardInterrupt: time.sleep({LEAVE_SECONDS + 0.5})"
    program = PROCESS.format(wait=SLEEPS).replace("\n", "\n    ")
    with started(f"try:{program}\n{words}\nprint('caught')") as process:
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[0] == "caught\n"
    assert process.returncode == 0


def test_handlers_and_descriptors_are_as_before():
    from clipsieve.control import Control
    from clipsieve.job.signals import stopping_on_signals

    before = (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    descriptors = set(os.listdir("/proc/self/fd"))
    with stopping_on_signals(Control()):
        assert signal.getsignal(signal.SIGTERM) is not before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert signal.set_wakeup_fd(-1) == -1
    assert set(os.listdir("/proc/self/fd")) == descriptors
