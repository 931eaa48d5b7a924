"""Batches of a shard worked on several at a time, each in a thread on one core.

Products and sums of a batch are then made in the same order whatever the number of threads, so the
results do not depend on it, to the last bit.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

T = TypeVar("T")
P = TypeVar("P")


def map_parts(function: Callable[[P], T], parts: Iterable[P]) -> list[T]:
    """Return `function` of each part, in order; NumPy's products run on one core each.

    Raises:
      Exception: what `function` raises for the first part for which it does.
    """
    listed = list(parts)
    threads = min(cores(), len(listed))
    with _controller().limit(limits=1, user_api="blas"):
        if threads < 2:
            return [function(part) for part in listed]
        with ThreadPoolExecutor(threads, "clipsieve-parts") as pool:
            return list(pool.map(function, listed))


def cores() -> int:
    """Return the cores of this process: `OMP_NUM_THREADS` if it is set, as in worker processes."""
    share = os.environ.get("OMP_NUM_THREADS", "")
    if share.isdecimal() and int(share) > 0:
        return int(share)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
