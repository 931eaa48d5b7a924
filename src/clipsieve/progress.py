"""What a process has done so far: rows, failures, and where the time went.

The meter is filled by the stages as they work and read by whoever shows progress.  There is one
in each process, because a pipeline runner builds the stages and gives no other way in.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

STAGES = ("read", "decode", "encode", "write")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The meter at one moment; adding two sums processes.

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
        """The work of both."""
        return Snapshot(
            self.rows + other.rows,
            self.failed_rows + other.failed_rows,
            self.shards + other.shards,
            self.failed_shards + other.failed_shards,
            dict(Counter(self.seconds) + Counter(other.seconds)),
        )

    def to_json(self) -> dict[str, object]:
        """The counters by name."""
        return {**asdict(self), "seconds": dict(self.seconds)}

    def shares(self) -> dict[str, float]:
        """Each stage's share of all busy time, 0 to 1; all 0 before any work."""
        total = sum(self.seconds.values())
        return {s: self.seconds.get(s, 0.0) / total if total else 0.0 for s in STAGES}


class Meter:
    """Counters that many threads add to, and the shards in hand.

    Attributes:
      on_change: told `{"begin": shard}` and `{"end": shard}` as shards come and go, and
        `{"meter": ...}` at most twice a second; for a process that reports to another.
    """

    def __init__(self) -> None:
        """A meter at zero that tells nobody."""
        self._lock = threading.Lock()
        self._now = Snapshot()
        self._told = 0.0
        self.on_change: Callable[[dict[str, object]], None] = _tell_nobody

    def begin(self, shard: str) -> None:
        """Reading of `shard` has begun."""
        self.on_change({"begin": shard})

    def end(self, shard: str) -> None:
        """`shard` is committed, or has failed."""
        self.on_change({"end": shard})

    def add(
        self, rows: int = 0, failed_rows: int = 0, shards: int = 0, failed_shards: int = 0
    ) -> None:
        """Add to the counters of these names."""
        with self._lock:
            self._now = self._now + Snapshot(rows, failed_rows, shards, failed_shards)
            now = time.monotonic()
            due = now - self._told > 0.5
            message: dict[str, object] = {"meter": self._now.to_json()}
            self._told = now if due else self._told
        if due:
            self.on_change(message)

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Add busy time to a stage of `STAGES`."""
        with self._lock:
            self._now = self._now + Snapshot(seconds={stage: seconds})

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Add the length of the block to `stage`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add_seconds(stage, time.perf_counter() - start)

    def snapshot(self) -> Snapshot:
        """The counters now."""
        with self._lock:
            return self._now

    def reset(self) -> None:
        """Back to zero, at the start of a run."""
        with self._lock:
            self._now = Snapshot()


def _tell_nobody(_message: dict[str, object]) -> None:
    """The default listener."""


METER = Meter()
"""The meter of this process."""


class StopFlag:
    """Set by a signal or a deadline: finish the shard in hand, then take no other."""

    def __init__(self) -> None:
        """A flag that is not set and has no deadline."""
        self.reason: str | None = None
        self.deadline: float | None = None

    def set(self, reason: str) -> None:
        """Ask to stop; the first reason stays."""
        self.reason = self.reason or reason

    def __bool__(self) -> bool:
        """Whether to stop."""
        if self.reason is None and self.deadline is not None and time.time() >= self.deadline:
            self.set("deadline reached")
        return self.reason is not None

    def reset(self) -> None:
        """Not set, no deadline."""
        self.reason, self.deadline = None, None


STOP = StopFlag()
"""The stop flag of this process."""
