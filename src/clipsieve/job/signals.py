"""Signals ask for an orderly stop: the shard in hand is finished, the manifest is written."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from clipsieve.control import DEADLINE, Control
from clipsieve.settings import ScorerSettings
from clipsieve.store.folder import OutputFolder
from clipsieve.store.records import new_run_id

EXIT_FAILED_SHARDS = 3
#: Exit code of a command that left work, by the reason of the stop.
EXIT_OF_STOP = {"SIGTERM": 143, "SIGINT": 130, DEADLINE: 3}


@contextmanager
def stopping_on_signals(control: Control) -> Iterator[None]:
    """Within the block SIGTERM and the first SIGINT stop the run; a second SIGINT interrupts.

    Outside the main thread, where Python allows no handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and control.reason is not None:
            raise KeyboardInterrupt
        control.stop(signal.Signals(number).name)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start_control(config: ScorerSettings, folder: OutputFolder, started: float) -> Control:
    """Return stop and progress of a job that started then."""
    deadline = None if config.deadline is None else started + config.deadline
    return Control(config.run_id or new_run_id(), folder.root, deadline)


def exit_code_of(left: int, control: Control) -> int:
    """Return the exit code of a job that left something, or nothing."""
    if not left:
        return 0
    return EXIT_OF_STOP.get(control.reason or "", EXIT_FAILED_SHARDS)
