"""What a Dask worker of our own does before its first task; Dask calls it, see `preload`."""

import signal

from clipsieve.pipelines.quiet import hide_missing_clients


def dask_setup(worker: object) -> None:
    """Leave Ctrl-C to the driver, and keep a warning of Beam's from standard error.

    Args:
      worker: Dask's, which is not looked at.
    """
    # A terminal's Ctrl-C goes to every process of the command, and is the driver's to deal with.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hide_missing_clients()
