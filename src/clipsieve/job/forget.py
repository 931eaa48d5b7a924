"""Which shards of an output folder have lost their source, and their removal; only when asked."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from clipsieve.errors import UsageError
from clipsieve.formats.inputs import pattern_matcher, source_exists
from clipsieve.job.inputs import absolute_pattern, recorded_items
from clipsieve.schemas import footers
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import Manifest


@dataclass(frozen=True, slots=True)
class MissingShards:
    """Shards that are no item of the inputs any more.

    Attributes:
      gone: sources that do not exist any more, by shard.
      kept: why a shard is kept, by shard.
    """

    gone: Mapping[str, str]
    kept: Mapping[str, str]

    def lines(self) -> list[str]:
        """Return a line for each of them."""
        lines = {
            shard: f"removed shard {shard}: its source is gone, {uri}"
            for shard, uri in self.gone.items()
        }
        lines |= {shard: f"kept shard {shard}: {why}" for shard, why in self.kept.items()}
        return [lines[shard] for shard in sorted(lines)] or [
            "every shard is among the inputs; nothing was removed"
        ]


def find_missing(
    folder: OutputFolder,
    manifest: Manifest,
    damage: Collection[str] = (),
    whole_inputs: Sequence[str] = (),
) -> MissingShards:
    """Return the shards whose source is gone, and those that only look like it.

    A source that is among the inputs and gives no such shard has shrunk: that part is gone.  One
    that cannot be reached or read is kept.

    Args:
      folder: the output folder.
      manifest: what it holds.
      damage: names of damaged files: what a damaged ledger says of its source is not read.
      whole_inputs: recorded patterns, or patterns of such, all of whose shards may be gone.

    Raises:
      UsageError: if the source of every shard is gone, or of all those of an input that is not
        among `whole_inputs`, as where a disk is not mounted; or one of these is no input.
    """
    gone, kept = _find_unplanned(folder, manifest, damage)
    if gone and len(gone) == len(folder.shards()):
        raise UsageError(
            f"the sources of all {len(gone)} shards of {folder.root} are gone, first "
            f"{next(iter(gone.values()))}; if their disk is not mounted, mount it, else remove the "
            "output folder itself"
        )
    _refuse_whole_inputs(folder, manifest, gone, whole_inputs)
    return MissingShards(gone, kept)


def remove_shards(folder: OutputFolder, shards: Iterable[str]) -> None:
    """Remove all tables of shards; the ledger last, so that a kill leaves what is removed again."""
    files = folder.files
    folders = [
        f"{top}/{kind}/{revision}"
        for top in ("embeddings", "scores")
        for kind in files.list_folders(top)
        for revision in files.list_folders(f"{top}/{kind}")
    ]
    lists = files.list_folders(names.REMOVALS)
    folders += [f"{names.REMOVALS}/{name}" for name in lists if name.startswith("rev=")]
    for shard in shards:
        for place in folders:
            files.delete(f"{place}/{shard}.parquet")
        files.delete(names.samples(shard))


def _find_unplanned(
    folder: OutputFolder, manifest: Manifest, damage: Collection[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the sources of shards that are gone, and why others are kept, by shard."""
    items = recorded_items(manifest)
    planned = {item.shard for item in items}
    readable = {item.uri for item in items if item.problem is None}
    shards = [shard for shard in folder.shards() if shard not in planned]
    ledgers = folder.read_footers(map(names.samples, shards))
    gone: dict[str, str] = {}
    kept: dict[str, str] = {}
    for shard, footer in zip(shards, ledgers, strict=True):
        uri = footer.get(footers.SOURCE_URI)
        if uri is None or names.samples(shard) in damage:
            kept[shard] = "its ledger is damaged and does not tell its source"
        elif uri in readable or not source_exists(uri):
            gone[shard] = uri
        else:
            kept[shard] = f"its source exists or cannot be reached, {uri}"
    return gone, kept


def _refuse_whole_inputs(
    folder: OutputFolder, manifest: Manifest, gone: Mapping[str, str], allowed: Sequence[str]
) -> None:
    """Refuse to remove all shards of an input, unless it is among those `allowed`."""
    patterns = dict.fromkeys(pattern for entry in manifest.inputs for pattern in entry.patterns)
    may_go: set[str] = set()
    for name in allowed:
        is_named = pattern_matcher(absolute_pattern(name))
        named = {pattern for pattern in patterns if is_named(pattern)}
        if not named:
            raise UsageError(
                f"{name!r} is no input of {folder.root}, which was made of {', '.join(patterns)}"
            )
        may_go |= named
    if not gone:
        return
    shards = [shard for shard in folder.shards() if shard not in gone]
    ledgers = folder.read_footers(map(names.samples, shards))
    present = [uri for footer in ledgers if (uri := footer.get(footers.SOURCE_URI))]
    for pattern in patterns:
        is_named = pattern_matcher(pattern)
        lost = [uri for uri in gone.values() if is_named(uri)]
        if lost and pattern not in may_go and not any(map(is_named, present)):
            raise UsageError(
                f"the sources of all {len(lost)} shards of input {pattern} are gone, first "
                f"{lost[0]}; if their disk is not mounted, mount it, else say that they may go: "
                f"clipsieve compact {folder.root} --forget-input '{pattern}'"
            )
