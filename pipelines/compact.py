"""The compact stage: ledger and score families glued into `wide/`, the table behind `scores`."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from clipsieve.errors import ClipsieveError
from clipsieve.pipelines.runners import LOCAL, beam, run_pipeline
from clipsieve.sql.views import published_name, write_sql
from clipsieve.statistics.counts import RowCounts
from clipsieve.store import dataset as datasets
from clipsieve.store.compact import Build, drop_builds, plan_build
from clipsieve.store.dataset import Dataset
from clipsieve.store.layout import Layout
from clipsieve.store.lock import exclusive
from clipsieve.transforms.compact import WriteParts
from clipsieve.transforms.merge import MergeStatistics
from clipsieve.transforms.spread import Spread


def build(root: Any, layout: Layout, plan: Build) -> Any:
    """Put the stage on `root`: every part of `plan`, written."""
    return (
        root
        | "Parts" >> beam.Create(list(range(len(plan.parts)))).with_output_types(int)
        | "Spread" >> Spread()
        | "Write" >> WriteParts(str(layout.root), plan)
        | "Merge" >> beam.CombineGlobally(MergeStatistics(RowCounts())).without_defaults()
    )


def compact(
    layout: Layout, dataset: Dataset, runner: str = LOCAL, beam_args: Sequence[str] = ()
) -> Dataset:
    """Build `wide/` from the active revisions and make it the one that `scores` shows.

    The build before stays until the next one, for readers that have it open.

    Returns:
      The dataset with the new build, saved.

    Raises:
      LedgerError: if families do not line up; nothing is switched then.
    """
    aliases = [published_name(dataset)] if "clip" in dataset.families else []
    plan = plan_build(layout, dataset.families, reserved=aliases)
    if plan.parts:
        run_pipeline(lambda root: build(root, layout, plan), runner, beam_args)
    before = dataset.wide.get("build")
    dataset = replace(dataset, wide={"build": plan.id, "rows": plan.rows})
    datasets.save(layout, dataset)
    write_sql(layout, dataset)
    drop_builds(layout, [plan.id, *([before] if before else [])])
    return dataset


def main(argv: Sequence[str] | None = None) -> int:
    """Compact one output folder; Beam options pass through."""
    parser = argparse.ArgumentParser(prog="clipsieve.pipelines.compact", description=__doc__)
    parser.add_argument("out", help="output folder of `clipsieve run`")
    parser.add_argument("--runner", default=LOCAL)
    options, beam_args = parser.parse_known_args(argv)
    layout = Layout.at(options.out)
    try:
        with exclusive(layout):
            compact(layout, datasets.require(layout), options.runner, beam_args)
    except ClipsieveError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
