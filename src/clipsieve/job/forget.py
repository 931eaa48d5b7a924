"""Take shards out of an output folder whose source is gone; only when asked."""

from collections.abc import Iterable, Iterator

from clipsieve.control import Control
from clipsieve.errors import UsageError
from clipsieve.formats.inputs import source_exists
from clipsieve.job.compact import compact_folder
from clipsieve.job.inputs import recorded_items
from clipsieve.schemas import footers
from clipsieve.stage import Engine
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import Manifest
from clipsieve.store.records import new_run_id


def forget_missing(out: str, engine: Engine) -> list[str]:
    """Remove the files of shards whose source is gone, and rebuild the wide table without them.

    Rows of subsets and what scorers have learnt stay as they are.

    Args:
      out: the output folder.
      engine: runs the compaction.

    Returns:
      A line for each shard that was removed, and for each that is not among the inputs any more
      and was kept because there is still something at its source.

    Raises:
      UsageError: if it holds no dataset, or the source of every shard is gone.
      Locked: if another run is writing to it.
    """
    folder = OutputFolder.open(out)
    folder.require_manifest()  # before the lock, which would make the folder
    with folder.lock():
        manifest = folder.require_manifest()
        gone, lines = [], []
        for shard, uri, is_gone in _strangers(folder, manifest):
            gone += [shard] if is_gone else []
            why = "its source is gone" if is_gone else "kept, for there is something at its source"
            lines.append(f"{'removed' if is_gone else 'kept'} shard {shard}: {why}, {uri}")
        if gone and len(gone) == len(folder.shards()):
            raise UsageError(
                f"the sources of all {len(gone)} shards of {folder.root} are gone, first {lines[0]}"
                "; if their disk is not mounted, mount it, else remove the output folder itself"
            )
        _remove_shards(folder, gone)
        compact_folder(folder, manifest, engine, Control(new_run_id(), folder.root))
    return lines or ["every shard is among the inputs; nothing was removed"]


def _strangers(folder: OutputFolder, manifest: Manifest) -> Iterator[tuple[str, str, bool]]:
    """Yield each shard that is no item of the inputs: name, source, and whether that is gone.

    A source that is among the inputs and gives no such shard has shrunk: that part is gone.
    """
    items = recorded_items(manifest)
    planned, uris = {item.shard for item in items}, {item.uri for item in items}
    shards = [shard for shard in folder.shards() if shard not in planned]
    ledgers = folder.read_footers(map(names.samples, shards))
    for shard, footer in zip(shards, ledgers, strict=True):
        uri = footer.get(footers.SOURCE_URI)
        yield shard, uri or "unknown", uri is not None and (uri in uris or not source_exists(uri))


def _remove_shards(folder: OutputFolder, shards: Iterable[str]) -> None:
    """Remove all tables of shards; the ledger last, so that a kill leaves what is removed again."""
    files = folder.files
    revisions = [
        f"{top}/{kind}/{revision}"
        for top in ("embeddings", "scores")
        for kind in files.list_folders(top)
        for revision in files.list_folders(f"{top}/{kind}")
    ]
    for shard in shards:
        for revision in revisions:
            files.delete(f"{revision}/{shard}.parquet")
        files.delete(names.samples(shard))
