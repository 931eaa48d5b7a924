"""Progress of workers on other machines, from the names of the shard records they leave."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from clipsieve.control import Control, Snapshot
from clipsieve.errors import StorageError
from clipsieve.store.folder import OutputFolder
from clipsieve.store.records import DONE, FAILED, SCORED, RecordSummary, record_names
from clipsieve.threads import in_background

#: Seconds between two listings.
LIST_SECONDS = 3.0
#: A listing that takes long is not repeated before so many times its length.
LIST_SHARE = 10
#: Of several records of a shard the first of these counts: one tried again may fail, then be done.
_ORDER = (DONE, SCORED, FAILED)


@dataclass(slots=True)
class RemoteProgress:
    """What has been done since a stage began.

    Attributes:
      folder: the output folder.
      run_id: of the run.
      before: names of the records that were there when it began.
    """

    folder: OutputFolder
    run_id: str
    before: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        """List what is there."""
        self.before = frozenset(record_names(self.folder, self.run_id))

    def snapshot(self) -> Snapshot:
        """Return the rows and shards recorded since; each shard counts once."""
        return count_records(record_names(self.folder, self.run_id) - self.before)


def count_records(names: set[str]) -> Snapshot:
    """Return rows and shards of records by their names; each shard counts once."""
    by_shard: dict[str, RecordSummary] = {}
    for name in sorted(names):
        summary = RecordSummary.from_name(name)
        if summary is None:
            continue
        known = by_shard.get(summary.digest)
        if known is None or _ORDER.index(summary.state) < _ORDER.index(known.state):
            by_shard[summary.digest] = summary
    each = by_shard.values()
    return Snapshot(
        rows=sum(summary.rows for summary in each),
        failed_rows=sum(summary.failed_rows for summary in each),
        shards=sum(summary.state != FAILED for summary in each),
        failed_shards=sum(summary.state == FAILED for summary in each),
    )


@contextmanager
def watched_progress(folder: OutputFolder, control: Control) -> Iterator[RemoteProgress]:
    """Within the block bring the counters of `control` up to date every few seconds."""
    progress = RemoteProgress(folder, control.run_id)
    shown = control.snapshot()

    def watch(ended: threading.Event) -> None:
        wait = LIST_SECONDS
        while not ended.wait(wait):
            start = time.monotonic()
            with suppress(StorageError):  # tried again
                control.replace_progress(shown + progress.snapshot())
            wait = max(LIST_SECONDS, LIST_SHARE * (time.monotonic() - start))

    try:
        with in_background(watch, "clipsieve-remote-progress"):
            yield progress
    finally:
        with suppress(StorageError):
            control.replace_progress(shown + progress.snapshot())
