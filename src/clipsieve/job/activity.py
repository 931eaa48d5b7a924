"""Whether a worker makes progress: what it reports, and whether it computes, reads or writes.

A report is progress: a shard begun or ended, rows, or a step of a stage finished.  Between two
reports a process that computes or moves bytes is slow, and one that does neither is stuck: stopped,
waiting for a mount, or in a deadlock.  A process that computes without end reports nothing either,
so computing alone counts for a limited time.
"""

import time

import psutil

#: Looks at the process in the time after which it is stuck.
LOOKS = 5
#: A process that used this share of one core between two looks computes.  Threads that poll queues
#: ten times a second use a twentieth of it.
COMPUTING_SHARE = 0.01
#: One that read or wrote this many bytes between two looks makes progress.
MOVED_BYTES = 4096
#: Without a report, computing counts for this many times as long as doing nothing.
PATIENCE = 6
#: Longest time between two calls that counts: while the driver itself is stopped, or the machine
#: asleep, workers can do nothing.
STEP_SECONDS = 5.0


class Activity:
    """What one process has done of late; `check` is called again and again.

    Attributes:
      stall: seconds after which a process that does nothing is stuck.
    """

    def __init__(self, pid: int, stall: float) -> None:
        """Begin to watch a process that has just been started."""
        self.stall = stall
        self._pid = pid
        self._checked = time.monotonic()
        self._since_report = 0.0
        self._since_activity = 0.0
        self._since_look = 0.0
        self._before = _usage(pid)

    def report(self) -> None:
        """Note that the process has reported progress."""
        self._since_report = self._since_activity = 0.0

    def check(self) -> str | None:
        """Return what is wrong, as the end of a sentence; None while the process makes progress."""
        now = time.monotonic()
        step = min(now - self._checked, STEP_SECONDS)
        self._checked = now
        self._since_report += step
        self._since_activity += step
        self._since_look += step
        if self._since_look >= self.stall / LOOKS:
            self._look()
        if self._since_activity > self.stall:
            return f"did nothing for {duration(self.stall)}"
        if self._since_report > PATIENCE * self.stall:
            return f"finished no step in {duration(PATIENCE * self.stall)}, though it computes"
        return None

    def _look(self) -> None:
        """Compare what the process has used so far with the last look."""
        usage = _usage(self._pid)
        if usage is not None and self._before is not None:
            seconds, moved = (now - then for now, then in zip(usage, self._before, strict=True))
            if seconds >= COMPUTING_SHARE * self._since_look or moved >= MOVED_BYTES:
                self._since_activity = 0.0
        self._before, self._since_look = usage, 0.0


def _usage(pid: int) -> tuple[float, int] | None:
    """Seconds of computing and bytes read and written by a process; None if it has ended."""
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        moved = 0
        if hasattr(process, "io_counters"):  # not on macOS
            counters = process.io_counters()
            moved = getattr(counters, "read_chars", 0) + getattr(counters, "write_chars", 0)
        return times.user + times.system, moved
    except psutil.Error:
        return None


def duration(seconds: float) -> str:
    """Write a time as the settings read it.

    >>> duration(2.5), duration(90), duration(600), duration(7200)
    ('2.5s', '90s', '10m', '2h')
    """
    for unit, length in (("h", 3600), ("m", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"
