"""Several processes on one machine, each with its own pipeline, under a watchdog.

Beam's own multi-process mode waits for ever when a worker dies.  Here a dead worker is started
again with what it had left.  A worker that makes no more progress is killed, see `activity`.  A
shard that was in hand when a worker died is tried again alone; if the worker dies on it alone, the
shard fails with that reason and the rest goes on.
"""

import heapq
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from clipsieve.control import Snapshot
from clipsieve.cores import usable_cores
from clipsieve.errors import ClipsieveError, DeviceError, UsageError
from clipsieve.job.activity import Activity
from clipsieve.job.error_stream import forward
from clipsieve.job.signals import interrupts_held
from clipsieve.settings import STALL_SECONDS
from clipsieve.stage import Element, Report, Stage
from clipsieve.store.folder import OutputFolder
from clipsieve.store.part_locks import is_only_writer
from clipsieve.store.records import FAILED, ShardRecord, add_record
from clipsieve.store.storage_errors import write_errors

#: Deaths of a worker before it is given up, if no shard can be blamed (it dies on starting).
MAX_IDLE_DEATHS = 3
POLL_SECONDS = 0.2
#: A killed process that is not gone after this long waits inside the kernel, for a mount that does
#: not answer: it ends before it runs another instruction, and is not waited for.
KILL_SECONDS = 10.0
#: The module that a worker process runs: `main` of it takes the files of `WorkerFiles`.
WORKER_MODULE = "clipsieve.pipelines.worker"


@dataclass(frozen=True, slots=True)
class WorkerFiles:
    """Files between a driver and one worker process, in a private folder.

    Attributes:
      stage: the pickled stage.
      groups: groups of elements' texts, as JSON.
      report: where the worker leaves the pickled report of each element, one after the other.
    """

    stage: Path
    groups: Path
    report: Path

    @classmethod
    def in_folder(cls, folder: Path, number: int) -> "WorkerFiles":
        """Return the files of worker `number`."""
        return cls(*(folder / f"{name}-{number}" for name in ("stage", "groups", "report")))


@dataclass
class _Worker:
    """One process and its share."""

    number: int
    left: dict[str, Element]
    process: subprocess.Popen[bytes] | None = None
    listener: threading.Thread | None = None
    activity: Activity | None = None
    stalled: str | None = None
    progress: Snapshot = field(default_factory=Snapshot)
    before: Snapshot = field(default_factory=Snapshot)
    in_hand: set[str] = field(default_factory=set)
    alone: bool = False
    deaths: Counter[str] = field(default_factory=Counter)
    idle_deaths: int = 0
    error: str | None = None
    exit_code: int | None = None
    began: bool = False
    total: Report = field(default_factory=Report)


def shares(elements: Sequence[Element], count: int) -> list[list[Element]]:
    """Deal elements to `count` workers so that each has about as much work; order is kept.

    No share is empty: there are at most as many shares as elements.
    """
    count = max(1, min(count, len(elements)))
    loads = [(0, number) for number in range(count)]  # a heap
    dealt: list[list[int]] = [[] for _ in range(count)]
    by_weight = sorted(range(len(elements)), key=lambda at: (-elements[at].weight, at))
    for at in by_weight:
        load, lightest = loads[0]
        heapq.heapreplace(loads, (load + elements[at].weight, lightest))
        dealt[lightest].append(at)
    return [[elements[at] for at in sorted(positions)] for positions in dealt]


def run_in_workers(
    stage: Stage, elements: Sequence[Element], workers: int, stall: float = STALL_SECONDS
) -> Report:
    """Run a stage over `elements` in several processes, and finish it here.

    What a killed worker left half written is swept if this process is the folder's only writer.
    Once the run is stopped the workers are told to finish the shard in hand.

    Args:
      stage: what to do.
      elements: with different names.
      workers: processes, at most.
      stall: seconds after which a worker that makes no progress is killed.

    Returns:
      The sum of all reports.  Shards that killed their worker are `failed` and have a record.

    Raises:
      ClipsieveError: if a worker ends with an error of its own, or dies again and again without
        a shard in hand.
    """
    with TemporaryDirectory(prefix="clipsieve-") as scratch:
        watch = _Watch(stage, Path(scratch), workers, stall)
        total = watch.run(
            [
                _Worker(n, {element.name: element for element in share})
                for n, share in enumerate(shares(elements, workers))
            ]
        )
    folder = OutputFolder.open(stage.out)
    if watch.deaths and is_only_writer(folder.files):  # all workers have ended
        folder.sweep()
    return stage.finish(total)


