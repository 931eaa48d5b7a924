"""Beam as the engine that runs stages: on a named runner, or in worker processes here."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass

from clipsieve.control import LOOK_SECONDS, stop_marker
from clipsieve.errors import LedgerError, StorageError
from clipsieve.job.workers import run_in_workers
from clipsieve.pipelines.runners import LOCAL, require_runner, run_pipeline
from clipsieve.pipelines.stage import build
from clipsieve.settings import STALL_SECONDS, ExecutionSettings
from clipsieve.stage import Element, Report, Stage
from clipsieve.store import names
from clipsieve.store.files import temporary_name
from clipsieve.store.folder import OutputFolder

#: Elements that one group holds on a cluster: enough to read ahead, few enough to share out.
GROUP_ELEMENTS = 4


@dataclass(frozen=True, slots=True)
class BeamEngine:
    """Runs stages as Beam pipelines.

    Attributes:
      runner: a Beam runner's name, or its full path.
      beam_args: options of that runner, as on a command line.
      workers: processes on this machine.
      stall: seconds after which a process that makes no progress is killed; None is the default,
        and none is watched where one is enough.
    """

    runner: str = LOCAL
    beam_args: tuple[str, ...] = ()
    workers: int = 1
    stall: float | None = None

    def __post_init__(self) -> None:
        """Refuse a runner that cannot be used; see `require_runner`."""
        require_runner(self.runner)

    @property
    def is_local(self) -> bool:
        """Whether the work runs on this machine."""
        return self.runner == LOCAL

    def run(self, stage: Stage, elements: Sequence[Element], here: bool = False) -> Report:
        """Run a stage over all elements; see `clipsieve.stage.Engine`."""
        # Processes also for one element: it may be one that kills its process.
        if self.is_local and not here and (self.workers > 1 or self.stall is not None):
            stall = STALL_SECONDS if self.stall is None else self.stall
            total = run_in_workers(stage, elements, self.workers, stall)
        else:
            texts = [element.text for element in elements]
            size = max(1, len(texts)) if self.is_local else GROUP_ELEMENTS
            groups = [texts[first : first + size] for first in range(0, len(texts), size)]
            with nullcontext() if self.is_local else _announced_stop(stage):
                total = run_groups(stage, groups, self.runner, self.beam_args)
        _check_complete(stage, elements, total, self.runner)
        return total


def make_engine(settings: ExecutionSettings) -> BeamEngine:
    """Return the engine that the settings ask for.

    Raises:
      UsageError: for a runner that cannot be used.
    """
    return BeamEngine(settings.runner, tuple(settings.beam_args), settings.workers, settings.stall)


def run_groups(
    stage: Stage, groups: Sequence[list[str]], runner: str = LOCAL, beam_args: Sequence[str] = ()
) -> Report:
    """Run the graph of a stage and return the total that it left; nothing if it left none."""
    folder = OutputFolder.open(stage.out)
    report = temporary_name(f"{names.RUNS}/{stage.run_id}.{stage.name}")
    try:
        run_pipeline(lambda root: build(root, stage, groups, report), runner, beam_args)
        return Report.from_json(folder.read_json(report))
    except FileNotFoundError:
        return Report()
    finally:
        folder.files.delete(report)


@contextmanager
def _announced_stop(stage: Stage) -> Iterator[None]:
    """Within the block, put the stop marker into the output folder once the run is stopped.

    Workers on other machines look for it between shards.
    """
    folder, marker = OutputFolder.open(stage.out), stop_marker(stage.run_id)
    ended = threading.Event()

    def watch() -> None:
        while True:
            if stage.control.stopped:
                with suppress(StorageError):  # tried again
                    folder.write_text(marker, f"{stage.control.reason}\n")
                    return
            if ended.wait(LOOK_SECONDS):
                return

    folder.files.delete(marker)
    watcher = threading.Thread(target=watch, name="clipsieve-stop", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        folder.files.delete(marker)


def _check_complete(stage: Stage, elements: Sequence[Element], total: Report, runner: str) -> None:
    """Raise `LedgerError` if elements were lost though nothing stopped the run, or doubled."""
    expected = {element.name for element in elements}
    lost = len(expected - {*total.done, *total.failed})
    doubled = len(total.done) - len(set(total.done))
    if doubled or (lost and not stage.control.stopped):
        raise LedgerError(
            f"runner {runner} ended stage {stage.name} without an error, with {lost} of "
            f"{len(expected)} elements lost and {doubled} doubled; use another runner"
        )
