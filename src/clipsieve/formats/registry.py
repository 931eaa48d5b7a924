"""The formats, and the entry points: plan an input, read an item, count it, fingerprint it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from clipsieve.errors import ClipsieveError, ShardError, UsageError
from clipsieve.formats.base import (
    Format,
    InputFormat,
    InputPlan,
    ReadOptions,
    RowBatch,
    SourceConfig,
    SourceFingerprint,
    WorkItem,
)
from clipsieve.formats.folder import Folder
from clipsieve.formats.inputs import find_inputs
from clipsieve.formats.parquet import Parquet
from clipsieve.formats.parquet_rows import narrow_parquet
from clipsieve.formats.shards import find_shards
from clipsieve.formats.webdataset import WebDataset

#: In the order in which the files of a folder are looked at.
FORMATS: Mapping[InputFormat, Format] = {
    format.name: format for format in (WebDataset(), Parquet(), Folder())
}


def plan_input(patterns: str | Sequence[str], options: ReadOptions | None = None) -> InputPlan:
    """Return the work items of everything that the patterns name.

    The same files give the same plan.  Parquet footers, the first samples of the first tars and
    the names in folders are read, nothing else.  A shard that cannot be read becomes an item with
    a `problem`; reading that item raises, the others are read.

    Args:
      patterns: paths, folders or fsspec URLs, with wildcards and braces; see `find_inputs`.
      options: see `ReadOptions`; None is the defaults.

    Raises:
      UsageError: nothing matches, formats are mixed or not the one asked for, columns are
        missing or contradict each other, names collide, or no shard at all can be read.
    """
    options = options or ReadOptions()
    format, shards, notes = find_shards(find_inputs(patterns), options.input_format, FORMATS)
    plan = format.plan(shards, options)
    _require_unique_names(plan.items)
    return replace(plan, description="; ".join([plan.description, *notes]))


def read_rows(item: WorkItem, source: SourceConfig) -> Iterator[RowBatch]:
    """Yield the rows of one item in source order; nothing for a source without rows.

    Batches follow each other without gap: the first starts at `item.start`, each next where the
    one before ended.  About two batches are in memory while the caller holds one.

    Raises:
      ShardError: the source cannot be read, is cut off or damaged, or is not the one that was
        planned; rows before the damage may have been yielded.
    """
    _require_no_problem(item)
    rows = 0
    with _shard_errors(item):
        for batch in FORMATS[item.format].read(item, source):
            rows += len(batch)
            yield batch
        if item.fingerprint.rows not in (None, rows):
            raise ValueError(f"it gave {rows:,} rows, planned were {item.fingerprint.rows:,}")


def narrowed(item: WorkItem, first: int, stop: int) -> WorkItem:
    """Return an item with rows `first` to `stop` - 1 and as few others as its format allows.

    Args:
      item: to take from.
      first: index in the source.
      stop: likewise, behind `first`.

    Raises:
      ShardError: the source cannot be read.
    """
    if item.format is not InputFormat.PARQUET:
        return item
    _require_no_problem(item)
    with _shard_errors(item):
        return narrow_parquet(item, first, stop)


def count_rows(item: WorkItem) -> int:
    """Return the number of rows of an item, counted anew from the source alone.

    Parquet: from the footer.  Tars: from the member headers, the whole file is passed over, and
    from the keys of a sidecar.  Folders: from a new listing.

    Raises:
      ShardError: the source cannot be read.
    """
    _require_no_problem(item)
    with _shard_errors(item):
        return FORMATS[item.format].count(item)


def fingerprint(item: WorkItem) -> SourceFingerprint:
    """Return the fingerprint of an item's source as it is now, past any cached listing.

    It equals `item.fingerprint` exactly if the source has not changed since it was planned.

    Raises:
      ShardError: the source does not exist or cannot be read.
    """
    with _shard_errors(item):
        return FORMATS[item.format].fingerprint(item)


def _require_no_problem(item: WorkItem) -> None:
    if item.problem is not None:
        raise ShardError(_message(item.uri, item.problem))


@contextmanager
def _shard_errors(item: WorkItem) -> Iterator[None]:
    """Raise whatever a library or a store raises as `ShardError`; other shards can be read."""
    try:
        yield
    except ClipsieveError:
        raise
    except MemoryError as error:
        raise ShardError(_message(item.uri, "it takes more memory than there is")) from error
    except Exception as error:
        raise ShardError(_message(item.uri, error)) from error


def _message(uri: str, reason: object) -> str:
    text = " ".join(str(reason).split()) or type(reason).__name__
    if isinstance(reason, FileNotFoundError):
        text = "the file does not exist any more"
    cure = "" if "plan again" in text else "; replace the file and run again, or leave it out"
    return f"cannot read {uri}: {text}{cure}"


def _require_unique_names(items: Sequence[WorkItem]) -> None:
    """Raise `UsageError` if two items would write the same output."""
    uris = defaultdict(list)
    for item in items:
        uris[item.shard].append(item.uri)
    for name, owners in uris.items():
        if len(owners) > 1:
            raise UsageError(
                f"shard name {name!r} would be given to both {owners[0]} and {owners[1]}; rename "
                "one of them, or plan them apart, each with its own shard_prefix"
            )
