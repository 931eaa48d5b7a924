"""What is done in an output folder, what is left, what failed and why."""

from collections.abc import Iterator

from clipsieve.errors import UsageError
from clipsieve.formats.base import WorkItem
from clipsieve.job.inputs import recorded_items
from clipsieve.schemas import footers
from clipsieve.scorers.registry import EMBEDDED
from clipsieve.statistics.counts import RowCounts
from clipsieve.store import names
from clipsieve.store.documents import footer_states
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import Manifest
from clipsieve.store.members import members_key, read_members
from clipsieve.store.parquet import Footer
from clipsieve.store.records import FAILED, SCORED, read_records
from clipsieve.store.source import fingerprint_text
from clipsieve.store.subsets import require_subset, subset_names


def status_lines(out: str) -> Iterator[str]:
    """Yield the lines of the report, from footers and records; reads no rows.

    Raises:
      UsageError: if the folder holds no dataset.
    """
    folder = OutputFolder.open(out)
    manifest = folder.require_manifest()
    model = manifest.model
    if model is not None:
        yield f"{folder.root}: {model.model} {model.pretrained or ''} in {model.dtype}"
    yield f"families: {', '.join(sorted(manifest.families)) or 'none'}"
    items = recorded_items(manifest)
    last = {r.shard: r for r in read_records(folder) if r.state != SCORED}
    counts = RowCounts()
    left, failed = [], []
    ledgers = folder.read_footers(names.samples(item.shard) for item in items)
    embedded = _embedded(folder, manifest)
    for item, footer in zip(items, ledgers, strict=True):
        if item.shard in embedded and _is_done(item, footer):
            place = folder.files.url(names.samples(item.shard))
            counts = counts + RowCounts(footer_states(footer, footers.STATES, place), shards=1)
        elif item.shard in last and last[item.shard].state == FAILED:
            failed.append(last[item.shard])
        else:
            left.append(item)
    yield f"done: {counts.shards} of {len(items)} shards, {counts.rows:,} rows"
    for state, rows in sorted(counts.states.items(), key=lambda pair: -pair[1]):
        yield f"  {state}: {rows:,}"
    yield f"left: {len(left)} shards" + (f", from {left[0].shard}" if left else "")
    yield f"failed: {len(failed)} shards"
    for record in failed:
        yield f"  {record.shard}: {record.error}"
    if manifest.wide is not None:
        behind = _behind(folder, manifest, counts)
        removed = f", {manifest.wide.removed:,} removed by lists" if manifest.wide.removals else ""
        yield f"scores view: {manifest.wide.rows:,} rows{removed}{behind}"
    yield from _subset_lines(folder)


def _subset_lines(folder: OutputFolder) -> Iterator[str]:
    """Yield a line on each subset."""
    subsets = subset_names(folder)
    members = members_key(read_members(folder)) if subsets else ""
    for name in subsets:
        try:
            subset = require_subset(folder, name)
        except UsageError as error:
            yield f"subset {name}: {error}"
            continue
        stale = ""
        if subset.members != members:
            stale = f"; of earlier shards: `clipsieve filter {folder.root} --name {name} ...` again"
        yield f"subset {name}: {subset.kept:,} of {subset.rows:,} rows kept{stale}"


def _is_done(item: WorkItem, footer: Footer) -> bool:
    return bool(footer) and footer.get(footers.SOURCE_FINGERPRINT) == fingerprint_text(item)


def _embedded(folder: OutputFolder, manifest: Manifest) -> set[str]:
    """Return the shards that have active embeddings, and the scores that come with them."""
    entry, family = manifest.embeddings, manifest.families.get(EMBEDDED)
    if entry is None or family is None:
        return set()
    vectors = folder.tables(names.embeddings_folder(entry.model, entry.revision))
    return set(vectors) & set(folder.tables(names.family_folder(EMBEDDED, family.revision)))


def _behind(folder: OutputFolder, manifest: Manifest, counts: RowCounts) -> str:
    """Return what to do if the scores view lacks rows that are in the ledger, or nothing."""
    if manifest.wide is None or manifest.wide.rows == counts.rows:
        return ""
    shards = set(folder.shards())
    lacking = [
        name
        for family, entry in sorted(manifest.families.items())
        if shards - set(folder.tables(names.family_folder(family, entry.revision)))
        for name in entry.scorers
    ]
    cure = f"score {folder.root} --scorers {','.join(lacking)}" if lacking else "compact"
    return f"; it is behind: run `clipsieve {cure}`"
