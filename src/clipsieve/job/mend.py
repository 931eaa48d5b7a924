"""What a job does about damaged files of its output folder: moves aside what can be made again.

Scores are made again from embeddings, embeddings from the source, the wide table from scores, what
was learnt from the shards that it was learnt of.  A damaged file that this job cannot make again is
left where it is, and the user is told.
"""

from collections.abc import Collection, Mapping

from clipsieve.errors import LedgerError
from clipsieve.job.reporter import Reporter
from clipsieve.scorers.registry import EMBEDDED
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.integrity import (
    check_files,
    damaged,
    drop_replaced,
    move_aside,
    save_checks,
)
from clipsieve.store.manifest import Manifest
from clipsieve.store.seal import Seal


def restore_manifest(folder: OutputFolder, reporter: Reporter) -> None:
    """Replace a damaged `dataset.json` by its copy, and say so; the caller holds the lock.

    Raises:
      UsageError: if the copy is damaged too.
    """
    if folder.restore_manifest():
        text = f"damaged: {names.MANIFEST}; restored from its copy"
        reporter.report("damaged", text, file=names.MANIFEST)


def find_damage(folder: OutputFolder) -> dict[str, str]:
    """Return what is wrong with each damaged file, by name; reads what changed since last time."""
    return damaged(check_files(folder))


def set_aside_subset(folder: OutputFolder, subset: str, reporter: Reporter) -> None:
    """Move aside the damaged files of a subset that is about to be made; the lock is held."""
    damage = find_damage(folder)
    below = f"{names.SUBSETS}/{subset}/"
    own = {name: problem for name, problem in damage.items() if name.startswith(below)}
    for name, problem in own.items():
        move_aside(folder, name)
        reporter.report("damaged", f"damaged: {name}: {problem}; made again", file=name)


def set_aside(
    folder: OutputFolder,
    manifest: Manifest | None,
    damage: Mapping[str, str],
    shards: Collection[str],
    reporter: Reporter,
) -> tuple[str, ...]:
    """Move damaged files aside, so that they count as missing, and say what makes them again.

    Args:
      folder: the output folder; the caller holds its lock.
      manifest: what it holds.
      damage: what is wrong, by name.
      shards: those that this job embeds.
      reporter: told of every file.

    Returns:
      The names of the files that stay, because nothing here can make them again.

    Raises:
      LedgerError: if a removal list is damaged: without it, rows that it names would come back.
    """
    for name in damage:
        if _is_removal_list(name):
            listed = name.split("/")[1]
            raise LedgerError(
                f"{folder.files.url(name)} is damaged: {damage[name]}; restore the file from a "
                f"backup, or `clipsieve remove {folder.root} --undo {listed}`, and add it again"
            )
    left = []
    for name, problem in damage.items():
        shard = shard_of(manifest, name)
        if shard is not None and shard not in shards:
            left.append(name)
            cure = "its source is not among the inputs of this job: `clipsieve run` with it"
        else:
            move_aside(folder, name)
            cure = _cure(folder, name)
        reporter.report("damaged", f"damaged: {name}: {problem}; {cure}", file=name)
    return tuple(left)


def shard_of(manifest: Manifest | None, name: str) -> str | None:
    """Return the shard that must be embedded again for a file; None for other files."""
    if manifest is None or manifest.embeddings is None:
        return None
    folder, _, file = name.rpartition("/")
    entry = manifest.embeddings
    embedded = manifest.families.get(EMBEDDED)
    folders = {names.SAMPLES, names.embeddings_folder(entry.model, entry.revision)}
    if embedded is not None:
        folders.add(names.family_folder(EMBEDDED, embedded.revision))
    return file.removesuffix(".parquet") if folder in folders else None


def close_folder(folder: OutputFolder, written: Mapping[str, Seal]) -> None:
    """Remove damaged files that were made again, and keep what is known of all files.

    Args:
      folder: the output folder; the caller holds its lock.
      written: seals of files that this job wrote: those are not read again.
    """
    drop_replaced(folder)
    save_checks(folder, check_files(folder, written=written))


def _is_removal_list(name: str) -> bool:
    parts = name.split("/")
    return parts[0] == names.REMOVALS and len(parts) == 3 and not parts[1].startswith("rev=")


def _cure(folder: OutputFolder, name: str) -> str:
    """Return what makes a file again that was moved aside."""
    top, _, rest = name.partition("/")
    if top == names.SUBSETS:
        subset = rest.partition("/")[0]
        return f"`clipsieve filter {folder.root} --name {subset} ...` makes it again"
    if top == "metrics":
        return f"`clipsieve evaluate {folder.root} ...` makes it again"
    if top == names.RUNS and name not in (names.MANIFEST_COPY, names.FILES):
        return "moved aside; it is history, and nothing else depends on it"
    if top == "fits" and name.endswith(".json"):
        return "made again, unless shards have come or gone since"
    return "made again"
