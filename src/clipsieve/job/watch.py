"""Repeat a run over inputs that grow: between two runs nothing is held, neither lock nor model."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from clipsieve.control import Control
from clipsieve.errors import Locked, NoInput, NothingScored
from clipsieve.job.reporter import Reporter, clock
from clipsieve.job.run import run
from clipsieve.job.signals import exit_code_of, stopping_on_signals
from clipsieve.settings import RunConfig, WatchConfig
from clipsieve.stage import Engine

#: Between two looks for a signal while nothing is done.
_LOOK_SECONDS = 0.1


def watch(
    config: WatchConfig,
    open_engine: Callable[[RunConfig], AbstractContextManager[Engine]],
    reporter: Reporter | None = None,
) -> int:
    """Run, wait and run again until `config.until` or a signal; return the exit code.

    That is the last run's; 143 or 130 after a signal, whether or not it left work.  Where no input
    matches yet, no row could be scored, or another command writes to the folder, the next look may
    find otherwise.  A run that is at work at the end begins no further shard.

    Args:
      config: settings.
      open_engine: gives the engine of one run.
      reporter: where progress goes; None is standard error.

    Raises:
      ClipsieveError: whatever else ends a run with an error.
    """
    reporter = reporter or Reporter(config.log_format)
    end = None if config.until is None else time.monotonic() + config.until
    control = Control()
    exit_code = 0
    with stopping_on_signals(control):
        while True:
            begun = time.monotonic()
            left = None if end is None else max(end - begun, 0.0)
            deadlines = [limit for limit in (config.deadline, left) if limit is not None]
            once = config.run_config(min(deadlines, default=None))
            reason = ""
            try:
                with open_engine(once) as engine:
                    exit_code = run(once, engine, reporter, on_stop=control.stop).exit_code
            except (NoInput, NothingScored, Locked) as error:
                reason = f"{error}; "
            now = time.monotonic()
            wait = max(begun + config.every - now, 0.0)
            if control.stopped or (end is not None and now + wait >= end):
                break
            text = f"{reason}next look in {clock(wait)}"
            reporter.report("watch", text, wait_seconds=round(wait, 3))
            while not control.stopped and time.monotonic() < now + wait:
                time.sleep(_LOOK_SECONDS)
            if control.stopped:
                break
    return exit_code_of(1, control) if control.stopped else exit_code
