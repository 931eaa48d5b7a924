"""Several processes on one machine, each with its own pipeline, under a watchdog.

Beam's own multi-process mode waits for ever when a worker dies.  Here a dead worker is started
again with what it had left.  A shard that was in hand when a worker died is tried again alone; if
the worker dies on it alone, the shard fails with that reason and the rest goes on.
"""

import dataclasses
import json
import os
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

import torch

from clipsieve.embed.job import EmbedJob
from clipsieve.errors import ClipsieveError, DeviceError, UsageError
from clipsieve.formats.base import WorkItem
from clipsieve.progress import METER, STOP, Snapshot
from clipsieve.store.atomic import sweep
from clipsieve.store.layout import Layout
from clipsieve.store.runs import FAILED, ShardRecord, append_record

#: Deaths of a worker before it is given up, if no shard can be blamed (it dies on starting).
MAX_IDLE_DEATHS = 3
POLL_SECONDS = 0.2


@dataclass
class _Worker:
    """One process and its share."""

    number: int
    left: dict[str, WorkItem]
    process: subprocess.Popen[bytes] | None = None
    listener: threading.Thread | None = None
    meter: Snapshot = field(default_factory=Snapshot)
    before: Snapshot = field(default_factory=Snapshot)
    in_hand: set[str] = field(default_factory=set)
    alone: bool = False
    strikes: Counter[str] = field(default_factory=Counter)
    idle_deaths: int = 0
    error: str | None = None
    exit_code: int | None = None
    began: bool = False


def shares(items: Sequence[WorkItem], count: int) -> list[list[WorkItem]]:
    """`items` dealt to `count` workers so that each has about as many bytes; order is kept.

    No share is empty: there are at most as many shares as items.
    """
    count = max(1, min(count, len(items)))
    loads = [0] * count
    dealt: list[list[int]] = [[] for _ in range(count)]
    by_size = sorted(range(len(items)), key=lambda at: (-_weight(items[at]), at))
    for at in by_size:
        lightest = min(range(count), key=lambda n: (loads[n], n))
        loads[lightest] += _weight(items[at])
        dealt[lightest].append(at)
    return [[items[at] for at in sorted(positions)] for positions in dealt]


def embed_with_workers(job: EmbedJob, items: Sequence[WorkItem]) -> None:
    """Embed `items` in `job.config.workers` processes and wait for all of them.

    The caller holds the folder's lock: what a killed worker left half written is swept.  How each
    shard ended is in the run's records.  When `STOP` is set the workers are told to finish the
    shard in hand.

    Raises:
      ClipsieveError: if a worker ends with an error of its own, or dies again and again without
        a shard in hand.
    """
    with TemporaryDirectory(prefix="clipsieve-") as folder:
        watch = _Watch(job, Path(folder))
        watch.run(
            [
                _Worker(n, {i.shard: i for i in share})
                for n, share in enumerate(shares(items, job.config.workers))
            ]
        )
    # What a killed worker was writing; all of them have ended, and the folder's lock is held.
    sweep(Layout.at(job.config.out).root)


