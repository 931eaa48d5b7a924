"""Dask: a scheduler that runs already, or a cluster of processes here for one command."""

import asyncio
import logging
import os
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import resource_tracker
from tempfile import TemporaryDirectory
from typing import Any

from clipsieve.cores import usable_cores
from clipsieve.errors import EngineError, UsageError, WorkersLost
from clipsieve.job.guarded import release
from clipsieve.job.signals import interrupts_held
from clipsieve.job.workers import shares
from clipsieve.pipelines.engines.base import Backend
from clipsieve.runner_names import DASK_RUNNER
from clipsieve.stage import Element

#: More cost the scheduler: 2,400 elements took 2-4 s in 16 partitions, 7-14 s in 64.
PARTITIONS_A_WORKER = 4
#: For a cluster that has no worker yet, because it grows with its work.
PARTITIONS_UNKNOWN = 32
#: Cores of a worker without a GPU, where `workers` does not say how many there are.
CORES_A_WORKER = 4
POLL_SECONDS = 5.0
#: A scheduler without any worker for this long gets none; nannies start one again in seconds.
NO_WORKER_SECONDS = 600.0
NO_WORKER_HERE_SECONDS = 60.0
#: Tasks that run cannot be taken back: they end at the next shard.
SETTLE_SECONDS = 120.0
CLOSE_SECONDS = 10.0
#: For connections that are not needed for the result.
LEAVING_TIMEOUT = "5s"


class DaskBackend(Backend):
    """Dask's runner, whose clients it closes; Beam leaves them open."""

    needs_spread = False

    def __init__(
        self, runner: str = DASK_RUNNER, beam_args: Sequence[str] = (), workers: int | None = None
    ) -> None:
        """Look at the options; nothing is started yet.

        Args:
          runner: Beam's full path.
          beam_args: its options.
          workers: processes to start where no scheduler is named; None is one for each GPU, or
            for some cores.

        Raises:
          UsageError: for options that do not go together.
        """
        super().__init__(runner, beam_args)
        named = _named(beam_args)
        if named.dask_partition_size is not None:
            raise UsageError(
                f"--dask_partition_size={named.dask_partition_size} makes the number of tasks grow "
                "with the square of the shards; leave it out, or say how many partitions there are "
                "in all with --dask_npartitions"
            )
        self._scheduler = named.dask_scheduler_file or named.dask_client_address
        self._partitions: int | None = named.dask_npartitions
        self._timeout: str | None = named.dask_connection_timeout
        if self._scheduler is not None and workers is not None:
            raise UsageError(
                f"workers={workers} starts processes on this machine and {self._scheduler} has its "
                "own; give one of the two"
            )
        self._is_file = named.dask_scheduler_file is not None
        self._workers = workers
        self._cluster: Any = None
        self._closing = ExitStack()

    def options(self) -> list[str]:
        """Return the options, with the scheduler and partitions; starts workers if need be.

        Raises:
          UsageError: if the scheduler cannot be reached.
        """
        self._start()
        added = []
        if self._scheduler is None:
            added.append(f"--dask_client_address={self._cluster.scheduler_address}")
        if self._partitions is None:
            added.append(f"--dask_npartitions={self._count_partitions()}")
        return [*self.beam_args, *added]

    def groups(self, elements: Sequence[Element]) -> list[list[Element]]:
        """Return a group for each partition, of about equal work."""
        self._start()
        return shares(elements, self._partitions or self._count_partitions())

    def run(self, start: Callable[[], Any]) -> Any:
        """Start a pipeline and wait for its end; a cluster that has no worker is not waited for."""
        import distributed

        with _quiet():
            try:
                result = start()
            except Exception:
                with suppress(ValueError):  # there is none
                    distributed.default_client().close()
                raise
            try:
                self._wait(result.client, result.futures)
                for future in result.futures:
                    future.result()
            except BaseException:
                with suppress(Exception):
                    result.client.cancel(result.futures)
                raise
            finally:
                with suppress(Exception):
                    result.client.close(CLOSE_SECONDS)

    def explain(self, error: Exception) -> Exception:
        """Tell workers that died from a scheduler that is gone."""
        import distributed

        if isinstance(error, distributed.scheduler.KilledWorker):
            return WorkersLost(
                f"Dask gave up after {error.allowed_failures + 1} workers died on the same work, "
                f"the last at {error.last_worker.address}; see its log, and whether its memory ran "
                "out"
            )
        if isinstance(error, EngineError):
            return error
        # Futures are cancelled when the connection is lost; a time-out is an OSError.
        if isinstance(error, OSError | CancelledError):
            return EngineError(
                f"the connection to the Dask scheduler{self._place()} was lost "
                f"({type(error).__name__}); see whether it runs, then repeat the command: what is "
                "done is kept"
            )
        return super().explain(
            type(error)(f"{type(error).__module__}.{type(error).__name__}: {error}")
            if isinstance(error, ImportError)
            else error
        )

    def settle(self) -> None:
        """Wait until no thread of a worker has a task any more."""
        end = time.monotonic() + SETTLE_SECONDS
        with _quiet(), suppress(Exception), self._client(LEAVING_TIMEOUT) as client:
            while time.monotonic() < end and _is_busy(client):
                time.sleep(0.2)

    def close(self) -> None:
        """End the workers that were started; release what others hold for this command."""
        if self._scheduler is not None:
            with _quiet(), suppress(Exception), self._client(LEAVING_TIMEOUT) as client:
                client.run(release)
        self._closing.close()

    def _start(self) -> None:
        if self._scheduler is None and self._cluster is None:
            self._closing.enter_context(_quiet())
            resource_tracker.ensure_running()  # it would let SIGINT through again in the block
            with interrupts_held():
                scratch = self._closing.enter_context(
                    TemporaryDirectory(prefix="clipsieve-dask-", ignore_cleanup_errors=True)
                )
                self._cluster = _start_cluster(self._workers, scratch)
            self._closing.callback(self._cluster.close, timeout=CLOSE_SECONDS)

    def _count_partitions(self) -> int:
        """Return some partitions for each worker there is now."""
        try:
            with _quiet(), self._client() as client:
                workers = len(client.nthreads())
        except (OSError, ValueError) as error:
            raise UsageError(
                f"the Dask scheduler{self._place()} does not answer ({error}); see whether it "
                "runs, or leave its name out to start workers on this machine"
            ) from error
        return PARTITIONS_A_WORKER * workers or PARTITIONS_UNKNOWN

    def _client(self, timeout: str | None = None) -> Any:
        """Return a client of our own, to be closed."""
        import distributed

        common: dict[str, Any] = {"set_as_default": False}
        timeout = timeout or self._timeout
        if timeout is not None:
            common["timeout"] = timeout
        if self._is_file:
            if not os.path.isfile(str(self._scheduler)):  # a client waits for it, for ever
                raise FileNotFoundError(f"there is no scheduler file {self._scheduler}")
            return distributed.Client(scheduler_file=self._scheduler, **common)
        address = self._scheduler or self._cluster.scheduler_address
        return distributed.Client(address, **common)

    def _wait(self, client: Any, futures: Any) -> None:
        """Wait for the futures as long as there are workers, or there may be some soon.

        Raises:
          EngineError: if there is none for a long time.
        """
        import distributed

        limit = NO_WORKER_SECONDS if self._cluster is None else NO_WORKER_HERE_SECONDS
        alone_since: float | None = None
        while True:
            with suppress(asyncio.TimeoutError):
                distributed.wait(futures, timeout=POLL_SECONDS)
                return
            if client.nthreads():
                alone_since = None
                continue
            alone_since = alone_since or time.monotonic()
            if time.monotonic() - alone_since > limit:
                raise EngineError(
                    f"the Dask scheduler{self._place()} has had no worker for {limit:.0f} s; start "
                    "some: dask worker ADDRESS --nthreads 1"
                )

    def _place(self) -> str:
        return f" {self._scheduler}" if self._scheduler is not None else ""


