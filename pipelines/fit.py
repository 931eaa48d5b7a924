"""The fit stage: what scorers must know of the whole dataset, in one mergeable pass over it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipsieve.errors import LedgerError, UsageError
from clipsieve.fits.job import FitJob, Sums
from clipsieve.fits.store import FitFolder, fit_id, fit_meaning, scored_rows
from clipsieve.fits.whole import grouped
from clipsieve.pipelines.embed import counts_path, run_counted, write_counts
from clipsieve.pipelines.runners import LOCAL, beam
from clipsieve.progress import STOP
from clipsieve.scorers.base import Scorer, is_fitted
from clipsieve.scorers.registry import scorers_named
from clipsieve.show import Teller
from clipsieve.statistics.counts import RowCounts
from clipsieve.store import dataset as datasets
from clipsieve.store.dataset import Dataset
from clipsieve.store.layout import Layout
from clipsieve.stored import Member, StoredPairs
from clipsieve.transforms.fit import ObserveShards, WriteLists
from clipsieve.transforms.merge import MergeStatistics
from clipsieve.transforms.spread import Spread

#: State under which `finish` counts the shards of a pass whose sample came out short.
_SHORT = "short"


def build_lists(root: Any, job: FitJob, groups: Sequence[list[str]], counts: Path) -> Any:
    """Put the lists on `root`: groups of shards, their neighbour lists written."""
    return (
        root
        | "Groups" >> beam.Create(list(groups)).with_output_types(list[str])
        | "Spread" >> Spread()
        | "Write" >> WriteLists(job)
        | "Merge" >> beam.CombineGlobally(MergeStatistics(RowCounts())).without_defaults()
        | "WriteCounts" >> beam.Map(write_counts, str(counts)).with_output_types(RowCounts)
    )


def build(root: Any, job: FitJob, shards: Sequence[str], counts: Path) -> Any:
    """Put the pass on `root`: every shard observed, the sums merged, the fits written."""
    return (
        root
        | "Shards" >> beam.Create(list(shards)).with_output_types(str)
        | "Spread" >> Spread()
        | "Observe" >> ObserveShards(job)
        | "Merge" >> beam.CombineGlobally(MergeStatistics(Sums())).without_defaults()
        | "Finish" >> beam.Map(_finish, job).with_output_types(RowCounts)
        | "WriteCounts" >> beam.Map(write_counts, str(counts)).with_output_types(RowCounts)
    )


def fit(
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
) -> Dataset:
    """Make the fits that `scorers` lack, and record them.

    A fit that is recorded stays in use for rows that came after it, until it is asked for anew, a
    parameter or the embeddings change, or a shard is gone whose rows it reads again.

    Args:
      layout: the output folder, locked.
      dataset: what it holds.
      scorers: names; those that are not fitted are passed over.
      options: of scorers, by name.
      device: for the search of neighbours.
      run_id: names the temporary file of the counts.
      teller: is told of each fit.
      refit: make them of all rows that are there now.
      runner: Beam runner.
      beam_args: its options.

    Returns:
      The dataset that names the fits, saved; stopped by `STOP`, only those that are made.

    Raises:
      UsageError: if the folder has no shard.
      LedgerError: if the runner lost shards.
    """
    pairs = StoredPairs(layout, dataset.embeddings, dataset.model["dim"])
    members = pairs.members()
    if not members:
        raise UsageError(f"{layout.root} holds no shard yet; run `clipsieve run` first")
    wanted: dict[str, dict[str, str]] = {}
    for scorer in scorers_named(scorers, options):
        if is_fitted(scorer):
            recorded = dataset.fits.get(scorer.family, {})
            meaning = fit_meaning(scorer, dataset.embeddings["rev"])
            if not refit and _still_holds(layout, scorer, recorded, meaning, members):
                continue
            entry = {"fit": fit_id(meaning, members), "meaning": meaning}
            wanted[scorer.family] = entry
            folder = FitFolder.of(layout, scorer.family, entry["fit"])
            if refit:
                folder.clear()
            if not folder.is_complete:
                folder.begin(scorer, members)
            teller.tell("fit", _line(scorer, members, recorded), **entry)
    todo = {
        family: entry["fit"]
        for family, entry in wanted.items()
        if not FitFolder.of(layout, family, entry["fit"]).is_complete
    }
    if todo:
        job = FitJob(
            out=str(layout.root),
            scorers=tuple(todo),
            options=options,
            fits=todo,
            dim=dataset.model["dim"],
            embeddings=dataset.embeddings,
            device=device,
            rows=scored_rows(members),
        )
        if not _made(job, members, counts_path(layout, run_id), runner, beam_args):
            return dataset
    if wanted:
        used = {family: options[family] for family in wanted if options.get(family)}
        dataset = dataclasses.replace(
            dataset,
            fits={**dataset.fits, **wanted},
            options={**dataset.options, **used},
        )
        datasets.save(layout, dataset)
    return dataset


def _made(
    job: FitJob, members: Sequence[Member], counts: Path, runner: str, beam_args: Sequence[str]
) -> bool:
    """Run the pipelines of a fit; whether it is complete, which it is unless `STOP` was set."""
    missing = job.lists_todo(members)
    if missing:
        groups = grouped((member.shard, member.rows) for member in missing)
        written = run_counted(
            lambda root: build_lists(root, job, groups, counts), counts, runner, beam_args
        )
        _check_all(written, len(missing), runner)
    for bounded in (True, False):
        if STOP:
            return False
        trial = dataclasses.replace(job, bounded=bounded)
        if _observed(trial, [m.shard for m in members], counts, runner, beam_args):
            return True
    if STOP:
        return False
    raise AssertionError("a sample without a bound came out short")


def _observed(
    job: FitJob, shards: Sequence[str], counts: Path, runner: str, beam_args: Sequence[str]
) -> bool:
    """Run the pass over all shards; whether the fits were kept.

    Raises:
      LedgerError: if the runner lost shards.
    """
    total = run_counted(lambda root: build(root, job, shards, counts), counts, runner, beam_args)
    _check_all(total, len(shards), runner)
    return not STOP and total is not None and _SHORT not in total.states


def _check_all(total: RowCounts | None, shards: int, runner: str) -> None:
    """Raise `LedgerError` if a pipeline that nothing stopped went over fewer shards."""
    seen = total.shards if total is not None else 0
    if seen != shards and not STOP:
        raise LedgerError(
            f"runner {runner} went over {seen} of {shards} shards without an error; "
            "it lost elements: use another runner"
        )


def _finish(sums: Sums, job: FitJob) -> RowCounts:
    """Keep the fits; the counts say over how many shards, and whether something was short."""
    return RowCounts({} if job.finish(sums) else {_SHORT: sums.shards}, shards=sums.shards)


def _still_holds(
    layout: Layout,
    scorer: Scorer,
    recorded: Mapping[str, str],
    meaning: str,
    members: Sequence[Member],
) -> bool:
    """Whether a recorded fit can score the rows that are there now."""
    if recorded.get("meaning") != meaning:
        return False
    folder = FitFolder.of(layout, scorer.family, recorded["fit"])
    if not folder.is_complete:
        return False
    if all(wanted.is_sample for wanted in scorer.references(0).values()):
        return True
    # References that are the whole dataset are read again for new rows, from the shards' files.
    there = {(member.shard, member.key) for member in members}
    return all((member.shard, member.key) in there for member in folder.members())


def _line(scorer: Scorer, members: Sequence[Member], recorded: Mapping[str, str]) -> str:
    """What is about to be fitted, for the user."""
    rows = sum(member.rows for member in members)
    again = " again" if recorded else ""
    return f"{scorer.family}: fitted{again} to {rows:,} rows of {len(members)} shards"
