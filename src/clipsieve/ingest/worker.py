"""A process that fetches: `python -m clipsieve.ingest.worker`, started by the driver.

Messages are lines of JSON.  It is told, on standard input: its settings, then `fetch` and `finish`
with a shard, and `stop`.  It tells, on standard output: `wants` (another shard), `fetched` (with
the other shards that are to be finished before), `finished`, `rows`, `error`.  When standard input
ends, its driver is gone, and it ends at once: what is in the spools is whole.
"""

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from typing import Any

from clipsieve.errors import ClipsieveError
from clipsieve.ingest.fetch import Fetcher, Retry
from clipsieve.ingest.outcomes import FAILED_TO_DOWNLOAD, SUCCESS, FetchError, Outcome
from clipsieve.ingest.schedule import Job, Schedule
from clipsieve.ingest.settings import IngestConfig
from clipsieve.ingest.shard import ShardWork, Task
from clipsieve.ingest.urls import parse_url
from clipsieve.store.files import LocalFiles
from clipsieve.store.storage_errors import storage_error

#: Shards whose URLs wait at once: the last URLs of one do not hold up the next.
MAX_OPEN = 4
#: After a stop, URLs in flight have so long to end.
GRACE_SECONDS = 3.0
_TOLD_SECONDS = 0.25


@dataclass(slots=True, eq=False)
class _Open:
    """A shard of which URLs are being fetched."""

    work: ShardWork
    left: int
    started: float = field(default_factory=time.time)
    ended: float = 0.0