def _is_busy(client: Any) -> bool:
    """Whether a thread of a worker has a task; a worker that does not answer has none."""
    from clipsieve.pipelines.engines.dask_worker import count_running

    counts = client.run(count_running, on_error="return")
    return any(isinstance(count, int) and count for count in counts.values())


def _named(words: Sequence[str]) -> Any:
    """Return the options of Dask that clipsieve reads too."""
    parser = ArgumentParser(add_help=False, exit_on_error=False)
    for name in ("client_address", "scheduler_file", "connection_timeout"):
        parser.add_argument(f"--dask_{name}")
    for name in ("npartitions", "partition_size"):
        parser.add_argument(f"--dask_{name}", type=int)
    try:
        return parser.parse_known_args(list(words))[0]
    except Exception as error:  # ArgumentError
        raise UsageError(f"options of Dask's runner: {error}") from error


def _start_cluster(workers: int | None, scratch: str) -> Any:
    """Start a scheduler in this process and worker processes, each with a GPU where there are."""
    import dask
    import distributed
    from distributed.deploy.spec import SpecCluster

    gpus = _gpus()
    count = workers or gpus or max(1, usable_cores() // CORES_A_WORKER)
    threads = max(1, usable_cores() // count)
    common = {
        "nthreads": 1,
        # Dask stops giving work to a process at 80 % of its share, for ever if that is the model.
        "memory_limit": 0,
        "silence_logs": logging.CRITICAL,
        "preload": ["clipsieve.pipelines.engines.dask_worker"],
    }
    specs = {
        number: {
            "cls": distributed.Nanny,
            "options": {
                **common,
                "env": {"CUDA_VISIBLE_DEVICES": _device(number, gpus)} if gpus else {},
            },
        }
        for number in range(count)
    }
    # Dask gives each process one thread of OpenMP otherwise.
    environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    key = "distributed.nanny.pre-spawn-environ"
    changed = {key: {**dask.config.get(key, {}), **environment}, "temporary-directory": scratch}
    with dask.config.set(changed):
        return SpecCluster(
            workers=specs,
            scheduler={
                "cls": distributed.Scheduler,
                "options": {"host": "127.0.0.1", "dashboard": False, "dashboard_address": ":0"},
            },
            silence_logs=logging.CRITICAL,
        )


def _gpus() -> int:
    """Return how many GPUs there are; torch asks the driver without using one."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _device(number: int, gpus: int) -> str:
    """Return the name of a worker's GPU, among those that are visible here."""
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[number % len(visible)] if visible else str(number % gpus)


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block keep Dask's logs of lost workers and connections from standard error."""
    roots = ("distributed", "tornado", "apache_beam")
    known = [*roots, *logging.root.manager.loggerDict]
    loggers = [logging.getLogger(name) for name in known if name.partition(".")[0] in roots]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
