"""The graph of every stage: groups of elements, worked on, their reports added up and finished."""

from collections.abc import Sequence
from typing import Any

from clipsieve.pipelines.runners import beam
from clipsieve.stage import Report, Stage
from clipsieve.store.folder import OutputFolder
from clipsieve.transforms.merge import Merge
from clipsieve.transforms.spread import Spread
from clipsieve.transforms.stage import RunStage


def build(
    root: Any, stage: Stage, groups: Sequence[list[str]], report: str, spread: bool = True
) -> Any:
    """Put a stage on `root`.

    Args:
      root: a pipeline.
      stage: what to do.
      groups: elements' texts; the elements of a group are worked on by one worker, in order.
      report: name in the output folder where the total is left, as JSON.
      spread: whether groups must be shared out by a step of the pipeline; Dask does so when it
        creates them, and a grouping there takes as many tasks as partitions squared.
    """
    if spread:
        numbered = beam.Create(list(enumerate(groups))).with_output_types(tuple[int, list[str]])
        shared = root | "Groups" >> numbered | "Spread" >> Spread()
    else:
        shared = root | "Groups" >> beam.Create(list(groups)).with_output_types(list[str])
    return (
        shared
        | stage.name.capitalize() >> RunStage(stage)
        | "Merge" >> beam.CombineGlobally(Merge(Report())).without_defaults()
        | "Finish" >> beam.Map(_finish, stage, report).with_output_types(Report)
    )


def _finish(total: Report, stage: Any, report: str) -> Report:
    """Let the stage keep what was made, and write the total where the driver looks for it."""
    total = stage.finish(total)
    OutputFolder.open(stage.out).write_json(report, total.to_json())
    return total
