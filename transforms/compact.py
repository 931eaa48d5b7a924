"""Write the parts of a wide build."""

from dataclasses import dataclass

import apache_beam as beam
from apache_beam.pvalue import PCollection

from clipsieve.statistics.counts import RowCounts
from clipsieve.store.compact import Build, write_part
from clipsieve.store.layout import Layout


@dataclass
class WriteParts(beam.PTransform):
    """Write parts of `build`; one count of rows for each.

    Input: positions of parts in the build.  Output: `RowCounts`, one a part.  Safe to retry.

    Args:
      root: the output folder, absolute.
      build: what to write.
    """

    root: str
    build: Build

    def expand(self, positions: PCollection[int]) -> PCollection[RowCounts]:
        """One step."""
        return positions | "WritePart" >> beam.Map(_write, self.root, self.build).with_output_types(
            RowCounts
        )


def _write(position: int, root: str, build: Build) -> RowCounts:
    part = build.parts[position]
    write_part(Layout.at(root), build, part)
    return RowCounts({"wide": part.rows}, shards=len(part.shards))
