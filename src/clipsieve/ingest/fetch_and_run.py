"""Fetch a list of URLs and score its images at once: shards are embedded as they come."""

import dataclasses
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from clipsieve.control import DEADLINE, Control
from clipsieve.errors import NothingScored, UsageError
from clipsieve.formats.urls import is_url
from clipsieve.ingest.job import IngestResult, ingest
from clipsieve.ingest.settings import IngestConfig
from clipsieve.job.outcome import left_outcome
from clipsieve.job.reporter import Reporter
from clipsieve.job.run import run
from clipsieve.job.run_result import RunResult
from clipsieve.job.signals import exit_code_of, stopping_on_signals
from clipsieve.settings import RunConfig
from clipsieve.stage import Engine
from clipsieve.store.records import new_run_id

_LOOK_SECONDS = 0.2

OpenEngine = Callable[[RunConfig], AbstractContextManager[Engine]]


def fetch_and_run(
    fetching: IngestConfig, config: RunConfig, open_engine: OpenEngine, reporter: Reporter
) -> int:
    """Fetch, embed each shard once it is there, then score and compact; return the exit code.

    That is the run's, or that of fetching if it was stopped: then nothing is scored, and the same
    command goes on.

    Args:
      fetching: settings of ingest, into the input folder of the run.
      config: settings of the run; its deadline holds for both.
      open_engine: gives the engine of one run.
      reporter: where progress goes.

    Raises:
      UsageError: if the input is not one folder, and whatever `ingest` and `run` refuse.
      ClipsieveError: see `ingest` and `run`.
    """
    folder = _folder(config)
    started = time.time()
    deadline = None if config.deadline is None else started + config.deadline
    control = Control(config.run_id or new_run_id(), "", deadline)
    once = dataclasses.replace(config, fail_if=(), metrics_file=None, result_file=None)
    with left_outcome(config, "run", config.out, reporter) as outcome:
        with stopping_on_signals(control):
            fetcher = _Fetcher(fetching, control, Reporter(config.log_format))
            fetcher.start()
            try:
                seen = 0
                while not control.stopped:
                    is_last = not fetcher.is_alive()
                    count = len(list(folder.glob("*.parquet")))
                    if count > seen:
                        seen = count
                        with suppress(NothingScored):  # later shards may have images
                            _run(once, open_engine, reporter, control, wide=False)
                    elif is_last:
                        break
                    else:
                        fetcher.join(_LOOK_SECONDS)
            except BaseException:
                control.stop("error")
                raise
            finally:
                fetcher.join()
            fetched = fetcher.result()
            if control.stopped or fetched.exit_code:
                code = fetched.exit_code or exit_code_of(1, control)
                outcome.result, outcome.exit_code = fetched.to_json(), code
                return code
            result = _run(config, open_engine, reporter, control, wide=True)
        outcome.result, outcome.exit_code = result.to_json(), result.exit_code
    return result.exit_code


class _Fetcher(threading.Thread):
    """`ingest` in a thread: the work is done by processes of its own."""

    def __init__(self, config: IngestConfig, control: Control, reporter: Reporter) -> None:
        super().__init__(name="clipsieve-ingest", daemon=True)
        reporter.live = False  # the live line is that of the run
        self._config, self._control, self._reporter = config, control, reporter
        self._result: IngestResult | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Fetch all; an error is raised by `result`."""
        try:
            self._result = ingest(self._config, self._reporter, self._control)
        except BaseException as error:
            self._error = error

    def result(self) -> IngestResult:
        """Return how it ended, or raise its error."""
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result


def _run(
    config: RunConfig, open_engine: OpenEngine, reporter: Reporter, control: Control, wide: bool
) -> RunResult:
    """Run once, with what is left of the deadline; a signal stops the whole."""
    left = None if control.deadline is None else max(control.deadline - time.time(), 0.0)
    config = dataclasses.replace(config, deadline=left, run_id=control.run_id)

    def stop(reason: str) -> None:
        if reason != DEADLINE:
            control.stop(reason)

    with open_engine(config) as engine:
        return run(config, engine, reporter, wide, stop)


def _folder(config: RunConfig) -> Path:
    """Return the folder of the shards.

    Raises:
      UsageError: if the input is anything else.
    """
    (first, *rest) = config.inputs
    if rest or is_url(first) or any(mark in first for mark in "*?[{"):
        raise UsageError(
            f"--ingest writes its shards into the input, which must be one folder of this machine, "
            f"not {' '.join(config.inputs)}"
        )
    if config.part is not None:
        raise UsageError(
            f"part={config.part} is for shards that are there, and --ingest fetches them; "
            "ingest first, then run the parts"
        )
    return Path(first).expanduser().absolute()
