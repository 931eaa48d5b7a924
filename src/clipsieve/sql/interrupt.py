"""Queries that Ctrl-C ends at once."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import duckdb

T = TypeVar("T")


def interruptible(connection: duckdb.DuckDBPyConnection, work: Callable[[], T]) -> T:
    """Return what `work` returns, which runs queries of `connection` in a thread.

    DuckDB looks at its own flag only, so a signal that arrives during a query would wait for its
    end; the calling thread is free to take it.

    Raises:
      KeyboardInterrupt: after SIGINT; the query has ended by then.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # carried to the caller, which raises it
            done.set_exception(error)

    thread = threading.Thread(target=run, name="clipsieve-query", daemon=True)
    thread.start()
    try:
        return done.result()
    except KeyboardInterrupt:
        connection.interrupt()
        thread.join()
        raise
