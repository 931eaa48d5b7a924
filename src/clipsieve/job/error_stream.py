"""Standard error, whose reader may go away before the job ends: it continues without output."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from clipsieve.console import SafeConsole
from clipsieve.terminal import escaped


class ErrorConsole(SafeConsole):
    """A console on standard error that writes nothing more once its reader has gone."""

    def __init__(self) -> None:
        """Write to standard error."""
        super().__init__(stderr=True)

    def on_broken_pipe(self) -> None:
        """Go on without a reader; rich itself would end the process."""
        silence()


@contextmanager
def ignoring_broken_pipe() -> Iterator[None]:
    """Within the block what is written to standard error may have no reader any more."""
    try:
        yield
    except BrokenPipeError:
        silence()


def silence() -> None:
    """Let what is written to standard error from now on vanish, also of processes to come."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def forward(line: bytes) -> None:
    """Write a line of another process to standard error."""
    with ignoring_broken_pipe():
        sys.stderr.write(escaped(line.decode("utf-8", "backslashreplace")))
        sys.stderr.flush()
