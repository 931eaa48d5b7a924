"""Work items of folders of pictures: ranges of their sorted rows."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from clipsieve.errors import UsageError
from clipsieve.read.columns import NO_CAPTIONS
from clipsieve.read.folder import FolderListing, list_folder
from clipsieve.read.folder_rows import folder_samples
from clipsieve.read.items import InputFormat, WorkItem
from clipsieve.read.names import safe_name
from clipsieve.read.options import ReadOptions
from clipsieve.read.plan_parquet import renamed_note
from clipsieve.read.plan_tars import caption_words
from clipsieve.read.sample_columns import sample_columns
from clipsieve.read.samples import TEXT_FILE, Sample
from clipsieve.read.shards import Shard, Shards
from clipsieve.read.source import SourceConfig

_SAMPLES = 100  # JSON files that are looked into; metadata lines are all looked at


def plan_folders(found: Shards, options: ReadOptions) -> tuple[list[WorkItem], SourceConfig, str]:
    """Return the items, the source and its description.

    Raises:
      UsageError: a folder has no rows, its metadata cannot be used, or a column is missing.
    """
    if options.image_col is not None:
        raise UsageError(
            f"image_col {options.image_col!r} has no meaning for folders of pictures; leave it out"
        )
    listings = [(shard, list_folder(shard.uri, shard.files)) for shard in found.shards]
    place = found.shards[0].uri
    columns = sample_columns(
        _first_samples(listings),
        place,
        InputFormat.FOLDER,
        caption=options.caption_col,
        uid=options.uid_col,
        references=options.references_col,
    )
    rows = [row for _, listing in listings for row in listing.rows]
    texts = sum(row.text is not None for row in rows)
    caption = columns.caption
    if texts and caption is None and options.caption_col != NO_CAPTIONS:
        caption = TEXT_FILE
    source = SourceConfig(
        format=InputFormat.FOLDER,
        flavour=_flavour(listings, columns.fields.keys() >= {"url", "status"}),
        image=None,
        caption=caption,
        uid=columns.uid,
        references=options.references_col,
        left_out=(),
        carried=columns.carried.schema,
        origins=columns.carried.origins,
        uid_type=columns.uid_type,
        byte_budget=options.byte_budget,
    )
    items = [item for shard, listing in listings for item in _items(shard, listing, options)]
    ignored = sum(listing.ignored for _, listing in listings)
    missing = sum(row.file is None for row in rows)
    parts = [
        f"folder of pictures ({source.flavour})",
        f"{len(listings):,} folder{'' if len(listings) == 1 else 's'}",
        f"{len(rows):,} row{'' if len(rows) == 1 else 's'}",
        caption_words(caption) + (f" ({texts:,} files)" if caption == TEXT_FILE else ""),
        "no uid" if columns.uid is None else f"uid from {columns.uid}",
    ]
    text = ", ".join(parts)
    if missing:
        text += f"; {missing:,} named in metadata but missing"
    if ignored:
        text += f"; {ignored:,} other file{'' if ignored == 1 else 's'} ignored"
    return items, source, text + renamed_note(columns.carried)


def _items(shard: Shard, listing: FolderListing, options: ReadOptions) -> list[WorkItem]:
    folder = shard.relative or shard.uri.rstrip("/").rpartition("/")[2]
    name = options.shard_prefix + safe_name(folder.replace("/", "__"))
    step = options.rows_per_item
    ranges = [
        (first, min(first + step, len(listing.rows))) for first in range(0, len(listing.rows), step)
    ]
    return [
        WorkItem(
            shard=f"{name}-{number:05d}",
            uri=shard.uri,
            format=InputFormat.FOLDER,
            start=first,
            row_groups=None,
            fingerprint=listing.fingerprint(first, last),
            files=(first, last),
        )
        for number, (first, last) in enumerate(ranges)
    ]


def _first_samples(listings: list[tuple[Shard, FolderListing]]) -> Iterator[Sample]:
    """Yield what tells the columns: every line of metadata, and the first JSON files."""
    for shard, listing in listings:
        beside = (replace(row, file=None) for row in listing.rows if row.json or row.text)
        yield from folder_samples(shard.uri, islice(beside, _SAMPLES), 1 << 20)
        for row in listing.rows:
            if row.fields:
                yield Sample(row.path, fields=dict(row.fields))


def _flavour(listings: list[tuple[Shard, FolderListing]], img2dataset: bool) -> str:
    if img2dataset:
        return "img2dataset"
    return "imagefolder" if any(listing.metadata for _, listing in listings) else "folder"
