"""Score shards from storage."""

from dataclasses import dataclass

import apache_beam as beam
from apache_beam.pvalue import PCollection

from clipsieve.rescore import ScoreJob


@dataclass
class ScoreShards(beam.PTransform):
    """Write the score files of stored shards; one record for each.

    Input: lists of shard names.  Output: `ShardRecord` as JSON, one a shard.  Safe to retry.
    Models and fits are opened once for each list.

    Args:
      job: what to compute.
    """

    job: ScoreJob

    def expand(self, groups: PCollection[list[str]]) -> PCollection[str]:
        """One step."""
        return groups | "ScoreGroup" >> beam.FlatMap(_score, self.job).with_output_types(str)


def _score(group: list[str], job: ScoreJob) -> list[str]:
    return [record.to_json() for record in job.score(group)]
