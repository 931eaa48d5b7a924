"""What the pipelines ask of an engine, and the answers of one of which nothing else is known."""

import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from clipsieve import errors
from clipsieve.errors import ClipsieveError, EngineError, WorkersLost
from clipsieve.job.workers import shares
from clipsieve.stage import Element

#: Elements that one group holds on a cluster: enough to read ahead, few enough to share out.
GROUP_ELEMENTS = 4
#: A worker's error in the text of a traceback, where the engine hands on nothing else.
_RAISED = re.compile(r"^clipsieve\.errors\.(\w+): (.+)$", re.MULTILINE)
_NOT_INSTALLED = re.compile(r"^(?:ModuleNotFoundError|ImportError): (.+)$", re.MULTILINE)
#: What gRPC puts into the text of its errors.
_DETAILS = re.compile(r'^\s*details = "(.+)"$', re.MULTILINE)
_STEP = re.compile(r"( \[while running '[^']*'\])+$")


class Backend:
    """One engine for the length of a command.

    Attributes:
      runner: Beam's name or full path of its runner.
      beam_args: options of that runner, as on a command line.
    """

    #: Whether groups must be shared out by a step of the pipeline.
    needs_spread: ClassVar[bool] = True

    def __init__(self, runner: str, beam_args: Sequence[str] = ()) -> None:
        """Name the engine; nothing is started or reached yet."""
        self.runner, self.beam_args = runner, tuple(beam_args)

    def options(self) -> list[str]:
        """Return the options of the runner, with defaults; starts what the engine needs.

        Raises:
          UsageError: if it cannot be reached.
        """
        return list(self.beam_args)

    def groups(self, elements: Sequence[Element]) -> list[list[Element]]:
        """Return the elements in groups of about equal work; each is worked on by one worker."""
        return shares(elements, -(-len(elements) // GROUP_ELEMENTS))

    def run(self, start: Callable[[], Any]) -> Any:
        """Start a pipeline, wait for its end, and return its state."""
        return start().wait_until_finish()

    def explain(self, error: Exception) -> Exception:
        """Return what to raise for an exception that ended a pipeline.

        That is `WorkersLost` if it can be run again, and a worker's own error where the engine
        hands it on as text.
        """
        return explain_text(self.runner, str(error) or type(error).__name__)

    def settle(self) -> None:
        """Wait until the workers of a pipeline that has failed are idle, where that can be known.

        The stop marker is in the folder.
        """

    def close(self) -> None:
        """End what was started, and release what workers hold."""


class LocalBackend(Backend):
    """Beam's runner in this process: its exceptions are raised as they are."""

    def explain(self, error: Exception) -> Exception:
        """Return the exception itself."""
        return error


def without_step(message: str) -> str:
    """Return a message without the names of steps that Beam puts behind it.

    >>> without_step("no such file [while running 'Embed/Work']")
    'no such file'
    """
    return _STEP.sub("", message)


def explain_text(runner: str, text: str) -> ClipsieveError:
    """Return the error for the text with which an engine ended a pipeline.

    >>> explain_text("FlinkRunner", "clipsieve.errors.UsageError: no [while running 'A']")
    UsageError('no')
    >>> type(explain_text("FlinkRunner", "Channel closed prematurely."))
    <class 'clipsieve.errors.WorkersLost'>
    """
    raised = _RAISED.findall(text)
    if raised:
        name, message = raised[-1]
        kind = getattr(errors, name, ClipsieveError)
        error: ClipsieveError = kind(without_step(message))
        return error
    missing = _NOT_INSTALLED.findall(text)
    if missing:
        return EngineError(
            f"a worker of {runner} lacks a module ({without_step(missing[-1])}); install the same "
            "clipsieve and plug-ins on every worker"
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    details = _DETAILS.findall(text)
    last = details[-1] if details else without_step(lines[-1]) if lines else "no message"
    return WorkersLost(
        f"{runner} ended the pipeline ({last[:300]}); see the logs of its workers, then repeat the "
        "command: what is done is kept"
    )
