"""Parts of the work, such as batches of a shard, done several at a time, a thread on one core each.

Products and sums of a batch are then made in the same order whatever the number of threads, so the
results do not depend on it, to the last bit.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from threadpoolctl import threadpool_limits

from clipsieve.cores import cores

T = TypeVar("T")
P = TypeVar("P")


def map_parts(function: Callable[[P], T], parts: Iterable[P]) -> list[T]:
    """Return `function` of each part, in order; NumPy's products run on one core each.

    A part is let go once it is done: what was computed of it does not wait for the others.

    Raises:
      Exception: what `function` raises for the first part for which it does.
    """
    return list(iterate_parts(function, parts))


def iterate_parts(function: Callable[[P], T], parts: Iterable[P]) -> Iterator[T]:
    """Yield `function` of each part, in order, a few ahead of who takes them; see `map_parts`."""
    threads = cores()
    with one_core_products():
        if threads < 2:
            yield from map(function, parts)
            return
        with ThreadPoolExecutor(threads, "clipsieve-parts") as pool:
            waiting: deque[Future[T]] = deque()
            for part in parts:
                waiting.append(pool.submit(function, part))
                del part
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


def read_ahead(read: Callable[[P], T], parts: Iterable[P], ahead: int) -> Iterator[T]:
    """Yield `read` of each part, in order, `ahead` of them in threads before they are taken.

    For reading from stores, which takes waiting and no processor; 0 uses no thread.
    """
    if not ahead:
        yield from map(read, parts)
        return
    with ThreadPoolExecutor(ahead, "clipsieve-read") as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for part in parts:
                waiting.append(pool.submit(read, part))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # who takes them may have failed
            for future in waiting:
                future.cancel()


@contextmanager
def in_background(work: Callable[[threading.Event], None], name: str) -> Iterator[None]:
    """Within the block run `work` in a thread of that name; at its end wait for it.

    Args:
      work: is handed what is set at the block's end, and must return soon after.
      name: of the thread.
    """
    ended = threading.Event()
    thread = threading.Thread(target=work, args=(ended,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def one_core_products() -> Iterator[None]:
    """Within the block NumPy's products and decompositions run on one core each."""
    with threadpool_limits(limits=1, user_api="blas"):
        yield
