"""Export a subset: plan its files, write those that are not there yet, describe them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from clipsieve.control import Control
from clipsieve.errors import ClipsieveError, LedgerError, UsageError
from clipsieve.exports.base import Exporter, Reads
from clipsieve.exports.folder import LEFT_OUT, ExportFolder
from clipsieve.exports.formats import ExportSettings
from clipsieve.exports.parts import Part
from clipsieve.exports.records import FileRecord
from clipsieve.exports.rows import SIMILARITY
from clipsieve.exports.sources import picture_sources
from clipsieve.exports.stage import ExportStage
from clipsieve.formats.base import SourceConfig
from clipsieve.formats.names import plural
from clipsieve.job.inputs import recorded_plans
from clipsieve.job.reporter import Reporter
from clipsieve.job.signals import exit_code_of, start_control, stopping_on_signals
from clipsieve.job.stale_subset import stale_notes
from clipsieve.settings import ScoreConfig
from clipsieve.sql.columns import published_name
from clipsieve.stage import Engine
from clipsieve.store import names
from clipsieve.store.canonical import short_hash
from clipsieve.store.folder import OutputFolder
from clipsieve.store.glue import GluedShards, check_aligned
from clipsieve.store.manifest import Manifest
from clipsieve.store.members import ledger_key, require_footer
from clipsieve.store.parquet import Footer
from clipsieve.store.removals import removals_id
from clipsieve.store.subsets import Subset, kept_counts, require_subset

#: Changes whenever files of the same subset would get other bytes.
_VERSION = 2


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What an export left.

    Attributes:
      to: where it lies, absolute.
      rows: rows in its files.
      left_out: kept rows that have no place in them, listed in `left_out.parquet`.
      files: names of its files.
      kept_parts: parts that were there before and were kept.
      notes: what the user should know.
      exit_code: 0; 143, 130 or 3 after a signal or deadline that left parts.
    """

    to: str
    rows: int = 0
    left_out: int = 0
    files: tuple[str, ...] = ()
    kept_parts: int = 0
    notes: tuple[str, ...] = ()
    exit_code: int = 0

    def summary(self) -> str:
        """Return the result in a line."""
        if self.exit_code:
            return f"stopped; run the same command again to finish {self.to}"
        line = f"{plural(self.rows, 'row')} in {plural(len(self.files), 'file')}: {self.to}"
        out = f"; {plural(self.left_out, 'row')} left out, see {LEFT_OUT}" if self.left_out else ""
        return line + out


@dataclass(frozen=True, slots=True)
class _Plan:
    """An export before anything is written."""

    subset: Subset
    parts: tuple[Part, ...]
    schema: pa.Schema = field(default_factory=lambda: pa.schema([]))
    published: str | None = None
    sources: tuple[SourceConfig, ...] = ()
    description: Mapping[str, Any] = field(default_factory=dict)


def export(
    config: ScoreConfig, open_engine: Callable[[], Engine], settings: ExportSettings
) -> ExportResult:
    """Export a subset of an output folder.

    Parts that an earlier call with the same settings has written are kept.

    Args:
      config: its `out` is the folder.
      open_engine: returns what runs the stage; called if there is something to write.
      settings: what is exported, as what, and where to.

    Raises:
      UsageError: for a subset that is not there, a target that holds something else, sources that
        have moved or changed, or rows that the format cannot hold.
      LedgerError: if files of the folder are missing, damaged, or contradict each other.
      ClipsieveError: if the target cannot be written to.
      Locked: if another run is writing to the folder.
    """
    started = time.time()
    folder = OutputFolder.open(config.out)
    folder.require_manifest()  # before the lock, which would make the folder
    exporter, target = settings.exporter(), settings.folder()
    _check_places(folder, target)
    control = start_control(config, folder, started)
    with stopping_on_signals(control), folder.lock(config.lock_terms(), control.stop):
        manifest = folder.require_manifest()
        folder.sweep()
        subset = require_subset(folder, settings.subset)
        _check_removals(folder, subset)
        stale = stale_notes(folder, manifest, subset)
        plan = _plan(folder, manifest, subset, settings, exporter)
        target.check(plan.description["key"])
        finished = target.read_manifest()
        if finished is not None:
            if target.is_whole([FileRecord(**file) for file in finished["files"]]):
                target.forget_records()  # which a kill at the very end leaves
                return _result(target, finished, len(plan.parts), stale)
        return _write(config, manifest, plan, stale, exporter, target, control, open_engine)


def _check_removals(folder: OutputFolder, subset: Subset) -> None:
    """Refuse a subset that may have rows that were removed since."""
    if subset.removals != removals_id(folder):
        raise UsageError(
            f"subset {subset.name!r} was made before the removal lists changed; make it again with "
            f"the same `clipsieve filter {folder.root} --name {subset.name} ...`"
        )


def _write(
    config: ScoreConfig,
    manifest: Manifest,
    plan: _Plan,
    notes: Sequence[str],
    exporter: Exporter,
    target: ExportFolder,
    control: Control,
    open_engine: Callable[[], Engine],
) -> ExportResult:
    planned = [name for part in plan.parts for name in exporter.files(part)]
    stage = ExportStage(
        out=OutputFolder.open(config.out).root,
        run_id=control.run_id,
        control=control,
        subset=plan.subset,
        exporter=exporter,
        target=target,
        schema=plan.schema,
        families=manifest.revisions(),
        published=plan.published,
        sources=plan.sources,
        embeddings=manifest.embeddings,
        dim=0 if manifest.model is None else manifest.model.dim,
    )
    try:
        target.begin(plan.description, planned)
        target.forget_manifest()  # only now: one of the two says whose the folder is
        left = [part for part in plan.parts if target.read_record(part) is None]
        if left:
            engine, rows = open_engine(), sum(part.rows for part in left)
            with Reporter(config.log_format).watching(control.snapshot, rows):
                report = engine.run(stage, stage.elements(left))
            if report.failed:
                raise LedgerError(
                    f"parts {', '.join(report.failed)} of the export kill the worker that writes "
                    "them; look at the system log"
                )
    except ClipsieveError:
        target.sweep(planned)
        target.discard()
        raise
    target.sweep(planned)
    missing = sum(target.read_record(part) is None for part in left) if control.stopped else 0
    if missing:
        return ExportResult(target.place, exit_code=exit_code_of(missing, control))
    finished = target.finish(plan.parts, plan.description, notes)
    return _result(target, finished, len(plan.parts) - len(left), notes)


