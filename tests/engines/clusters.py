"""Real engines on this machine: processes that are started for a test session and end with it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.pipelines.jobs import wait_for

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Cluster:
    """An engine that runs: what `--runner` and the options behind `--` say to use it."""

    runner: str
    options: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        return ["--runner", self.runner, "--", *self.options]


def environment(site: Path | None = None) -> dict[str, str]:
    """Variables by which workers find this tree, modules in `site` before all, and this Python."""
    paths = [*([str(site)] if site else []), str(ROOT / "src"), str(ROOT)]
    paths += [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    # Beam's worker pool starts the command `python`.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PATH": path}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("localhost", port)) == 0


@contextmanager
def process(module: str, words: Sequence[str], log: Path, site: Path | None) -> Iterator[int]:
    """A process that runs a module, its pid; killed with all that it has started."""
    with (
        open(log, "wb") as file,
        subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment(site),
            start_new_session=True,
        ) as started,
    ):
        try:
            yield started.pid
        finally:
            os.killpg(started.pid, signal.SIGKILL)


@contextmanager
def job_service(logs: Path, site: Path | None = None) -> Iterator[Cluster]:
    """Beam's own job service, and a pool that starts a worker process for each pipeline."""
    service, pool = free_port(), free_port()
    with (
        process(
            "apache_beam.runners.portability.local_job_service_main",
            ["--port", str(service)],
            logs / "service.log",
            site,
        ),
        process(
            "apache_beam.runners.worker.worker_pool_main",
            ["--service_port", str(pool)],
            logs / "pool.log",
            site,
        ),
    ):
        for port in (service, pool):
            wait_for(partial(answers, port), "the job service and its pool")
        options = (
            f"--job_endpoint=localhost:{service}",
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{pool}",
        )
        yield Cluster("portable", options)


@contextmanager
def dask(logs: Path, site: Path | None = None, workers: int = 2) -> Iterator[Cluster]:
    """A scheduler, and worker processes under nannies that start them again."""
    file = logs / "scheduler.json"
    with ExitStack() as started:
        words = ["--scheduler-file", str(file), "--no-dashboard"]
        own = ["--host", "127.0.0.1", "--port", str(free_port())]
        module = "distributed.cli.dask_scheduler"
        started.enter_context(process(module, [*words, *own], logs / "scheduler.log", site))
        wait_for(file.exists, "the scheduler")
        own = ["--nworkers", str(workers), "--nthreads", "1", "--memory-limit", "0"]
        own += ["--local-directory", str(logs)]
        module = "distributed.cli.dask_worker"
        started.enter_context(process(module, [*words, *own], logs / "worker.log", site))
        cluster = Cluster("dask", (f"--dask_scheduler_file={file}",))
        wait_for(lambda: len(dask_workers(cluster)) == workers, "the workers")
        yield cluster


def dask_workers(cluster: Cluster) -> list[int]:
    """Process ids of the workers of a scheduler."""
    import distributed

    file = cluster.options[0].partition("=")[2]
    with distributed.Client(scheduler_file=file, set_as_default=False) as client:
        return list(client.run(os.getpid).values())
