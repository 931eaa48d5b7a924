"""Compaction: ledger and score families glued into `wide/`, the table behind `scores`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from clipsieve.control import Control
from clipsieve.errors import ClipsieveError, LedgerError
from clipsieve.job.forget import find_missing, remove_shards
from clipsieve.job.mend import Mending, find_damage, restore_manifest, save_verification
from clipsieve.job.reporter import Reporter
from clipsieve.job.signals import stopping_on_signals
from clipsieve.scorers.registry import EMBEDDED
from clipsieve.sql.columns import published_name
from clipsieve.sql.views import write_sql
from clipsieve.stage import Engine
from clipsieve.store.compact import CompactStage, drop_builds, plan_build
from clipsieve.store.folder import OutputFolder
from clipsieve.store.lock_terms import LockTerms
from clipsieve.store.manifest import Manifest, WideEntry
from clipsieve.store.records import new_run_id
from clipsieve.store.removals import count_removed, drop_removed, match_removals


def compact_folder(
    folder: OutputFolder, manifest: Manifest, engine: Engine, control: Control
) -> Manifest:
    """Build `wide/` from the active revisions and make it the one that `scores` shows.

    Before that the rows that removal lists name are looked for in shards that are new.

    The caller holds the folder's lock.  The build before stays until the next one, for readers
    that have it open.

    Returns:
      The manifest with the new build, saved.

    Raises:
      LedgerError: if families do not line up; nothing is switched then.
      UsageError: if a shard lacks columns that a removal list needs; likewise.
    """
    removals = match_removals(folder, engine, control)
    aliases = [published_name(manifest)] if EMBEDDED in manifest.families else []
    build = plan_build(folder, manifest.revisions(), reserved=aliases, removals=removals)
    stage = CompactStage(folder.root, control.run_id, control, build)
    elements = stage.elements()
    if elements:
        engine.run(stage, elements, here=True)
    before = manifest.wide
    wide = WideEntry(build.id, build.rows, removals, count_removed(folder, removals).rows)
    manifest = replace(manifest, wide=wide)
    folder.save_manifest(manifest)
    write_sql(folder, manifest)
    drop_builds(folder, [build.id, *([before.build] if before else [])])
    drop_removed(folder, removals)
    return manifest


@dataclass(frozen=True, slots=True)
class CompactResult:
    """What a compaction did.

    Attributes:
      manifest: with the new build.
      lines: a line for each shard that was removed because its source is gone, and for each that is
        not among the inputs and was kept; empty if nobody asked.
    """

    manifest: Manifest
    lines: tuple[str, ...] = ()


def compact(
    out: str,
    engine: Engine,
    reporter: Reporter | None = None,
    forget_missing: bool = False,
    forget_inputs: Sequence[str] = (),
    lock_terms: LockTerms | None = None,
) -> CompactResult:
    """Rebuild the wide table of an output folder; on request, without shards of missing sources.

    Rows of subsets and what scorers have learnt stay as they are; a scorer of neighbours, which
    keeps the shards that it compares with, learns anew at the next run.

    Args:
      out: the output folder.
      engine: runs the stage.
      reporter: told of damaged files; None is standard error.
      forget_missing: remove the shards whose source does not exist any more.
      forget_inputs: likewise, and also where they are all shards of one of these inputs.
      lock_terms: of the folder's lock in an object store; None is the default.

    Raises:
      UsageError: if it holds no dataset, or the sources of all shards of an input are gone.
      Locked: if another run is writing to it.
      LedgerError: at the end, if files are damaged that only another command makes again.
    """
    folder = OutputFolder.open(out)
    folder.require_folder()  # before the lock, which would make it
    reporter = reporter or Reporter()
    control = Control(new_run_id(), folder.root)
    lines: Sequence[str] = ()
    with stopping_on_signals(control), folder.lock(lock_terms, control.stop):
        restore_manifest(folder, reporter)
        manifest = folder.require_manifest()
        folder.sweep()
        damage = find_damage(folder)
        if forget_missing or forget_inputs:
            missing = find_missing(folder, manifest, damage, forget_inputs)
            remove_shards(folder, missing.gone)
            damage = {name: why for name, why in damage.items() if folder.files.exists(name)}
            lines = missing.lines()
        try:
            mending = Mending(folder, manifest, damage, reporter)
            mending.begin_wide(audits=False)
            manifest = compact_folder(folder, manifest, engine, control)
            mending.report_left()
            save_verification(folder, {})
            if mending.left:
                raise LedgerError(f"{len(mending.left)} files of {folder.root} are still damaged")
        except ClipsieveError:
            for line in lines:  # they are removed all the same
                reporter.report("forget", line)
            raise
    return CompactResult(manifest, tuple(lines))
