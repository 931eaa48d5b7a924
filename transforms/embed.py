"""Embed groups of work items."""

from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.pvalue import PCollection

from clipsieve.embed.embedder import Embedder
from clipsieve.embed.job import EmbedJob
from clipsieve.formats.base import WorkItem

Group = list[str]
"""Work items as JSON: small, readable on every worker, and free of pickled code."""


@dataclass
class EmbedShards(beam.PTransform):
    """Read, decode, encode and write shards; one record for each.

    Input: `Group`s of work items.  Output: `ShardRecord` as JSON, one an item, in the order of
    its group.  Within a group, reading and decoding run ahead of the model.  Safe to retry: items
    that are on disk are answered from there.

    Args:
      job: what to do with each item.
    """

    job: EmbedJob

    def expand(self, groups: PCollection[Group]) -> PCollection[str]:
        """One step."""
        return groups | "EmbedGroup" >> beam.ParDo(
            _EmbedGroup(self.job.to_json())
        ).with_output_types(str)


class _EmbedGroup(beam.DoFn):
    """Holds the model; the rest is in `Embedder`."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._embedder: Embedder | None = None

    def setup(self) -> None:
        self._embedder = EmbedJob.from_json(self._job).open()

    def process(self, element: Group) -> Iterator[str]:
        assert self._embedder is not None
        for record in self._embedder.embed([WorkItem.from_json(text) for text in element]):
            yield record.to_json()
