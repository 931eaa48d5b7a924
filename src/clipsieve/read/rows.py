"""The one door to rows: read an item, count it again, tell whether its source has changed."""

from collections.abc import Iterator

from clipsieve.errors import ClipsieveError, ShardError
from clipsieve.read.batch import RowBatch
from clipsieve.read.folder import list_folder
from clipsieve.read.folder_rows import count_folder, read_folder
from clipsieve.read.items import InputFormat, SourceFingerprint, WorkItem
from clipsieve.read.parquet_rows import count_parquet, read_parquet
from clipsieve.read.samples import batches_of
from clipsieve.read.sniff import sniff
from clipsieve.read.source import SourceConfig
from clipsieve.read.storage import file_fingerprint, is_local, locate, open_binary
from clipsieve.read.tar_samples import tar_samples


def read_rows(item: WorkItem, source: SourceConfig) -> Iterator[RowBatch]:
    """Yield the rows of one item in source order; nothing for a source without rows.

    Batches follow each other without gap: the first starts at `item.start`, each next where the
    one before ended.  About two batches are in memory while the caller holds one.

    Raises:
      ShardError: the source cannot be read, is cut off or damaged, or is not the one that was
        planned; rows before the damage may have been yielded.
    """
    if item.problem is not None:
        raise ShardError(_say(item.uri, item.problem))
    rows = 0
    try:
        _require_unchanged(item)
        for batch in _batches(item, source):
            rows += len(batch)
            yield batch
        if item.fingerprint.rows not in (None, rows):
            raise ValueError(f"it gave {rows:,} rows, planned were {item.fingerprint.rows:,}")
    except (ClipsieveError, MemoryError):
        raise
    except Exception as error:  # stores raise what they like; whatever it is, other shards go on
        raise ShardError(_say(item.uri, error)) from error


def count_rows(item: WorkItem) -> int:
    """Return the number of rows of an item, counted anew from the source alone.

    Parquet: from the footer.  Tars: from the member headers, the whole file is passed over.
    Folders: from a new listing.

    Raises:
      ShardError: the source cannot be read.
    """
    if item.problem is not None:
        raise ShardError(_say(item.uri, item.problem))
    try:
        match item.format:
            case InputFormat.PARQUET:
                return count_parquet(item)
            case InputFormat.WEBDATASET:
                return sum(1 for _ in tar_samples(item.uri, None, content=False))
            case InputFormat.FOLDER:
                return count_folder(item)
    except (ClipsieveError, MemoryError):
        raise
    except Exception as error:
        raise ShardError(_say(item.uri, error)) from error


def fingerprint(source: WorkItem | str) -> SourceFingerprint:
    """Return the fingerprint of a source as it is now, past any cached listing.

    Of an item it equals `item.fingerprint` exactly if the source has not changed since it was
    planned.  Of a uri it covers the whole file or folder, with the rows of a Parquet file.

    Raises:
      ShardError: the source does not exist or cannot be read.
    """
    uri = source if isinstance(source, str) else source.uri
    try:
        if isinstance(source, WorkItem):
            if source.format is InputFormat.FOLDER:
                first, last = source.files or (0, 0)
                return list_folder(uri).fingerprint(first, last)
            found = file_fingerprint(uri)
            if source.fingerprint.rows is None:
                return found
            return SourceFingerprint(found.size, found.version, count_parquet(source))
        system, path = locate(uri)
        if system.isdir(path):
            listing = list_folder(uri)
            return listing.fingerprint(0, len(listing.rows))
        found = file_fingerprint(uri)
        with open_binary(uri) as handle:
            if sniff(handle)[0] is not InputFormat.PARQUET:
                return found
        whole = WorkItem("", uri, InputFormat.PARQUET, 0, None, found)
        return SourceFingerprint(found.size, found.version, count_parquet(whole))
    except (ClipsieveError, MemoryError):
        raise
    except Exception as error:
        raise ShardError(_say(uri, error)) from error


def _batches(item: WorkItem, source: SourceConfig) -> Iterator[RowBatch]:
    match item.format:
        case InputFormat.PARQUET:
            return read_parquet(item, source)
        case InputFormat.WEBDATASET:
            return batches_of(tar_samples(item.uri, source.image), source, item.start)
        case InputFormat.FOLDER:
            return read_folder(item, source)


def _require_unchanged(item: WorkItem) -> None:
    """Raise if a file is not the planned one; stores may word versions in two ways: size only."""
    if item.format is InputFormat.FOLDER:
        return
    planned, now = item.fingerprint, file_fingerprint(item.uri)
    local = is_local(locate(item.uri)[0])
    sized = planned.size >= 0 and now.size >= 0
    if (sized and planned.size != now.size) or (local and planned.version != now.version):
        raise ValueError(
            f"it has changed since it was planned ({planned.size:,} bytes then, {now.size:,} now); "
            "plan again"
        )


def _say(uri: str, reason: object) -> str:
    text = " ".join(str(reason).split()) or type(reason).__name__
    if isinstance(reason, FileNotFoundError):
        text = "the file does not exist any more"
    cure = "" if "plan again" in text else "; replace the file and run again, or leave it out"
    return f"cannot read {uri}: {text}{cure}"
