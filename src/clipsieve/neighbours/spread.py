"""Blocks of work over the cores, each block on one core.

A search is many small operations.  Cores that share each of them wait for each other after each,
for milliseconds where something else runs on one of them; cores with blocks of their own do not.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Scratch = TypeVar("Scratch")


def spread(
    work: Callable[[Scratch, int], None],
    scratch: Callable[[], Scratch],
    blocks: Iterable[int],
    workers: int,
) -> None:
    """Do `work` on every block.

    Args:
      work: does one block, with a worker's scratch; torch operations in it run on one core.
      scratch: makes one, once a worker.
      blocks: what `work` is told, one after the other.
      workers: threads; with 1 everything happens in this thread, on as many cores as it has.

    Raises:
      Exception: of the first block, in their order, in which `work` raised one.

    >>> done = []
    >>> spread(lambda memory, block: done.append(memory + [block]), list, [5, 7], workers=1)
    >>> done
    [[5], [7]]
    """
    if workers == 1:
        memory = scratch()
        for block in blocks:
            work(memory, block)
        return
    mine = threading.local()

    def begin() -> None:
        # Of this thread only.
        torch.set_num_threads(1)

    def one(block: int) -> None:
        if not hasattr(mine, "scratch"):
            mine.scratch = scratch()
        work(mine.scratch, block)

    pool = ThreadPoolExecutor(workers, initializer=begin)
    try:
        for _ in pool.map(one, blocks):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
