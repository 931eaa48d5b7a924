"""What has changed in an output folder since a subset of it was made."""

from clipsieve.formats.names import plural
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import Manifest
from clipsieve.store.members import members_key, read_members
from clipsieve.store.subsets import Subset


def stale_notes(folder: OutputFolder, manifest: Manifest, subset: Subset) -> tuple[str, ...]:
    """Return a line if a subset was made of other shards or scores than there are now, else ().

    Args:
      folder: of the subset.
      manifest: its manifest.
      subset: one without `members` is not compared with the shards.

    Raises:
      LedgerError: if a ledger file is damaged.
    """
    changes = [*_shard_changes(folder, subset), *_score_changes(manifest, subset)]
    if not changes:
        return ()
    return (
        f"subset {subset.name} was made before {' and before '.join(changes)}; "
        f"`clipsieve filter {folder.root} --name {subset.name} ...` again brings it up to date",
    )


def _shard_changes(folder: OutputFolder, subset: Subset) -> list[str]:
    if not subset.members:
        return []
    members = read_members(folder)
    if subset.members == members_key(members):
        return []
    then, now = set(subset.shards), {member.shard for member in members}
    counts = (("added", len(now - then)), ("taken away", len(then - now)))
    changes = [
        f"{plural(count, 'shard')} {'was' if count == 1 else 'were'} {change}"
        for change, count in counts
        if count
    ]
    return changes or ["shards changed"]


def _score_changes(manifest: Manifest, subset: Subset) -> list[str]:
    now = manifest.revisions()
    return [
        f"{family} was scored anew"
        for family, revision in sorted(subset.families.items())
        if now.get(family) != revision
    ]
