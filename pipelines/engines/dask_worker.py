"""What runs in Dask workers besides tasks: before the first one, and between them."""

import signal
from typing import Any

from clipsieve.pipelines.quiet import hide_missing_clients


def dask_setup(worker: object) -> None:
    """Leave Ctrl-C to the driver, and keep a warning of Beam's from standard error.

    Dask calls it in workers of our own, see `preload`.

    Args:
      worker: Dask's, which is not looked at.
    """
    # A terminal's Ctrl-C goes to every process of the command, and is the driver's to deal with.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hide_missing_clients()


def count_running(dask_worker: Any) -> int:
    """Return how many tasks occupy threads of a worker, those that were taken back included.

    The scheduler forgets a task at once when it is taken back, but its thread goes on.

    Args:
      dask_worker: Dask's.
    """
    return len(dask_worker.state.all_running_tasks)
