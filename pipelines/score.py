"""The score stage: families computed from stored embeddings and captions, without pixels."""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsieve.embed.commit import family_revision
from clipsieve.errors import ClipsieveError, LedgerError, UsageError
from clipsieve.pipelines.compact import compact
from clipsieve.pipelines.embed import (
    count_record,
    counts_path,
    in_groups,
    run_counted,
    write_counts,
)
from clipsieve.pipelines.fit import fit
from clipsieve.pipelines.plan import options_for
from clipsieve.pipelines.runners import LOCAL, beam
from clipsieve.pipelines.signals import EXIT_OF_STOP, stopping_on_signals
from clipsieve.progress import METER, STOP
from clipsieve.rescore import ScoreJob
from clipsieve.scorers.base import Input, Scorer, is_fitted
from clipsieve.scorers.registry import scorers_named
from clipsieve.show import Teller
from clipsieve.statistics.counts import RowCounts
from clipsieve.store import dataset as datasets
from clipsieve.store.atomic import sweep
from clipsieve.store.dataset import Dataset
from clipsieve.store.layout import Layout
from clipsieve.store.lock import exclusive
from clipsieve.store.runs import new_run_id, write_manifest
from clipsieve.stored import StoredPairs
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


def build(root: Any, job: ScoreJob, groups: Sequence[list[str]], counts: Path) -> Any:
    """Put the stage on `root`: every shard scored; the number of shards goes to `counts`."""
    return (
        root
        | "Groups" >> beam.Create(list(groups)).with_output_types(list[str])
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
    groups = in_groups(shards, runner)
    total = run_counted(lambda root: build(root, job, groups, path), path, runner, beam_args)
    scored = total.shards if total is not None else 0
    if scored != len(shards) and not STOP:
        raise LedgerError(
            f"runner {runner} scored {scored} of {len(shards)} shards without an error; "
            "it lost elements: use another runner"
        )
    return scored, len(shards) - scored


def stored_job(
    layout: Layout,
    dataset: Dataset,
    scorers: Sequence[str],
    options: Mapping[str, Mapping[str, Any]],
    device: str,
    run_id: str,
) -> ScoreJob:
    """The job that computes `scorers` from what `dataset` holds.

    Raises:
      UsageError: for an unknown scorer, or one whose reference captions the folder lacks.
    """
    columns = [entry["options"].get("references_col") for entry in dataset.inputs]
    references = next((column for column in columns if column), None)
    chosen = scorers_named(scorers, options)
    for scorer in chosen:
        if Input.REFERENCE_EMBEDDINGS in scorer.needs and references is None:
            raise UsageError(
                f"scorer {scorer.family} needs reference captions and {layout.root} was made "
                "without --references-col; run it again with that option"
            )
    return ScoreJob(
        out=str(layout.root),
        scorers=tuple(scorers),
        options=options,
        fits={s.family: dataset.fits[s.family]["fit"] for s in chosen if is_fitted(s)},
        model=dataset.model,
        embeddings=dataset.embeddings,
        references_col=references,
        device=device,
        run_id=run_id,
    )


@dataclass(frozen=True, slots=True)
class Scored:
    """How far the families of a folder were brought up to date.

    Attributes:
      dataset: names the families if no shard is left, else the ones before.
      done: shards scored.
      left: shards not begun, because `STOP` was set.
    """

    dataset: Dataset
    done: int
    left: int


def score_families(
    layout: Layout,
    dataset: Dataset,
    scorers: Sequence[str],
    options: Mapping[str, Mapping[str, Any]],
    device: str,
    run_id: str,
    teller: Teller,
    refit: bool = False,
    runner: str = LOCAL,
    beam_args: Sequence[str] = (),
) -> Scored:
    """Fit what must be fitted, and score every shard that lacks a family.

    Args:
      layout: the output folder, locked.
      dataset: what it holds.
      scorers: names of scorers.
      options: their options, by name.
      device: for texts that must be encoded, and neighbours that must be found.
      run_id: for footers and records.
      teller: where progress goes.
      refit: make fits again.
      runner: Beam runner.
      beam_args: its options.
    """
    if not scorers:
        return Scored(dataset, 0, 0)
    dataset = fit(
        layout, dataset, scorers, options, device, run_id, teller, refit, runner, beam_args
    )
    if STOP:
        return Scored(
            dataset, 0, len(StoredPairs(layout, dataset.embeddings, dataset.model["dim"]).shards())
        )
    job = stored_job(layout, dataset, scorers, options, device, run_id)
    done, left = score_stored(job, runner, beam_args)
    if left:
        return Scored(dataset, done, left)
    now = dataclasses.replace(
        dataset,
        families={**dataset.families, **job.revisions()},
        options={**dataset.options, **{n: options[n] for n in scorers if options.get(n)}},
    )
    return Scored(now, done, left)


def score(
    out: str,
    scorers: Sequence[str],
    device: str = "auto",
    runner: str = LOCAL,
    beam_args: Sequence[str] = (),
    teller: Teller | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    refit: bool = False,
) -> ScoreResult:
    """Add score families to an output folder, from its stored embeddings, and compact.

    Families that `run` has computed from full-precision embeddings are left as they are.

    Args:
      out: output folder of an earlier run.
      scorers: names of scorers.
      device: for texts that must be encoded, and neighbours that must be found.
      runner: Beam runner.
      beam_args: its options.
      teller: where progress goes.
      options: of scorers, by name; those not given are as the folder had them before.
      refit: fit the scorers again, to all rows that are there now.

    Returns:
      How it ended.

    Raises:
      UsageError: for an unknown scorer or option, or a folder without a dataset.
    """
    teller = teller or Teller()
    layout = Layout.at(out)
    METER.reset()
    STOP.reset()
    with stopping_on_signals(), exclusive(layout):
        dataset = datasets.require(layout)
        run_id = teller.run_id = new_run_id()
        used = options_for(dataset, scorers, options or {})
        chosen = scorers_named(scorers, used)
        sweep(layout.root)
        kept = [s.family for s in chosen if _is_full(s, dataset)]
        for name in kept:
            teller.tell("kept", f"{name}: computed by run at full precision; left as it is")
        names = tuple(name for name in scorers if name not in kept)
        with teller.watching(METER.snapshot, None):
            scored = score_families(
                layout, dataset, names, used, device, run_id, teller, refit, runner, beam_args
            )
        if not scored.left:
            compact(layout, scored.dataset)
        status = "stopped" if scored.left else "ok"
        write_manifest(layout, run_id, {"status": status, "argv": sys.argv, "scorers": list(names)})
        done, left = scored.done, scored.left
        teller.tell("result", f"{done} shards scored, {left} left", done=done, left=left)
    return ScoreResult(done, left, EXIT_OF_STOP[STOP.reason or ""] if left else 0)


def _is_full(scorer: Scorer, dataset: Dataset) -> bool:
    """Whether `run` computed a family with the embeddings themselves."""
    full = family_revision(scorer, dataset.embeddings["rev"], "full")
    return not is_fitted(scorer) and dataset.families.get(scorer.family) == full


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
