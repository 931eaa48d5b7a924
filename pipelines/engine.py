"""Beam as the engine that runs stages: on a named runner, or in worker processes here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from clipsieve.errors import LedgerError
from clipsieve.job.workers import run_in_workers
from clipsieve.pipelines.engines.base import Backend, LocalBackend
from clipsieve.pipelines.engines.choose import make_backend
from clipsieve.pipelines.remote import run_on_workers
from clipsieve.pipelines.run_stage import run_groups
from clipsieve.runner_names import LOCAL_RUNNER
from clipsieve.settings import STALL_SECONDS, ExecutionSettings
from clipsieve.stage import Element, Report, Stage


@dataclass(frozen=True)
class BeamEngine:
    """Runs stages as Beam pipelines; to be closed, which a `with` does.

    Attributes:
      runner: a short name, a Beam runner's name, or its full path.
      beam_args: options of that runner, as on a command line.
      workers: processes on this machine; None is one, or what suits Dask.
      stall: seconds after which a process that makes no progress is killed; None is the default,
        and none is watched where one is enough.
    """

    runner: str = LOCAL_RUNNER
    beam_args: tuple[str, ...] = ()
    workers: int | None = None
    stall: float | None = None
    backend: Backend = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse a runner that cannot be used; see `make_backend`."""
        backend = make_backend(self.runner, self.beam_args, self.workers)
        object.__setattr__(self, "backend", backend)

    def __enter__(self) -> "BeamEngine":
        """Start nothing yet."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Close the engine."""
        self.close()

    def close(self) -> None:
        """End the workers that were started for this engine."""
        self.backend.close()

    @property
    def is_local(self) -> bool:
        """Whether the work runs in this process, or in processes that it starts and watches."""
        return isinstance(self.backend, LocalBackend)

    def run(self, stage: Stage, elements: Sequence[Element], here: bool = False) -> Report:
        """Run a stage over all elements; see `clipsieve.stage.Engine`."""
        workers = self.workers or 1
        if not self.is_local:
            total = run_on_workers(self.backend, stage, elements)
        # Processes also for one element: it may be one that kills its process.
        elif not here and (workers > 1 or self.stall is not None):
            stall = STALL_SECONDS if self.stall is None else self.stall
            total = run_in_workers(stage, elements, workers, stall)
        else:
            total = run_groups(stage, [[element.text for element in elements]], self.backend)
        _check_complete(stage, elements, total, self.runner)
        return total


def make_engine(settings: ExecutionSettings) -> BeamEngine:
    """Return the engine that the settings ask for.

    Raises:
      UsageError: for a runner that cannot be used.
    """
    return BeamEngine(settings.runner, tuple(settings.beam_args), settings.workers, settings.stall)


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
