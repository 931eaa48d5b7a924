"""The two steps of a fit: neighbour lists of whole datasets, and sums over shards."""

from dataclasses import dataclass

import apache_beam as beam
from apache_beam.pvalue import PCollection

from clipsieve.fits.job import FitJob, Sums
from clipsieve.progress import STOP
from clipsieve.statistics.counts import RowCounts


@dataclass
class WriteLists(beam.PTransform):
    """Write the neighbour lists of groups of shards; one count of shards for each.

    Input: lists of shard names.  Output: `RowCounts`, one a group.  Safe to retry.  Once `STOP`
    is set, groups are passed over.

    Args:
      job: the fit.
    """

    job: FitJob

    def expand(self, groups: PCollection[list[str]]) -> PCollection[RowCounts]:
        """One step."""
        return groups | "WriteLists" >> beam.Map(_write, self.job).with_output_types(RowCounts)


@dataclass
class ObserveShards(beam.PTransform):
    """What each shard contributes to the statistics of a fit.

    Input: shard names.  Output: `Sums`, one a shard; of no shard once `STOP` is set.

    Args:
      job: the fit.
    """

    job: FitJob

    def expand(self, shards: PCollection[str]) -> PCollection[Sums]:
        """One step."""
        return shards | "Observe" >> beam.Map(_observe, self.job).with_output_types(Sums)


def _write(group: list[str], job: FitJob) -> RowCounts:
    if STOP:
        return RowCounts()
    job.write_lists(group)
    return RowCounts({}, shards=len(group))


def _observe(shard: str, job: FitJob) -> Sums:
    return Sums() if STOP else job.observe(shard)