def _result(
    target: ExportFolder, manifest: Mapping[str, Any], kept_parts: int, notes: Sequence[str]
) -> ExportResult:
    return ExportResult(
        target.place,
        manifest["rows"],
        manifest["left_out"],
        tuple(file["name"] for file in manifest["files"]),
        kept_parts,
        tuple(dict.fromkeys([*manifest["notes"], *notes])),
    )


# Planning


def _plan(
    folder: OutputFolder,
    manifest: Manifest,
    subset: Subset,
    settings: ExportSettings,
    exporter: Exporter,
) -> _Plan:
    """Return what would be written; everything that can be wrong before it is looked at here."""
    counts = _counts(folder, subset)
    parts = exporter.parts(counts)
    reads = exporter.reads
    plan = _Plan(subset, parts)
    shards: dict[str, str] = {}
    if reads & Reads.COLUMNS:
        needed = list(dict.fromkeys(span.shard for part in parts for span in part.spans))
        ledgers = _ledgers(folder, manifest, needed)
        shards = {shard: ledger_key(footer) for shard, footer in ledgers.items()}
        plan = _with_columns(plan, folder, manifest, needed or list(counts)[:1])
        if reads & Reads.PICTURES:
            with_rows = {shard: ledgers[shard] for shard in needed if counts[shard]}
            plan = _with_pictures(plan, with_rows, manifest)
    content = {
        "format": settings.format,
        "subset": subset.name,
        "revision": subset.revision,
        "definition_hash": short_hash(dict(subset.definition)),
        "with_images": bool(reads & Reads.PICTURES),
        "samples_per_tar": getattr(exporter, "samples_per_tar", None),
        "families": manifest.revisions() if reads & Reads.COLUMNS else {},
        "version": _VERSION,
    }
    parts = tuple(part.with_key(content, shards) for part in plan.parts)
    key = short_hash([content, [part.key for part in parts]])
    return replace(plan, parts=parts, description={**content, "key": key})


def _counts(folder: OutputFolder, subset: Subset) -> dict[str, int]:
    """Return how many rows are kept of each shard; all that the subset says are there."""
    counts = kept_counts(folder, subset)
    if sum(counts.values()) != subset.kept:
        place = folder.files.url(names.subset_folder(subset.name, subset.revision))
        raise LedgerError(
            f"{place} holds {sum(counts.values()):,} kept rows, and subset {subset.name!r} has "
            f"{subset.kept:,}; make it again with `clipsieve filter ... --replace`"
        )
    return counts


def _ledgers(folder: OutputFolder, manifest: Manifest, shards: list[str]) -> dict[str, Footer]:
    """Return the footer of the ledger of each shard; all families line up with it."""
    ledgers = folder.read_footers(map(names.samples, shards))
    written = {
        family: folder.read_footers(names.scores(family, revision, shard) for shard in shards)
        for family, revision in manifest.revisions().items()
    }
    for at, (shard, ledger) in enumerate(zip(shards, ledgers, strict=True)):
        require_footer(folder, names.samples(shard), ledger)
        files = {
            names.scores(family, revision, shard): written[family][at]
            for family, revision in manifest.revisions().items()
        }
        check_aligned(folder, shard, ledger, files)
    return dict(zip(shards, ledgers, strict=True))


def _with_columns(
    plan: _Plan, folder: OutputFolder, manifest: Manifest, shards: list[str]
) -> _Plan:
    """Return the plan with the columns that the view `scores` has."""
    published = published_name(manifest) if manifest.embeddings is not None else None
    reserved = [] if published is None else [published]
    schema = GluedShards(folder, manifest.revisions(), reserved).common_schema(shards)
    if published is None or SIMILARITY not in schema.names:
        return replace(plan, schema=schema)
    alias = schema.field(SIMILARITY).with_name(published)
    return replace(plan, schema=schema.append(alias), published=published)


def _with_pictures(plan: _Plan, ledgers: Mapping[str, Footer], manifest: Manifest) -> _Plan:
    """Return the plan with the item that each shard's pictures are read from."""
    if not ledgers:
        return plan
    sources, items = picture_sources(ledgers, recorded_plans(manifest))
    parts = tuple(
        replace(
            part,
            spans=tuple(
                replace(span, item=items[span.shard][0], source=items[span.shard][1])
                if span.shard in items
                else span
                for span in part.spans
            ),
        )
        for part in plan.parts
    )
    return replace(plan, parts=parts, sources=sources)


def _check_places(folder: OutputFolder, target: ExportFolder) -> None:
    """Refuse to write into the output folder, or around it."""
    if folder.files.is_remote:
        return
    out, to = Path(folder.root).resolve(), target.files.root.resolve()
    is_own = target.place == target.files.url()  # not one file among others
    if to.is_relative_to(out) or (is_own and out.is_relative_to(to)):
        relation = "in" if to.is_relative_to(out) else "around"
        raise UsageError(
            f"the export would lie at {target.place}, {relation} the output folder {folder.root}; "
            "name a folder beside it"
        )
