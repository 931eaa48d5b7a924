"""The embed stage: shards in, ledger, embeddings and clip scores out.

As a module it is one worker process of `clipsieve run --workers N`:

    python -m clipsieve.pipelines.embed --job job.json --items items.json
"""

import argparse
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clipsieve.embed.job import EmbedJob
from clipsieve.errors import ClipsieveError, LedgerError
from clipsieve.formats.base import WorkItem
from clipsieve.pipelines.runners import LOCAL, beam, run_pipeline
from clipsieve.pipelines.signals import stopping_on_signals
from clipsieve.progress import METER, STOP
from clipsieve.statistics.counts import RowCounts
from clipsieve.store.atomic import MARK, write_json
from clipsieve.store.layout import Layout
from clipsieve.store.runs import ShardRecord
from clipsieve.transforms.embed import EmbedShards, Group
from clipsieve.transforms.merge import MergeStatistics
from clipsieve.transforms.spread import Spread

#: Items that one element holds on a cluster: enough to read ahead, few enough to share out.
ITEMS_A_GROUP = 4


def build(root: Any, job: EmbedJob, groups: Sequence[Group], counts: Path) -> Any:
    """Put the stage on `root`: groups of items, embedded; their row counts go to `counts`."""
    return (
        root
        | "Groups" >> beam.Create(list(groups)).with_output_types(Group)
        | "Spread" >> Spread()
        | "Embed" >> EmbedShards(job)
        | "Count" >> beam.Map(count_record).with_output_types(RowCounts)
        | "Merge" >> beam.CombineGlobally(MergeStatistics(RowCounts())).without_defaults()
        | "WriteCounts" >> beam.Map(write_counts, str(counts)).with_output_types(RowCounts)
    )


def embed_items(job: EmbedJob, groups: Sequence[Group]) -> RowCounts:
    """Run the stage over `groups` of items and return the counts that came out of the pipeline.

    Raises:
      LedgerError: if the pipeline ended well but lost its own counts.
    """
    path = counts_path(Layout.at(job.config.out), job.config.run_id)
    total = run_counted(
        lambda root: build(root, job, groups, path), path, job.config.runner, job.config.beam_args
    )
    if total is None:
        if STOP:  # stopped before the first shard: nothing was there to count
            return RowCounts()
        raise LedgerError(
            f"runner {job.config.runner} ended without an error and without its counts: it lost "
            "elements; use another runner"
        )
    return total


def run_counted(
    build: Callable[[Any], object], path: Path, runner: str, beam_args: Sequence[str]
) -> RowCounts | None:
    """Run a pipeline that leaves its counts at `path`; the counts, or None if it left none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    run_pipeline(build, runner, beam_args)
    if not path.exists():
        return None
    total = RowCounts.from_json(json.loads(path.read_text(encoding="utf-8")))
    path.unlink()
    return total


def counts_path(layout: Layout, run_id: str | None) -> Path:
    """Where a pipeline of this process leaves its counts; swept up if the process is killed."""
    return layout.runs / f"{run_id}.counts{MARK}{os.getpid()}"


def group_items(items: Sequence[WorkItem], runner: str) -> list[Group]:
    """Items as elements, as JSON; see `in_groups`."""
    return in_groups([item.to_json() for item in items], runner)


def in_groups(words: Sequence[str], runner: str) -> list[list[str]]:
    """Work as elements: all in one where one process does the work, else a few in each."""
    size = max(1, len(words)) if runner == LOCAL else ITEMS_A_GROUP
    return [list(words[first : first + size]) for first in range(0, len(words), size)]


def count_record(record: str) -> RowCounts:
    """Counts of one shard, from its record."""
    return RowCounts(dict(ShardRecord.from_json(record).states), shards=1)


def write_counts(counts: RowCounts, path: str) -> RowCounts:
    """Write the total where the driver looks for it."""
    write_json(Path(path), counts.to_json())
    return counts


def main(argv: Sequence[str] | None = None) -> int:
    """Embed the items of a file, group after group; prints progress as JSON lines.

    Ends at once when standard input closes: the process that started it is gone, and with it the
    lock on the output folder.
    """
    parser = argparse.ArgumentParser(prog="clipsieve.pipelines.embed", description=__doc__)
    parser.add_argument("--job", required=True, help="file with an EmbedJob as JSON")
    parser.add_argument("--items", required=True, help="file with groups of WorkItems as JSON")
    options = parser.parse_args(argv)
    job = EmbedJob.from_json(Path(options.job).read_text(encoding="utf-8"))
    groups: list[Group] = json.loads(Path(options.items).read_text(encoding="utf-8"))
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    METER.on_change = _say
    with stopping_on_signals():
        try:
            for group in groups:
                embed_items(job, [group])
        except ClipsieveError as error:
            _say({"error": str(error), "exit_code": error.exit_code})
            return error.exit_code
    _say({"meter": METER.snapshot().to_json()})
    return 0


def _exit_with_parent() -> None:
    """End the process, whatever it is doing, when standard input closes."""
    # Not through sys.stdin: its lock would abort the interpreter when the process ends by itself.
    while os.read(0, 4096):
        pass
    os._exit(1)


def _say(message: dict[str, Any]) -> None:
    """One line to the process that started this one."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
