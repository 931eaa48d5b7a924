"""The engine that a runner's name means."""

from collections.abc import Sequence
from importlib import import_module

from clipsieve.errors import UsageError
from clipsieve.pipelines.engines.base import Backend, LocalBackend
from clipsieve.pipelines.engines.job_server import JobServerBackend
from clipsieve.pipelines.runners import create_runner
from clipsieve.runner_names import (
    DASK_RUNNER,
    DATAFLOW_RUNNER,
    FLINK_RUNNER,
    LOCAL_RUNNER,
    PORTABLE_RUNNER,
    SPARK_RUNNER,
    beam_runner,
)

#: Modules that an engine needs beside Beam, and the extra of clipsieve that installs them.
_EXTRAS = {
    DASK_RUNNER: (("dask.bag", "distributed"), "dask"),
    DATAFLOW_RUNNER: (("apitools.base.py", "google.cloud.storage"), "dataflow"),
}
_REFUSED = ("DirectRunner", "SwitchingDirectRunner", "PrismRunner")


def make_backend(
    runner: str = LOCAL_RUNNER, beam_args: Sequence[str] = (), workers: int | None = None
) -> Backend:
    """Return the engine of a name; nothing is started or reached yet.

    Args:
      runner: a short name, a Beam runner's name, or its full path.
      beam_args: options of that runner, as on a command line.
      workers: processes on this machine; for Dask.

    Raises:
      UsageError: for a runner that does not exist, lacks a package, would download and run a binary
        unasked, or has options that it cannot run with.
    """
    name = beam_runner(runner)
    _require_packages(name)
    try:
        made = create_runner(name)
    except (ValueError, ImportError, AttributeError) as error:
        raise UsageError(
            f"runner {runner!r} is not known to Beam ({error}); use {LOCAL_RUNNER}, or give its "
            "full path"
        ) from error
    if type(made).__name__ in _REFUSED:  # Beam has short names of its own
        raise UsageError(
            f"runner {runner} downloads and starts a binary of its own; use {LOCAL_RUNNER} on one "
            "machine, or name a cluster's runner"
        )
    if name == LOCAL_RUNNER:
        return LocalBackend(name, beam_args)
    if name == DASK_RUNNER:
        from clipsieve.pipelines.engines.dask import DaskBackend

        return DaskBackend(name, beam_args, workers)
    if name in (PORTABLE_RUNNER, FLINK_RUNNER, SPARK_RUNNER):
        return JobServerBackend(name, beam_args)
    return Backend(name, beam_args)


def _require_packages(runner: str) -> None:
    """Refuse an engine whose packages are not installed.

    Raises:
      UsageError: has the command that installs them.
    """
    modules, extra = _EXTRAS.get(runner, ((), ""))
    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            raise UsageError(
                f"runner {runner.rpartition('.')[2]} needs packages that are not installed "
                f"({error}): pip install 'clipsieve[{extra}]'"
            ) from error