class Worker:
    """Fetches the shards that it is handed."""

    def __init__(self, config: IngestConfig, per_host: int, rows_per_shard: int, version: str):
        """Start the threads."""
        self._files = LocalFiles(config.shards)
        self._rows_per_shard = rows_per_shard
        self._fetcher = Fetcher(config, version)
        self._seconds = config.timeout_per_url
        self._schedule: Schedule[_Open] = Schedule(per_host)
        self._low = 4 * config.threads
        self.inbox: queue.Queue[dict[str, Any]] = queue.Queue()
        self._open: dict[Task, _Open] = {}
        self._lock = threading.Lock()
        self._rows = self._failed = 0
        self._is_asking = False
        self._threads = [
            threading.Thread(target=self._fetch_jobs, daemon=True) for _ in range(config.threads)
        ]
        for thread in self._threads:
            thread.start()

    def run(self) -> None:
        """Do what messages say, until `stop`."""
        told = 0.0
        while True:
            self._ask()
            try:
                message = self.inbox.get(timeout=_TOLD_SECONDS)
            except queue.Empty:
                message = {}
            if "stop" in message:
                self._stop()
                return
            if "error" in message:
                raise message["error"]
            if "fetch" in message:
                self._begin(Task(*message["fetch"]))
            if "finish" in message:
                self._finish(Task(*message["finish"]))
            if "fetched" in message:
                self._tell_fetched(message["fetched"])
            if time.monotonic() - told >= _TOLD_SECONDS:
                told = time.monotonic()
                self._tell_rows()

    def stop_taking(self) -> None:
        """Begin no further URL."""
        self._schedule.close()

    def _ask(self) -> None:
        is_fetching = sum(shard.left > 0 for shard in self._open.values())
        if not self._is_asking and is_fetching < MAX_OPEN and self._schedule.waiting < self._low:
            self._is_asking = True
            send({"wants": True})

    def _begin(self, task: Task) -> None:
        """Let the URLs of a shard wait; rows without a usable one have their outcome at once."""
        self._is_asking = False
        work = ShardWork(self._files, task, self._rows_per_shard)
        shard = self._open[task] = _Open(work, 1)
        jobs, unusable = [], 0
        for row, text in work.urls():
            try:
                jobs.append(Job(shard, row, parse_url(text)))
            except FetchError as error:
                shard.left += 1
                unusable += 1
                self._add(shard, row, Outcome(error.status, error.reason))
        with self._lock:
            shard.left += len(jobs)
            self._rows += len(work) - len(jobs) - unusable  # known before, or copied at the end
        self._schedule.add(jobs)
        self._count_down(shard)

    def _finish(self, task: Task) -> None:
        shard = self._open.pop(task)
        stats = shard.work.finish(shard.started, shard.ended)
        self._tell_rows()
        send({"finished": [task.shard, task.is_retry], "stats": stats})

    def _tell_fetched(self, shard: _Open) -> None:
        task = shard.work.task
        needed = sorted(shard.work.needed())
        send({"fetched": [task.shard, task.is_retry], "needed": needed})

    def _tell_rows(self) -> None:
        with self._lock:
            send({"rows": self._rows, "failed": self._failed})

    def _stop(self) -> None:
        """Wait a moment for URLs in flight."""
        end = time.monotonic() + GRACE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        for shard in self._open.values():
            shard.work.spool.close()
        self._tell_rows()

    # In the threads

    def _fetch_jobs(self) -> None:
        try:
            while (taken := self._schedule.take()) is not None:
                if not self._is_asking and self._schedule.waiting < self._low:
                    if self.inbox.empty():
                        self.inbox.put({})  # time to ask for another shard
                self._fetch(*taken)
        except BaseException as error:  # a full disk: told by the main thread
            self.inbox.put({"error": error})

    def _fetch(self, job: Job[_Open], refusal: str) -> None:
        if refusal:
            outcome: Outcome | Retry = Outcome(FAILED_TO_DOWNLOAD, refusal)
        else:
            outcome = self._attempt(job)
        if isinstance(outcome, Retry):
            error = outcome.error
            assert job.deadline is not None
            if outcome.seconds < job.deadline - time.monotonic():
                job.attempts += 1
                job.reason = error.reason
                self._schedule.retry(job, outcome.seconds, outcome.is_for_host)
                return
            if outcome.seconds >= self._seconds:
                self._schedule.refuse(job, outcome.seconds, error.reason)
            elif outcome.is_for_host:
                self._schedule.pause(job, outcome.seconds)
            outcome = Outcome(error.status, error.reason)
        self._schedule.done(job)
        self._add(job.owner, job.row, outcome)

    def _attempt(self, job: Job[_Open]) -> Outcome | Retry:
        now = time.monotonic()
        if job.deadline is None:
            job.deadline = now + self._seconds
        elif now >= job.deadline:
            return Outcome(FAILED_TO_DOWNLOAD, job.reason)
        try:
            return self._fetcher.attempt(job.url, job.attempts, job.deadline)
        except Exception as error:  # a row is never lost
            traceback.print_exc()
            return Outcome(FAILED_TO_DOWNLOAD, f"clipsieve failed: {error!r}")

    def _add(self, shard: _Open, row: int, outcome: Outcome) -> None:
        shard.work.spool.add(row, outcome)
        with self._lock:
            self._rows += 1
            self._failed += outcome.status != SUCCESS
        self._count_down(shard)

    def _count_down(self, shard: _Open) -> None:
        with self._lock:
            shard.left -= 1
            is_last = shard.left == 0
        if is_last:
            shard.ended = time.time()
            self.inbox.put({"fetched": shard})


_send_lock = threading.Lock()


def send(message: dict[str, Any]) -> None:
    """Tell the driver."""
    with _send_lock:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def _listen(worker: Worker) -> None:
    """Hand messages on; end at once when there is nobody who sends them."""
    for line in sys.stdin:
        message = json.loads(line)
        if "stop" in message:
            worker.stop_taking()
        worker.inbox.put(message)
    os._exit(1)


def main() -> None:
    """Run a worker; the driver says when to stop, not a terminal."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    start = json.loads(sys.stdin.readline())
    try:
        worker = Worker(
            IngestConfig(**start["config"]),
            start["per_host"],
            start["rows_per_shard"],
            start["version"],
        )
        threading.Thread(target=_listen, args=(worker,), daemon=True).start()
        worker.run()
    except BaseException as error:
        known = storage_error(error) if isinstance(error, OSError) else None
        named = known or (error if isinstance(error, ClipsieveError) else None)
        if named is None:
            traceback.print_exc()
        send({"error": str(named or repr(error)), "type": type(named or error).__name__})
    sys.stdout.flush()
    os._exit(0)  # threads in flight are not waited for


if __name__ == "__main__":
    main()
