"""Finds where the pictures of shards are read again, and that they are still the ones scored."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace

import pyarrow as pa

from clipsieve.errors import UsageError
from clipsieve.formats.base import InputFormat, InputPlan, SourceConfig, WorkItem
from clipsieve.formats.inputs import local_path
from clipsieve.schemas import footers
from clipsieve.store.parquet import Footer
from clipsieve.store.source import source_footer

#: Where a ledger's footer says which rows of which state of a source it is about.
_KEYS = (footers.SOURCE_FINGERPRINT, footers.SOURCE_RANGE)


def picture_sources(
    ledgers: Mapping[str, Footer], plans: Sequence[InputPlan]
) -> tuple[tuple[SourceConfig, ...], dict[str, tuple[WorkItem, int]]]:
    """Return how sources are read, and of each shard its item and the position of its source.

    Args:
      ledgers: footer of the ledger of each shard whose pictures are needed.
      plans: of everything that was ever read into the folder, as it is now.

    Raises:
      UsageError: for the first shard whose source is missing, cannot be read, or has changed.
    """
    sources = tuple(pictures_alone(plan.source) for plan in plans)
    items: dict[str, list[tuple[WorkItem, int]]] = {}
    for position, plan in enumerate(plans):
        for item in plan.items:
            if item.shard in ledgers:
                items.setdefault(item.shard, []).append((item, position))
    return sources, {
        shard: _same_source(shard, footer, items.get(shard, ()))
        for shard, footer in ledgers.items()
    }


def pictures_alone(source: SourceConfig) -> SourceConfig:
    """Return how pictures are read without what the ledger has already, where that saves work."""
    if source.format is not InputFormat.PARQUET:  # of tars and folders all is read in any case
        return source
    others = {*source.left_out, *source.origins, source.caption, source.uid} - {source.image, None}
    return replace(
        source,
        caption=None,
        uid=None,
        uid_type=None,
        carried=pa.schema([]),
        origins=(),
        left_out=tuple(sorted(name for name in others if name is not None)),
    )


def _same_source(
    shard: str, ledger: Footer, candidates: Iterable[tuple[WorkItem, int]]
) -> tuple[WorkItem, int]:
    """Return the candidate that a shard's ledger was made of."""
    uri = ledger.get(footers.SOURCE_URI, "an unknown source")
    others = []
    for item, position in candidates:
        now = source_footer(item, None)
        if item.problem is None and all(now[key] == ledger.get(key) for key in _KEYS):
            return item, position
        others.append(item)
    pictures = f"pictures of shard {shard} are needed, and its source {uri}"
    same = next((item for item in others if item.uri == uri), None)
    if same is None:
        raise UsageError(
            f"{pictures} is not where it was; put it back, or run `clipsieve run` with its new "
            "place as input: it takes a file of the same size and modification time for the same; "
            "if the time has changed, say --reprocess to score it again in place of the old one, "
            "or --shard-prefix to add it under another name, and leave the old shard out in the "
            "next `clipsieve filter`"
        )
    if same.problem is not None:
        raise UsageError(f"{pictures} cannot be read: {same.problem}; restore it")
    then = json.loads(ledger.get(footers.SOURCE_FINGERPRINT, "{}"))
    differ = [
        _property(same, name)
        for name, value in asdict(same.fingerprint).items()
        if then.get(name) != value
    ]
    what = ", ".join(differ) or "the rows it is cut into"
    raise UsageError(
        f"{pictures} has changed since it was scored ({what}); restore it, or run `clipsieve run` "
        "again, then `clipsieve filter`"
    )


def _property(item: WorkItem, name: str) -> str:
    """Return what a field of the fingerprint is to the user."""
    if name != "version" or local_path(item.uri) is None:
        return name
    if item.sidecar is not None:
        return "modification time of the tar or its sidecar"
    is_folder = item.format is InputFormat.FOLDER
    return "names or modification times" if is_folder else "modification time"
