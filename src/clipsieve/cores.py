"""How many cores this process may use, and how its threads wait for each other.

A container may be allowed less than the machine has: by affinity, or by a quota of CPU time, which
nothing but the files of its control group shows.  Threads beyond it only wait for the next period.
"""

import functools
import math
import os
from pathlib import Path

#: Steps a thread of OpenMP polls before it sleeps, instead of 300,000: 12 ms that its core could
#: have worked for whoever holds the other threads up.
SPIN_COUNT = "1000"
#: Variables by which a user decides how threads wait.
WAIT_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


def cores() -> int:
    """Return the cores of this process: `OMP_NUM_THREADS` if it is set, as in worker processes."""
    share = os.environ.get("OMP_NUM_THREADS", "")
    if share.isdecimal() and int(share) > 0:
        return int(share)
    return usable_cores()


def usable_cores() -> int:
    """Return the cores that affinity and the control group's quota leave to this process."""
    quota = cpu_quota()
    allowed = machine_cores()
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def machine_cores() -> int:
    """Return the cores of this machine."""
    return os.cpu_count() or 1


def sleep_at_barriers() -> None:
    """Let threads of OpenMP sleep soon while they wait; before a library that uses it is loaded.

    Another process on one of the cores holds up one thread of a product, and the others wait for
    it at every step of the model: by default polling, which keeps their cores from it.  What the
    user has set stays.
    """
    if not any(name in os.environ for name in WAIT_SETTINGS):
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
        os.environ["KMP_BLOCKTIME"] = "0"


@functools.cache
def cpu_quota(
    groups: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")
) -> float | None:
    """Return the cores' worth of time that control groups allow a process; None for any.

    Args:
      groups: the process's groups, a line `NUMBER:CONTROLLERS:PATH` each.
      mount: where the groups are mounted; a container may see its own group there as the root.
    """
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = mount / "cpu" if controllers else mount
        parts = Path(path.lstrip("/")).parts
        for depth in range(len(parts) + 1):  # a group has what all above it allow
            quotas.append(_quota(top.joinpath(*parts[:depth])))
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(group: Path) -> float | None:
    """Return the quota of one group, of either version."""
    both = _words(group / "cpu.max")
    if not both:
        both = _words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us")
    try:
        quota, period = map(int, both)
    except ValueError:  # "max", or no files
        return None
    return quota / period if quota > 0 and period > 0 else None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError:
        return []
