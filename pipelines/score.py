"""The score stage: families computed from stored embeddings and captions, without pixels."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsieve.errors import ClipsieveError, LedgerError, UsageError
from clipsieve.pipelines.compact import compact
from clipsieve.pipelines.embed import count_record, counts_path, run_counted, write_counts
from clipsieve.pipelines.runners import LOCAL, beam
from clipsieve.pipelines.signals import EXIT_OF_STOP, stopping_on_signals
from clipsieve.progress import METER, STOP
from clipsieve.rescore import ScoreJob
from clipsieve.scorers.base import Input
from clipsieve.scorers.registry import scorers_named
from clipsieve.show import Teller
from clipsieve.statistics.counts import RowCounts
from clipsieve.store import dataset as datasets
from clipsieve.store.atomic import sweep
from clipsieve.store.dataset import Dataset
from clipsieve.store.layout import Layout
from clipsieve.store.lock import exclusive
from clipsieve.store.runs import new_run_id, write_manifest
from clipsieve.transforms.merge import MergeStatistics
from clipsieve.transforms.score import ScoreShards
from clipsieve.transforms.spread import Spread


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """How a score stage ended.

    Attributes:
      done: shards scored.
      left: shards not begun, because the run was stopped.
      exit_code: 0, or 143 or 130 if a signal stopped it with shards left.
    """

    done: int
    left: int
    exit_code: int


def build(root: Any, job: ScoreJob, shards: Sequence[str], counts: Path) -> Any:
    """Put the stage on `root`: every shard scored; the number of shards goes to `counts`."""
    return (
        root
        | "Shards" >> beam.Create(list(shards)).with_output_types(str)
        | "Spread" >> Spread()
        | "Score" >> ScoreShards(job)
        | "Count" >> beam.Map(count_record).with_output_types(RowCounts)
        | "Merge" >> beam.CombineGlobally(MergeStatistics(RowCounts())).without_defaults()
        | "WriteCounts" >> beam.Map(write_counts, str(counts)).with_output_types(RowCounts)
    )


def score_stored(
    job: ScoreJob, runner: str = LOCAL, beam_args: Sequence[str] = ()
) -> tuple[int, int]:
    """Score every shard that lacks a family of `job`.

    Returns:
      Shards scored, and shards left because `STOP` was set.

    Raises:
      LedgerError: if the runner lost shards.
    """
    shards = job.todo()
    if not shards:
        return 0, 0
    path = counts_path(Layout.at(job.out), job.run_id)
    total = run_counted(lambda root: build(root, job, shards, path), path, runner, beam_args)
    scored = total.shards if total is not None else 0
    if scored != len(shards) and not STOP:
        raise LedgerError(
            f"runner {runner} scored {scored} of {len(shards)} shards without an error; "
            "it lost elements: use another runner"
        )
    return scored, len(shards) - scored


def stored_job(
    layout: Layout, dataset: Dataset, scorers: Sequence[str], device: str, run_id: str
) -> ScoreJob:
    """The job that computes `scorers` from what `dataset` holds.

    Raises:
      UsageError: for an unknown scorer, or one whose reference captions the folder lacks.
    """
    columns = [entry["options"].get("references_col") for entry in dataset.inputs]
    references = next((column for column in columns if column), None)
    for scorer in scorers_named(scorers):
        if Input.REFERENCE_EMBEDDINGS in scorer.needs and references is None:
            raise UsageError(
                f"scorer {scorer.family} needs reference captions and {layout.root} was made "
                "without --references-col; run it again with that option"
            )
    return ScoreJob(
        out=str(layout.root),
        scorers=tuple(scorers),
        model=dataset.model,
        embeddings=dataset.embeddings,
        references_col=references,
        device=device,
        run_id=run_id,
    )


def score(
    out: str,
    scorers: Sequence[str],
    device: str = "auto",
    runner: str = LOCAL,
    beam_args: Sequence[str] = (),
    teller: Teller | None = None,
) -> ScoreResult:
    """Add score families to an output folder, from its stored embeddings, and compact.

    Families that `run` has computed from full-precision embeddings are left as they are.

    Args:
      out: output folder of an earlier run.
      scorers: names of scorers.
      device: for texts that must be encoded.
      runner: Beam runner.
      beam_args: its options.
      teller: where progress goes.

    Returns:
      How it ended.

    Raises:
      UsageError: for an unknown scorer, or a folder without a dataset.
    """
    teller = teller or Teller()
    layout = Layout.at(out)
    METER.reset()
    STOP.reset()
    with stopping_on_signals(), exclusive(layout):
        sweep(layout.root)
        dataset = datasets.require(layout)
        run_id = teller.run_id = new_run_id()
        job = stored_job(layout, dataset, scorers, device, run_id)
        stored = job.revisions()
        kept = [n for n in scorers if dataset.families.get(n, stored[n]) != stored[n]]
        for name in kept:
            teller.tell("kept", f"{name}: computed by run at full precision; left as it is")
        job = dataclasses.replace(job, scorers=tuple(n for n in scorers if n not in kept))
        with teller.watching(METER.snapshot, None):
            done, left = score_stored(job, runner, beam_args) if job.scorers else (0, 0)
        if not left:
            families = {**dataset.families, **job.revisions()}
            dataset = compact(layout, dataclasses.replace(dataset, families=families))
        status = "stopped" if left else "ok"
        write_manifest(
            layout, run_id, {"status": status, "argv": sys.argv, "scorers": list(job.scorers)}
        )
        teller.tell("result", f"{done} shards scored, {left} left", done=done, left=left)
    return ScoreResult(done, left, EXIT_OF_STOP[STOP.reason or ""] if left else 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Score one output folder; Beam options pass through."""
    parser = argparse.ArgumentParser(prog="clipsieve.pipelines.score", description=__doc__)
    parser.add_argument("out", help="output folder of `clipsieve run`")
    parser.add_argument("--scorers", required=True, help="names, separated by commas")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runner", default=LOCAL)
    options, beam_args = parser.parse_known_args(argv)
    try:
        names = [name.strip() for name in options.scorers.split(",")]
        return score(options.out, names, options.device, options.runner, beam_args).exit_code
    except ClipsieveError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