class _Watch:
    """Starts workers, listens to them, and starts them again."""

    def __init__(self, job: EmbedJob, folder: Path) -> None:
        self._job = job
        self._folder = folder
        self._layout = Layout.at(job.config.out)
        self._lock = threading.Lock()
        self._shown = Snapshot()

    def run(self, workers: list[_Worker]) -> None:
        told = False
        try:
            for worker in workers:
                self._start(worker)
            while any(worker.process is not None for worker in workers):
                time.sleep(POLL_SECONDS)
                if STOP and not told:
                    told = True
                    for worker in workers:
                        if worker.process is not None:
                            worker.process.send_signal(signal.SIGTERM)
                for worker in workers:
                    self._look_after(worker)
                self._show(workers)
        finally:
            for worker in workers:
                if worker.process is not None:
                    worker.process.kill()
                    worker.process.wait()
                    if worker.listener is not None:
                        worker.listener.join()
                    _close(worker.process)
        for worker in workers:
            if worker.error is not None:
                raise _error(worker.exit_code, f"worker {worker.number}: {worker.error}")

    def _start(self, worker: _Worker) -> None:
        """Start the process for what is left: clean shards together, suspects one by one."""
        clean = [i.to_json() for s, i in worker.left.items() if not worker.strikes[s]]
        suspects = [[i.to_json()] for s, i in worker.left.items() if worker.strikes[s]]
        worker.alone = bool(suspects) and not clean
        groups = [clean] if clean else suspects
        job = self._folder / f"job-{worker.number}.json"
        items = self._folder / f"items-{worker.number}.json"
        job.write_text(self._for_worker(worker.number).to_json(), encoding="utf-8")
        items.write_text(json.dumps(groups), encoding="utf-8")
        worker.in_hand.clear()
        worker.began = False
        command = [sys.executable, "-m", "clipsieve.pipelines.embed"]
        worker.process = subprocess.Popen(
            [*command, "--job", str(job), "--items", str(items)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environment(),
        )
        listen = threading.Thread(target=self._listen, args=(worker, worker.process), daemon=True)
        worker.listener = listen
        listen.start()

    def _environment(self) -> dict[str, str]:
        """Each worker computes on its share of the cores; the results do not depend on it."""
        share = max(1, (os.cpu_count() or 1) // self._job.config.workers)
        return {"OMP_NUM_THREADS": str(share), **os.environ}

    def _for_worker(self, number: int) -> EmbedJob:
        """The job with a device of the worker's own, where there are several GPUs."""
        config = self._job.config
        if config.device in ("auto", "cuda") and torch.cuda.is_available():
            device = f"cuda:{number % torch.cuda.device_count()}"
            config = dataclasses.replace(config, device=device)
        return dataclasses.replace(self._job, config=config)

    def _listen(self, worker: _Worker, process: subprocess.Popen[bytes]) -> None:
        """Take in the worker's lines until it ends; what is not a message goes to stderr."""
        assert process.stdout is not None
        for line in process.stdout:
            try:
                message: Mapping[str, Any] = json.loads(line)
            except ValueError:
                sys.stderr.buffer.write(line)
                continue
            with self._lock:
                self._take(worker, message)

    def _take(self, worker: _Worker, message: Mapping[str, Any]) -> None:
        if "begin" in message:
            worker.in_hand.add(message["begin"])
            worker.began = True
        elif "end" in message:
            worker.in_hand.discard(message["end"])
            worker.left.pop(message["end"], None)
        elif "meter" in message:
            worker.meter = Snapshot(**message["meter"])
        elif "error" in message:
            worker.error, worker.exit_code = message["error"], message["exit_code"]

    def _look_after(self, worker: _Worker) -> None:
        """Deal with a worker that has ended."""
        if worker.process is None or worker.process.poll() is None:
            return
        code = worker.process.wait()
        assert worker.listener is not None
        worker.listener.join()  # its last lines say what is done
        _close(worker.process)
        with self._lock:
            worker.process = None
            worker.before, worker.meter = worker.before + worker.meter, Snapshot()
            if worker.error is not None or STOP or (code == 0 and not worker.left):
                return
            if code != 0:
                self._blame(worker, code)
        if worker.left and worker.error is None:
            self._start(worker)

    def _blame(self, worker: _Worker, code: int) -> None:
        """Note a death; fail the shard that the worker died on twice, the second time alone."""
        why = f"signal {-code}" if code < 0 else f"exit code {code}"
        if not worker.began:
            worker.idle_deaths += 1
            if worker.idle_deaths >= MAX_IDLE_DEATHS:
                worker.error = f"died {worker.idle_deaths} times before its first shard ({why})"
            return
        for shard in sorted(worker.in_hand & set(worker.left)):
            worker.strikes[shard] += 1
            if worker.alone and worker.strikes[shard] > 1:
                item = worker.left.pop(shard)
                message = (
                    f"{item.uri}: the worker died on this shard ({why}), also when it was alone; "
                    "out of memory, or a file that crashes a decoder: look at the system log"
                )
                config = self._job.config
                append_record(
                    self._layout,
                    ShardRecord(
                        config.run_id or "",
                        shard,
                        item.uri,
                        FAILED,
                        error=message,
                        ended_at=time.time(),
                    ),
                )
                METER.add(failed_shards=1)

    def _show(self, workers: Sequence[_Worker]) -> None:
        """Bring this process's meter to the workers' sum."""
        with self._lock:
            total = sum((w.before + w.meter for w in workers), Snapshot())
        METER.add(
            rows=total.rows - self._shown.rows,
            failed_rows=total.failed_rows - self._shown.failed_rows,
            shards=total.shards - self._shown.shards,
            failed_shards=total.failed_shards - self._shown.failed_shards,
        )
        for stage, seconds in total.seconds.items():
            METER.add_seconds(stage, seconds - self._shown.seconds.get(stage, 0.0))
        self._shown = total


def _close(process: subprocess.Popen[bytes]) -> None:
    """Close this side of the pipes of a process that has ended."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _weight(item: WorkItem) -> int:
    """About how much work an item is."""
    return max(item.fingerprint.size, 1)


def _error(exit_code: int | None, message: str) -> ClipsieveError:
    """The kind of error that ends a command with `exit_code`."""
    kinds = {2: UsageError}
    if "device" in message.lower() and exit_code == 2:
        return DeviceError(message)
    return kinds.get(exit_code or 1, ClipsieveError)(message)
