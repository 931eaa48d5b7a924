"""Which URL is fetched next: hosts take turns, and none has more than its share at once.

URLs of a host that is busy, or that asked to wait, take up no thread.
"""

import heapq
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

from clipsieve.ingest.urls import Url

Owner = TypeVar("Owner")


@dataclass(slots=True)
class Job(Generic[Owner]):
    """A URL to fetch.

    Attributes:
      owner: where its outcome goes.
      row: likewise.
      url: to fetch.
      attempts: that were made.
      deadline: by `time.monotonic`; None before the first attempt.
      reason: why the last attempt failed.
    """

    owner: Owner
    row: int
    url: Url
    attempts: int = 0
    deadline: float | None = None
    reason: str = ""


@dataclass(slots=True)
class _Host(Generic[Owner]):
    """URLs of one host, and how many of them are being fetched."""

    queue: deque[Job[Owner]] = field(default_factory=deque)
    active: int = 0
    paused_until: float = 0.0
    refused_until: float = 0.0
    refusal: str = ""
    is_listed: bool = False


class Schedule(Generic[Owner]):
    """Jobs that wait; any number of threads may take them."""

    def __init__(self, per_host: int) -> None:
        """Allow so many jobs of one host at once."""
        self._per_host = per_host
        self._hosts: dict[str, _Host[Owner]] = {}
        self._ready: deque[_Host[Owner]] = deque()
        self._later: list[tuple[float, int, _Host[Owner], Job[Owner] | None]] = []
        self._numbers = count()
        self._changed = threading.Condition()
        self._is_closed = False
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """How many jobs nobody has taken yet."""
        return self._waiting

    def add(self, jobs: Iterable[Job[Owner]]) -> None:
        """Let jobs wait behind those of their hosts."""
        with self._changed:
            for job in jobs:
                host = self._host(job)
                host.queue.append(job)
                self._waiting += 1
                self._list(host)
            self._changed.notify_all()

    def take(self) -> tuple[Job[Owner], str] | None:
        """Wait for a job; return it with why its host refuses it, or "". None: there are no more.

        Whoever takes a job hands it to `done` or `retry`.
        """
        with self._changed:
            while True:
                now = time.monotonic()
                self._move_due(now)
                if self._is_closed:
                    return None
                while self._ready:
                    host = self._ready.popleft()
                    host.is_listed = False
                    if not host.queue or host.active >= self._per_host:
                        continue
                    refusal = host.refusal if host.refused_until > now else ""
                    if not refusal and host.paused_until > now:
                        self._put_later(host.paused_until, host, None)
                        continue
                    job = host.queue.popleft()
                    self._waiting -= 1
                    host.active += 1
                    self._list(host)
                    return job, refusal
                wait = self._later[0][0] - now if self._later else None
                self._changed.wait(wait)

    def done(self, job: Job[Owner]) -> None:
        """Note that a job has its outcome."""
        with self._changed:
            host = self._host(job)
            host.active -= 1
            self._list(host)
            if not host.active and not host.queue and host.refused_until < time.monotonic():
                self._hosts.pop(job.url.authority, None)
            self._changed.notify()

    def retry(self, job: Job[Owner], seconds: float, is_for_host: bool) -> None:
        """Hand a job out again after so many seconds, before others of its host."""
        due = time.monotonic() + seconds
        with self._changed:
            host = self._host(job)
            host.active -= 1
            self._waiting += 1
            if is_for_host:
                host.paused_until = max(host.paused_until, due)
            self._put_later(due, host, job)
            self._list(host)
            self._changed.notify_all()

    def pause(self, job: Job[Owner], seconds: float) -> None:
        """Hand out no job of the host of this one for so long."""
        with self._changed:
            host = self._host(job)
            host.paused_until = max(host.paused_until, time.monotonic() + seconds)

    def refuse(self, job: Job[Owner], seconds: float, reason: str) -> None:
        """Note that the host of a job asked everybody to stay away for so long."""
        with self._changed:
            host = self._host(job)
            host.refused_until = max(host.refused_until, time.monotonic() + seconds)
            host.refusal = reason

    def close(self) -> None:
        """Hand out no job any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _host(self, job: Job[Owner]) -> _Host[Owner]:
        name = job.url.authority
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host()
        return host

    def _list(self, host: _Host[Owner]) -> None:
        """Put a host behind the others that have a job to hand out, if it has one."""
        if host.queue and host.active < self._per_host and not host.is_listed:
            host.is_listed = True
            self._ready.append(host)

    def _put_later(self, due: float, host: _Host[Owner], job: Job[Owner] | None) -> None:
        heapq.heappush(self._later, (due, next(self._numbers), host, job))

    def _move_due(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            _, _, host, job = heapq.heappop(self._later)
            if job is not None:
                host.queue.appendleft(job)
            self._list(host)
