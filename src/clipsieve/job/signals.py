"""Signals ask for an orderly stop: the shard in hand is finished, the manifest is written.

A second one ends the command at once, whatever it waits for: a read that does not return, or a
worker that is stopped.
"""

import os
import select
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from clipsieve.control import DEADLINE, Control
from clipsieve.settings import ScorerSettings
from clipsieve.store.folder import OutputFolder
from clipsieve.store.records import new_run_id

EXIT_FAILED_SHARDS = 3
#: Exit code of a command that left work, by the reason of the stop.
EXIT_OF_STOP = {"SIGTERM": 143, "SIGINT": 130, DEADLINE: 3}
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: After a second signal the process has this long to end its workers and to free the lock.
LEAVE_SECONDS = 3.0
SECOND_SIGNAL = (
    "clipsieve: ended by a second signal; what it had in hand is not finished: run it again\n"
)


@contextmanager
def stopping_on_signals(control: Control) -> Iterator[None]:
    """Within the block a first SIGTERM or SIGINT stops the run, and a second one ends the process.

    Outside the main thread, where Python allows no handlers, nothing changes.

    Raises:
      KeyboardInterrupt: at a second signal, if it is SIGINT.
      SystemExit: at a second signal, if it is SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        name = signal.Signals(number).name
        if len(received) == 1:
            control.stop(name)
        elif len(received) == 2:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(EXIT_OF_STOP[name])

    with _ending_at_second_signal():
        before = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def stopping_on_sigterm(control: Control) -> Iterator[None]:
    """Within the block SIGTERM stops the run of a worker, however often it comes.

    The process that started it sends one, and so may whoever signals all processes of a job.
    """
    before = signal.signal(signal.SIGTERM, lambda *_: control.stop("SIGTERM"))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Within the block SIGINT waits, in this thread and in processes that it starts for good."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _ending_at_second_signal() -> Iterator[None]:
    """End the process if the block is not left soon after a second signal, or at a third.

    Python runs a handler only once the main thread comes back from what it calls, and leaving the
    block waits for threads: a read of a mount that does not answer never ends.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(reader,), daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        watch.join()
        os.close(reader)


def _watch(reader: int) -> None:
    """Read the numbers of signals as they come, until the other end is closed."""
    received: list[int] = []
    while True:
        # A process whose main thread is stuck has no other way out.
        wait = LEAVE_SECONDS if len(received) >= 2 else None
        if not select.select([reader], [], [], wait)[0]:
            os._exit(_exit_code(received))
        numbers = os.read(reader, 64)
        if not numbers:
            return
        for number in numbers:
            if number not in STOP_SIGNALS:
                continue
            received.append(number)
            if len(received) == 2:
                # Past the buffers, whose locks the interrupted thread may hold.
                os.write(2, SECOND_SIGNAL.encode())
            elif len(received) > 2:
                os._exit(_exit_code(received))


def _exit_code(received: Sequence[int]) -> int:
    return EXIT_OF_STOP[signal.Signals(received[-1]).name]


def start_control(
    config: ScorerSettings,
    folder: OutputFolder,
    started: float,
    on_stop: Callable[[str], None] | None = None,
) -> Control:
    """Return stop and progress of a job that started then; for `on_stop` see `Control`."""
    deadline = None if config.deadline is None else started + config.deadline
    return Control(config.run_id or new_run_id(), folder.root, deadline, on_stop=on_stop)


def exit_code_of(left: int, control: Control) -> int:
    """Return the exit code of a job that left something, or nothing."""
    if not left:
        return 0
    return EXIT_OF_STOP.get(control.reason or "", EXIT_FAILED_SHARDS)
