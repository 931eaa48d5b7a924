"""Run a stage of the library over groups of its elements."""

from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.pvalue import PCollection

from clipsieve.stage import Report, Stage, Worker


@dataclass
class RunStage(beam.PTransform):
    """Hand groups of elements to a stage's worker.

    Input: lists of elements' texts.  Output: `Report`, one an element.  Safe to retry: stages
    write whole files, and answer from disk what is there.

    Args:
      stage: what to do.
    """

    stage: Stage

    def expand(self, groups: PCollection[list[str]]) -> PCollection[Report]:
        """One step."""
        return groups | "Work" >> beam.ParDo(_Work(self.stage)).with_output_types(Report)


class _Work(beam.DoFn):
    """Holds the opened stage."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._worker: Worker | None = None

    def process(self, element: list[str]) -> Iterator[Report]:
        if self._worker is None:  # not in setup: what is loaded depends on there being work
            self._worker = self._stage.open()
        yield from self._worker.work(element)
