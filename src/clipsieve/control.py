"""Stop and progress of one run, as one value that is passed to everything that works for it.

A pipeline runner pickles what it is given.  A control is pickled as the key of its job: unpickled
in a process where that job has one, it is the same object; elsewhere it is a new one, which learns
of the deadline with the key and of a stop by a marker in the output folder.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import uuid4
from weakref import WeakValueDictionary

from clipsieve.store import names
from clipsieve.store.folder import OutputFolder

STAGES = ("read", "decode", "encode", "write")
DEADLINE = "deadline reached"
#: Seconds between two looks for the stop marker, on a disk and in an object store, which charges
#: for each.
LOOK_SECONDS, STORE_LOOK_SECONDS = 2.0, 10.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Progress at one moment; adding two sums processes.

    Attributes:
      rows: rows committed or on their way.
      failed_rows: those that did not end `ok`.
      shards: shards committed.
      failed_shards: shards that could not be read.
      seconds: busy time of each stage, summed over its threads.
    """

    rows: int = 0
    failed_rows: int = 0
    shards: int = 0
    failed_shards: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: "Snapshot") -> "Snapshot":
        """Return the work of both."""
        return Snapshot(
            self.rows + other.rows,
            self.failed_rows + other.failed_rows,
            self.shards + other.shards,
            self.failed_shards + other.failed_shards,
            dict(Counter(self.seconds) + Counter(other.seconds)),
        )

    def __sub__(self, before: "Snapshot") -> "Snapshot":
        """Return the work since `before`, a snapshot of the same run."""
        return Snapshot(
            self.rows - before.rows,
            self.failed_rows - before.failed_rows,
            self.shards - before.shards,
            self.failed_shards - before.failed_shards,
            dict(Counter(self.seconds) - Counter(before.seconds)),
        )

    def to_json(self) -> dict[str, object]:
        """Return the counters by name."""
        return {**asdict(self), "seconds": dict(self.seconds)}

    def shares(self) -> dict[str, float]:
        """Return each stage's share of all busy time, 0 to 1; all 0 before any work."""
        total = sum(self.seconds.values())
        return {s: self.seconds.get(s, 0.0) / total if total else 0.0 for s in STAGES}


Listener = Callable[[dict[str, object]], None]


class Control:
    """Stop and progress of one run in one process.

    Attributes:
      run_id: the run.
      out: its output folder.
      deadline: seconds since the epoch after which no shard is begun; None is never.
      key: of the job; unlike the run's id it is never used again.
      listener: told `{"begin": shard}` and `{"end": shard}` as shards come and go, and
        `{"meter": ...}` as work is done, at most twice a second; for a process that reports to
        another, which takes its silence for a stall.
    """

    def __init__(
        self,
        run_id: str = "",
        out: str = "",
        deadline: float | None = None,
        listener: Listener | None = None,
        key: str | None = None,
        on_stop: Callable[[str], None] | None = None,
    ) -> None:
        """Start at zero; within this process the control of `key` is this one from now on.

        `on_stop` is told of every reason that `stop` is given.
        """
        self._on_stop = on_stop
        self.run_id, self.out, self.deadline = run_id, out, deadline
        self.listener = listener
        self.key = key or uuid4().hex
        self._reason: str | None = None
        self._is_remote = False
        self._looked = 0.0
        self._lock = threading.Lock()
        self._now = Snapshot()
        self._told = 0.0
        _controls[self.key] = self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the key of this job, and what a new control needs."""
        return _control_of, (self.key, self.run_id, self.out, self.deadline)

    # Stop

    def stop(self, reason: str) -> None:
        """Ask to finish the shard in hand and take no other; the first reason stays."""
        self._reason = self._reason or reason
        if self._on_stop is not None:
            self._on_stop(reason)

    @property
    def reason(self) -> str | None:
        """Why to stop: a signal's name or `DEADLINE`; None to go on."""
        if self._reason is None and self.deadline is not None and time.time() >= self.deadline:
            self.stop(DEADLINE)
        if self._reason is None and self._is_remote and time.monotonic() > self._looked:
            files = OutputFolder.open(self.out).files
            wait = STORE_LOOK_SECONDS if files.is_remote else LOOK_SECONDS
            self._looked = time.monotonic() + wait
            if files.exists(stop_marker(self.run_id)):
                self.stop("stop marker")
        return self._reason

    @property
    def stopped(self) -> bool:
        """Whether to take no other shard."""
        return self.reason is not None

    # Progress

    def begin(self, shard: str) -> None:
        """Note that reading of `shard` has begun."""
        self._tell({"begin": shard})

    def end(self, shard: str) -> None:
        """Note that `shard` is committed, or has failed."""
        self._tell({"end": shard})

    def add(
        self, rows: int = 0, failed_rows: int = 0, shards: int = 0, failed_shards: int = 0
    ) -> None:
        """Add to the counters of these names."""
        self._add(Snapshot(rows, failed_rows, shards, failed_shards))

    def step(self) -> None:
        """Note that a part of a long piece of work is done, so that the watchdog sees progress."""
        self._add(Snapshot())

    def replace_progress(self, snapshot: Snapshot) -> None:
        """Set the counters, for a process that only shows what others do."""
        with self._lock:
            self._now = snapshot

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Add the length of the block to the busy time of a stage of `STAGES`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._add(Snapshot(seconds={stage: time.perf_counter() - start}))

    def snapshot(self) -> Snapshot:
        """Return the counters now."""
        with self._lock:
            return self._now

    def _add(self, work: Snapshot) -> None:
        with self._lock:
            self._now = self._now + work
            now = time.monotonic()
            if self.listener is None or now - self._told < 0.5:
                return
            self._told = now
            message: dict[str, object] = {"meter": self._now.to_json()}
        self._tell(message)

    def _tell(self, message: dict[str, object]) -> None:
        if self.listener is not None:
            self.listener(message)


def remote_control(control: Control, execution: str, listener: Listener) -> Control:
    """Return a control of the same run for a worker, which learns of a stop by the marker.

    Args:
      control: as it came from the driver.
      execution: what the worker works for; a stop of one execution is none of the next.
      listener: see `Control`.
    """
    remote = Control(
        control.run_id, control.out, control.deadline, listener, f"{control.key}.{execution}"
    )
    remote._is_remote = True
    return remote


def unless_stopped(elements: Iterable[str], control: Control) -> Iterator[str]:
    """Yield elements until the run is stopped."""
    for element in elements:
        if control.stopped:
            return
        yield element


def stop_marker(run_id: str) -> str:
    """Name the object that tells workers on other machines to stop."""
    return f"{names.RUNS}/{run_id}.stop"


#: Controls of this process by key: how an unpickled one finds the object it was.
_controls: WeakValueDictionary[str, Control] = WeakValueDictionary()


def _control_of(key: str, run_id: str, out: str, deadline: float | None) -> Control:
    control = _controls.get(key)
    if control is None:
        control = Control(run_id, out, deadline, key=key)
        control._is_remote = True
    return control