class _Watch:
    """Starts workers, listens to them, and starts them again."""

    def __init__(self, stage: Stage, folder: Path, workers: int, stall: float) -> None:
        self._stage = stage
        self._folder = folder
        self._workers = workers
        self._stall = stall
        self._lock = threading.Lock()
        self.deaths = 0

    def run(self, workers: list[_Worker]) -> Report:
        is_told = False
        control = self._stage.control
        shown = control.snapshot()
        try:
            for worker in workers:
                self._start(worker)
            while any(worker.process is not None for worker in workers):
                time.sleep(POLL_SECONDS)
                if control.stopped and not is_told:
                    is_told = True
                    for worker in workers:
                        if worker.process is not None:
                            worker.process.send_signal(signal.SIGTERM)
                for worker in workers:
                    self._look_after(worker)
                with self._lock:
                    done = sum((w.before + w.progress for w in workers), shown)
                control.replace_progress(done)
        finally:
            for worker in workers:
                if worker.process is not None:
                    worker.process.kill()
                    self._end(worker)
        for worker in workers:
            if worker.error is not None:
                raise _error(worker.exit_code, f"worker {worker.number}: {worker.error}")
        return sum((worker.total for worker in workers), Report())

    def _start(self, worker: _Worker) -> None:
        """Start the process for what is left: clean shards together, suspects one by one."""
        clean = [e.text for s, e in worker.left.items() if not worker.deaths[s]]
        suspects = [[e.text] for s, e in worker.left.items() if worker.deaths[s]]
        worker.alone = bool(suspects) and not clean
        files = WorkerFiles.in_folder(self._folder, worker.number)
        with write_errors(self._folder, self._folder):
            files.stage.write_bytes(pickle.dumps(self._stage))
            files.groups.write_text(json.dumps([clean] if clean else suspects), encoding="utf-8")
            files.report.unlink(missing_ok=True)
        worker.in_hand.clear()
        worker.began = False
        worker.stalled = None
        words = [str(files.stage), str(files.groups), str(files.report), str(worker.number)]
        with interrupts_held():  # the worker inherits that: a terminal's Ctrl-C is the driver's
            worker.process = subprocess.Popen(
                [sys.executable, "-m", WORKER_MODULE, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=self._environment(),
            )
        worker.activity = Activity(worker.process.pid, self._stall)
        listen = threading.Thread(target=self._listen, args=(worker, worker.process), daemon=True)
        worker.listener = listen
        listen.start()

    def _environment(self) -> dict[str, str]:
        """Each worker computes on its share of the cores; the results do not depend on it."""
        share = max(1, usable_cores() // self._workers)
        return {"OMP_NUM_THREADS": str(share), **os.environ}

    def _listen(self, worker: _Worker, process: subprocess.Popen[bytes]) -> None:
        """Read the worker's messages until it ends; other lines go to standard error."""
        assert process.stdout is not None
        for line in process.stdout:
            try:
                message: Any = json.loads(line)
            except ValueError:
                message = {}
            if not isinstance(message, dict) or not message:
                forward(line)
                continue
            with self._lock:
                self._take(worker, message)

    def _take(self, worker: _Worker, message: Mapping[str, Any]) -> None:
        if worker.activity is not None:
            worker.activity.report()
        if "begin" in message:
            worker.in_hand.add(message["begin"])
            worker.began = True
        elif "end" in message:
            worker.in_hand.discard(message["end"])
        elif "meter" in message:
            worker.progress = Snapshot(**message["meter"])
        elif "error" in message:
            worker.error, worker.exit_code = message["error"], message["exit_code"]

    def _look_after(self, worker: _Worker) -> None:
        """Kill a worker that makes no progress, and deal with one that has ended."""
        if worker.process is None or (worker.process.poll() is None and not self._kill(worker)):
            return
        code = self._end(worker)
        with self._lock:
            worker.before, worker.progress = worker.before + worker.progress, Snapshot()
            self._collect(worker)
            self.deaths += code != 0
            if worker.error is not None or self._stage.control.stopped or not worker.left:
                return
            if code != 0:
                self._blame(worker, code)
        if worker.left and worker.error is None:
            self._start(worker)

    def _kill(self, worker: _Worker) -> bool:
        """Kill a living worker that makes no progress; whether that was so."""
        assert worker.process is not None and worker.activity is not None
        with self._lock:
            worker.stalled = worker.activity.check()
        if worker.stalled is not None:
            worker.process.kill()
        return worker.stalled is not None

    def _end(self, worker: _Worker) -> int:
        """Wait for a worker that has ended, or was killed; its exit code, minus the signal."""
        assert worker.process is not None and worker.listener is not None
        process, worker.process = worker.process, None
        try:
            code = process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        worker.listener.join()  # its last lines say what is done
        _close(process)
        return code

    def _collect(self, worker: _Worker) -> None:
        """Add up what the worker has reported before it ended."""
        path = WorkerFiles.in_folder(self._folder, worker.number).report
        for report in read_reports(path):
            worker.total = worker.total + report
            worker.idle_deaths = 0
            for name in report.done:
                worker.left.pop(name, None)

    def _blame(self, worker: _Worker, code: int) -> None:
        """Note a death; fail the shard that the worker died on twice, the second time alone."""
        why = f"signal {-code}" if code < 0 else f"exit code {code}"
        why = worker.stalled or why
        suspects = sorted(worker.in_hand & set(worker.left))
        if not suspects:
            worker.idle_deaths += 1
            if worker.idle_deaths >= MAX_IDLE_DEATHS:
                worker.error = self._given_up(worker, why)
        for shard in suspects:
            worker.deaths[shard] += 1
            if worker.alone and worker.deaths[shard] > 1:
                self._fail(worker, worker.left.pop(shard), why)

    def _given_up(self, worker: _Worker, why: str) -> str:
        """Why no more processes are started in the place of a worker, and what helps."""
        when = "between shards" if worker.began else "before its first shard"
        times = f"{worker.idle_deaths} times {when}"
        if worker.stalled is not None:
            return (
                f"{why}, {times}, and was killed: see whether the model's files, the inputs and "
                f"{self._stage.out} answer, or give a longer --stall"
            )
        if why == f"signal {int(signal.SIGKILL)}":
            return (
                f"was killed {times} ({why}), by the system if memory ran out: each of "
                f"{self._workers} workers holds a model; use fewer --workers, a smaller "
                "--batch-size, or look at the system log"
            )
        return (
            f"died {times} ({why}), without a message of its own: look at the lines above and at "
            "the system log, or run with --workers 1"
        )

    def _fail(self, worker: _Worker, element: Element, why: str) -> None:
        """Record that a shard kills or stalls its worker."""
        if worker.stalled is None:
            message = (
                f"the worker died on this shard ({why}), also when it was alone; out of memory, "
                "or a file that crashes a decoder: look at the system log"
            )
        else:
            message = (
                f"the worker {why} on this shard, also when it was alone, and was killed; see "
                "whether the file can be read, or give a longer --stall"
            )
        record = ShardRecord(
            self._stage.run_id,
            element.name,
            element.uri,
            FAILED,
            error=f"{element.uri or element.name}: {message}",
            ended_at=time.time(),
        )
        add_record(OutputFolder.open(self._stage.out), record)
        worker.total = worker.total + Report(failed=(element.name,))
        worker.before = worker.before + Snapshot(failed_shards=1)


def write_report(path: Path, report: Report) -> None:
    """Append the report of an element to a worker's file."""
    with write_errors(path, path.parent), open(path, "ab") as file:
        file.write(pickle.dumps(report))


def read_reports(path: Path) -> list[Report]:
    """Return the reports that `write_report` appended; one cut short by a kill is left out."""
    reports: list[Report] = []
    if not path.exists():
        return reports
    with open(path, "rb") as file:
        while True:
            try:
                reports.append(pickle.load(file))
            except (EOFError, pickle.UnpicklingError):
                return reports


def _close(process: subprocess.Popen[bytes]) -> None:
    """Close this side of the pipes of a process that has ended."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _error(exit_code: int | None, message: str) -> ClipsieveError:
    """Return the kind of error that ends a command with `exit_code`."""
    if exit_code == UsageError.exit_code:
        return DeviceError(message) if "device" in message.lower() else UsageError(message)
    return ClipsieveError(message)
