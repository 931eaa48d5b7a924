"""Spreading calls over processes without letting the result depend on how many."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar, TypeVarTuple

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


def spread(
    function: Callable[[*Arguments], Result],
    calls: Sequence[tuple[*Arguments]],
    processes: int = 1,
) -> Iterator[Result]:
    """Yield `function(*call)` for each call, in the order of the calls.

    Args:
      function: must be importable by name, as must its arguments.
      calls: argument tuples.
      processes: how many compute at once; 1 computes right here.

    Raises:
      ValueError: if `processes` is less than 1.
    """
    if processes < 1:
        raise ValueError(f"processes must be an int of at least 1, got {processes}")
    if processes == 1 or len(calls) < 2:
        for call in calls:
            yield function(*call)
        return
    # Spawned, not forked: a fork copies whatever locks the caller's threads hold.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(function, *call) for call in calls]
        for future in futures:
            yield future.result()
