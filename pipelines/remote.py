"""A stage on an engine whose workers are not this machine's: run again for what deaths left.

The caller holds the output folder's lock, so that markers and what dead workers left half written
can be removed.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from clipsieve.control import LOOK_SECONDS, stop_marker
from clipsieve.errors import EngineError, StorageError, WorkersLost
from clipsieve.job.attempts import Deaths, clear_attempts
from clipsieve.job.guarded import GuardedStage, guard, release
from clipsieve.job.remote_progress import RemoteProgress, watched_progress
from clipsieve.job.worker_errors import left_error
from clipsieve.job.workers import MAX_IDLE_DEATHS
from clipsieve.pipelines.engines.base import Backend
from clipsieve.pipelines.run_stage import run_groups
from clipsieve.stage import Element, Report, Stage
from clipsieve.store.folder import OutputFolder
from clipsieve.threads import in_background

#: Sources that every worker must be able to read, before it begins.
REQUIRED_INPUTS = 4


def run_on_workers(backend: Backend, stage: Stage, elements: Sequence[Element]) -> Report:
    """Run a stage over all elements, again and again while workers die on shards.

    Raises:
      WorkersLost: if workers die repeatedly with neither a shard done nor one to blame.
      ClipsieveError: what a worker raised, naming it.
    """
    folder = OutputFolder.open(stage.out)
    clear_attempts(folder)
    reads_sources = getattr(stage, "reads_sources", False)
    inputs = tuple(e.uri for e in elements[:REQUIRED_INPUTS]) if reads_sources else ()
    groups = [[guard(e).text for e in group] for group in backend.groups(elements)]
    try:
        with watched_progress(folder, stage.control) as progress, announced_stop(stage) as abort:
            deaths = _Deaths(folder, stage, progress)
            while True:
                guarded = GuardedStage(stage, uuid4().hex, inputs)
                try:
                    return run_groups(guarded, groups, backend)
                except Exception as error:
                    if not isinstance(error, EngineError) or isinstance(error, WorkersLost):
                        with abort():
                            backend.settle()
                    cause = _cause(error, folder, stage)
                    if not isinstance(cause, WorkersLost) or deaths.are_in_vain(cause):
                        raise cause from error
    finally:
        release()  # workers may be threads of this process
        clear_attempts(folder)
        folder.sweep()


def _cause(error: Exception, folder: OutputFolder, stage: Stage) -> Exception:
    """Return what a worker has left as its error, where there is something."""
    with suppress(StorageError):
        return left_error(folder, stage.run_id) or error
    return error


class _Deaths:
    """Whether deaths of workers lead anywhere: to shards done, or to shards to blame."""

    def __init__(self, folder: OutputFolder, stage: Stage, progress: RemoteProgress) -> None:
        self._markers = Deaths(folder, stage.run_id)
        self._stage, self._progress = stage, progress
        self._done = 0
        self._idle = 0

    def are_in_vain(self, error: WorkersLost) -> bool:
        """Whether a pipeline that ended with `error` need not be run again; words it then."""
        snapshot = self._progress.snapshot()
        done = snapshot.shards + snapshot.failed_shards
        is_new = self._markers.any_new()
        self._idle = 0 if is_new or done > self._done else self._idle + 1
        self._done = done
        if self._idle < MAX_IDLE_DEATHS:
            return False
        error.args = (
            f"stage {self._stage.name}: workers were lost {self._idle} times with no shard done "
            f"and none to blame: {error}",
        )
        return True


@contextmanager
def announced_stop(stage: Stage) -> Iterator[Any]:
    """Within the block, put the stop marker into the output folder once the run is stopped.

    Workers on other machines look for it between shards.

    Yields:
      A context manager that also puts it there for the length of a block.
    """
    folder, marker = OutputFolder.open(stage.out), stop_marker(stage.run_id)
    control = stage.control
    lock = threading.Lock()

    def watch(ended: threading.Event) -> None:
        while True:
            if control.stopped:
                with suppress(StorageError), lock:  # tried again
                    folder.write_text(marker, f"{control.reason}\n")
                    return
            if ended.wait(LOOK_SECONDS):
                return

    @contextmanager
    def abort() -> Iterator[None]:
        with suppress(StorageError), lock:
            folder.write_text(marker, "the pipeline has failed\n")
        try:
            yield
        finally:
            with suppress(StorageError), lock:
                if not control.stopped:
                    folder.files.delete(marker)

    folder.files.delete(marker)
    try:
        with in_background(watch, "clipsieve-stop"):
            yield abort
    finally:
        folder.files.delete(marker)
