"""The driver's side of the processes that fetch: hands out shards, restarts what dies, stops."""

import json
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from clipsieve import errors
from clipsieve.control import Control, Snapshot
from clipsieve.errors import EngineError, WorkersLost
from clipsieve.ingest.layout import rows_name
from clipsieve.ingest.settings import IngestConfig
from clipsieve.ingest.shard import Task, stored_stats
from clipsieve.ingest.worker import GRACE_SECONDS
from clipsieve.job.signals import interrupts_held
from clipsieve.store.files import LocalFiles
from clipsieve.versions import __version__

#: Deaths of processes after which the command gives up.
MAX_DEATHS = 3
_LOOK_SECONDS = 0.2


@dataclass(eq=False)
class _Member:
    """One process."""

    process: subprocess.Popen[bytes]
    tasks: set[Task] = field(default_factory=set)
    #: Tasks whose URLs are fetched, with the shards that must be finished before them.
    fetched: dict[Task, set[int]] = field(default_factory=dict)
    is_asking: bool = False
    progress: Snapshot = field(default_factory=Snapshot)
    listener: threading.Thread | None = None

    def send(self, message: dict[str, Any]) -> None:
        """Tell the process; one that is gone is noticed where its messages are read."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def close(self) -> None:
        """Close this side of the pipes of a process that has ended."""
        if self.listener is not None:
            self.listener.join()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


class Crew:
    """Processes that work on tasks."""

    def __init__(
        self,
        config: IngestConfig,
        processes: int,
        rows_per_shard: int,
        tasks: Sequence[Task],
        control: Control,
    ) -> None:
        """Take what is to be done, in order."""
        self._tasks = deque(tasks)
        self._unfinished = {task.shard for task in tasks}
        self._control = control
        self._files = LocalFiles(config.shards)
        self._events: queue.Queue[tuple[_Member, dict[str, Any] | None]] = queue.Queue()
        self._members: list[_Member] = []
        self._gone = Snapshot()
        self._deaths = 0
        self._count = min(processes, len(tasks))
        self._start = {
            "config": config.to_json(),
            "per_host": -(-config.per_host // max(1, self._count)),
            "rows_per_shard": rows_per_shard,
            "version": __version__,
        }
        self.finished: dict[Task, dict[str, Any]] = {}

    def run(self) -> None:
        """Work until all is done, or until the control says to stop.

        Raises:
          ClipsieveError: a process cannot go on, or too many of them died.
        """
        try:
            self._members = [self._new_member() for _ in range(self._count)]
            while self._unfinished and not self._control.stopped:
                self._hand_out()
                try:
                    member, message = self._events.get(timeout=_LOOK_SECONDS)
                except queue.Empty:
                    continue
                self._take(member, message)
        finally:
            self._stop()

    def snapshot(self) -> Snapshot:
        """Return the progress of all processes."""
        now = sum((member.progress for member in tuple(self._members)), self._gone)
        return Snapshot(now.rows, now.failed_rows, len(self.finished))

    def _new_member(self) -> _Member:
        with interrupts_held():  # inherited: a terminal's Ctrl-C is the driver's
            process = subprocess.Popen(
                [sys.executable, "-m", "clipsieve.ingest.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        member = _Member(process)
        member.send(self._start)
        member.listener = threading.Thread(target=self._listen, args=(member,), daemon=True)
        member.listener.start()
        return member

    def _listen(self, member: _Member) -> None:
        assert member.process.stdout is not None
        for line in member.process.stdout:
            with suppress(ValueError):
                self._events.put((member, json.loads(line)))
        self._events.put((member, None))

    def _hand_out(self) -> None:
        """Give tasks to who asks, and let be finished what can be."""
        for member in self._members:
            if member.is_asking and self._tasks:
                task = self._tasks.popleft()
                member.tasks.add(task)
                member.is_asking = False
                member.send({"fetch": [task.shard, task.is_retry]})
            for task, needed in list(member.fetched.items()):
                if not needed & self._unfinished:
                    del member.fetched[task]
                    member.send({"finish": [task.shard, task.is_retry]})

    def _take(self, member: _Member, message: dict[str, Any] | None) -> None:
        if message is None:
            self._replace(member)
        elif "wants" in message:
            member.is_asking = True
        elif "fetched" in message:
            member.fetched[Task(*message["fetched"])] = set(message["needed"])
        elif "finished" in message:
            task = Task(*message["finished"])
            member.tasks.discard(task)
            self._unfinished.discard(task.shard)
            self.finished[task] = message["stats"]
        elif "rows" in message:
            member.progress = Snapshot(message["rows"], message["failed"])
        elif "error" in message:
            known = getattr(errors, message["type"], None)
            raise (known or EngineError)(message["error"])

    def _replace(self, member: _Member) -> None:
        """Start another process for one that died, and give it what that had."""
        code = member.process.wait()
        member.close()
        self._members.remove(member)
        self._deaths += 1
        if self._deaths > MAX_DEATHS:
            raise WorkersLost(
                f"a process that fetches ended with code {code}, the {self._deaths}th; what was "
                "fetched is kept: run it again, with fewer --threads if memory is short"
            )
        for task in sorted(member.tasks, key=lambda task: task.shard, reverse=True):
            if self._files.exists(rows_name(task.shard, task.is_retry)):
                self._tasks.appendleft(task)
            else:  # it had finished the shard, and died before it said so
                self._unfinished.discard(task.shard)
                self.finished[task] = stored_stats(self._files, task.shard)
        self._members.append(self._new_member())

    def _stop(self) -> None:
        """Let URLs in flight end for a moment; then no process is left."""
        for member in self._members:
            member.send({"stop": True})
        end = time.monotonic() + GRACE_SECONDS + 2
        for member in self._members:
            try:
                member.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                member.process.kill()
                member.process.wait()
            member.close()
        while not self._events.empty():  # what the last messages say was finished, is
            member, message = self._events.get()
            if message is not None and ("finished" in message or "rows" in message):
                self._take(member, message)
