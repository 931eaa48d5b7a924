"""A stage on workers of an engine: one at a time in a process, with its deaths and errors kept.

What `clipsieve.job.workers` does for processes that it has started, a worker does here for itself,
since engines neither say which shard a dead worker had in hand, nor hand on what it raised.
"""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from clipsieve.control import remote_control
from clipsieve.errors import UsageError
from clipsieve.job.attempts import Attempts, Suspect, blamed
from clipsieve.job.reach import REACH_CURE, input_problems, output_problem
from clipsieve.job.worker_errors import leave_error
from clipsieve.stage import Element, Report, Worker, WrappedStage
from clipsieve.store.folder import OutputFolder
from clipsieve.store.records import FAILED, ShardRecord, add_record

#: One group at a time in a process: it holds a model, and a death must be blamed on few shards.
_turn = threading.Lock()
#: The opened stage of this process, by its execution: engines make a new worker for each group.
_opened: dict[str, "_Opened"] = {}


@dataclass(frozen=True, slots=True)
class GuardedStage(WrappedStage):
    """The same stage for workers on other machines; its elements are those of `guard`.

    Attributes:
      stage: what to do.
      execution: a name of its own for each pipeline that runs it.
      inputs: sources that a worker must be able to read, if the stage reads sources.
    """

    execution: str
    inputs: tuple[str, ...] = ()

    def open(self) -> Worker:
        """Open nothing yet: another worker of this process may have done so."""
        return _GuardedWorker(self)

    def finish(self, total: Report) -> Report:
        """Finish the stage; an error is also left in the folder."""
        try:
            return self.stage.finish(total)
        except Exception as error:
            leave_error(OutputFolder.open(self.out), self.run_id, error, ())
            raise


def guard(element: Element) -> Element:
    """Return an element of a `GuardedStage` for one of its stage."""
    return replace(element, text=json.dumps([element.name, element.uri, element.text]))


def release() -> None:
    """Drop what this process holds open, unless it works."""
    if _turn.acquire(blocking=False):
        try:
            _opened.clear()
        finally:
            _turn.release()


class _GuardedWorker:
    def __init__(self, stage: GuardedStage) -> None:
        self._stage = stage

    def work(self, elements: Sequence[str]) -> Iterator[Report]:
        with _turn:
            opened = _opened.get(self._stage.execution)
            if opened is None:
                _opened.clear()  # before another model is loaded
                opened = _opened[self._stage.execution] = _Opened(self._stage)
            yield from opened.work([Element(n, t, uri=u) for n, u, t in map(json.loads, elements)])


class _Opened:
    """The opened stage of this process, and the markers of what it has in hand."""

    def __init__(self, guarded: GuardedStage) -> None:
        stage: Any = guarded.stage
        self._run_id, self._name = stage.run_id, stage.name
        self._folder = OutputFolder.open(stage.out)
        self._attempts = Attempts(self._folder, stage.run_id, stage.name)
        # Of its own for each execution: a stop that ends one must not end the next one too.
        control = remote_control(stage.control, guarded.execution, self._attempts.hear)
        try:
            self._require_reach(guarded)
            self._worker: Worker = replace(stage, control=control).open()
        except Exception as error:
            leave_error(self._folder, self._run_id, error, ())
            raise

    def work(self, elements: Sequence[Element]) -> Iterator[Report]:
        """Work on clean elements together, then on suspects one by one."""
        try:
            suspects = self._attempts.suspects(element.name for element in elements)
            clean = [element.text for element in elements if element.name not in suspects]
            if clean:
                yield from self._worker.work(clean)
                self._attempts.end_all()
            for element in elements:
                if element.name in suspects:
                    yield from self._work_alone(element, suspects[element.name])
        except Exception as error:
            leave_error(self._folder, self._run_id, error, self._attempts.in_hand)
            raise
        finally:
            self._attempts.end_all()  # this worker lives

    def _require_reach(self, guarded: GuardedStage) -> None:
        """Refuse to work where no input can be read, or the output folder cannot be written to.

        One input that is gone may have been removed meanwhile: a failed shard.

        Raises:
          UsageError: says which.
        """
        problems = list(input_problems(guarded.inputs))
        if len(problems) < len(guarded.inputs):
            problems = []
        problem = output_problem(guarded.out)
        if problem is not None:
            problems.append(problem)
        if problems:
            raise UsageError(f"{'; '.join(problems)}; {REACH_CURE}")

    def _work_alone(self, element: Element, suspect: Suspect) -> Iterator[Report]:
        if suspect.is_given_up:
            yield self._failed(element, suspect)
            return
        self._attempts.is_alone = True
        try:
            for report in self._worker.work([element.text]):
                yield report
                self._attempts.acquit(suspect)  # not reached if the run is stopped
        finally:
            self._attempts.is_alone = False
            self._attempts.end_all()

    def _failed(self, element: Element, suspect: Suspect) -> Report:
        """Record that a shard kills its workers."""
        record = ShardRecord(
            self._run_id,
            element.name,
            element.uri,
            FAILED,
            error=blamed(element.uri or element.name, self._attempts.victims(suspect)),
            ended_at=time.time(),
        )
        add_record(self._folder, record)
        return Report(failed=(element.name,))
