"""The stage that writes an export; an element is a part."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from clipsieve.control import Control
from clipsieve.exports.base import Exporter
from clipsieve.exports.disk_errors import disk_errors
from clipsieve.exports.folder import ExportFolder
from clipsieve.exports.parts import Part
from clipsieve.exports.records import PartRecord
from clipsieve.exports.rows import KeptRows
from clipsieve.formats.base import SourceConfig
from clipsieve.stage import Element, Report, Worker
from clipsieve.statistics.counts import RowCounts
from clipsieve.store.folder import OutputFolder
from clipsieve.store.glue import GluedShards
from clipsieve.store.manifest import EmbeddingsEntry
from clipsieve.store.subsets import Subset


@dataclass(frozen=True, slots=True)
class ExportStage:
    """Writes parts of an export.

    Attributes:
      out: the output folder, absolute.
      run_id: the run.
      control: stop and progress.
      subset: what is exported.
      exporter: the format.
      target: folder of the export.
      schema: columns of kept rows.
      families: active revision of each family.
      published: name under which `clip_similarity` is there once more; None for none.
      sources: how pictures are read.
      embeddings: the active ones.
      dim: components of a vector.
      device: not used.
    """

    out: str
    run_id: str
    control: Control
    subset: Subset
    exporter: Exporter
    target: ExportFolder
    schema: pa.Schema
    families: Mapping[str, str]
    published: str | None
    sources: tuple[SourceConfig, ...]
    embeddings: EmbeddingsEntry | None
    dim: int
    device: str = "cpu"
    name = "export"

    def elements(self, parts: Sequence[Part]) -> list[Element]:
        """Return an element for each part."""
        return [Element(part.name, part.to_json(), max(part.rows, 1)) for part in parts]

    def open(self) -> Worker:
        """Open both folders."""
        return _ExportWorker(self)

    def finish(self, total: Report) -> Report:
        """Nothing is left to do."""
        return total


class _ExportWorker:
    def __init__(self, stage: ExportStage) -> None:
        self._stage = stage
        reserved = [] if stage.published is None else [stage.published]
        self._rows = KeptRows(
            stage.subset,
            GluedShards(OutputFolder.open(stage.out), stage.families, reserved),
            stage.schema,
            stage.published,
            stage.sources,
            stage.embeddings,
            stage.dim,
        )
        self._folder = stage.target

    def work(self, elements: Sequence[str]) -> Iterator[Report]:
        control = self._stage.control
        for text in elements:
            if control.stopped:
                return
            part = Part.from_json(text)
            control.begin(part.name)
            if self._folder.read_record(part) is None:  # a bundle may come a second time
                self._write(part)
            control.end(part.name)
            control.add(rows=part.rows, shards=1)
            yield Report((part.name,), rows=RowCounts(shards=1))

    def _write(self, part: Part) -> None:
        with self._stage.control.timing("write"), disk_errors(self._folder.place):
            written = self._stage.exporter.write(part, self._rows, self._folder)
            files, left_out = tuple(written.files), written.left_out
            record = PartRecord(part.key, files, written.rows, left_out.num_rows, written.notes)
            self._folder.write_record(part, record, left_out)
