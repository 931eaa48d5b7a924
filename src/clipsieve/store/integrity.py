"""Whether the files of an output folder are what was written, by their seals.

A file whose size and version are those of its last verification is not read again, unless all are
to be.  Damage that changes neither, such as a disk's, is found by a full check, as `reconcile`
makes.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc

from clipsieve.errors import ClipsieveError, LedgerError
from clipsieve.schemas import footers
from clipsieve.schemas.files import FILES_SCHEMA
from clipsieve.store import names
from clipsieve.store.file_system import LISTERS, FileStatus
from clipsieve.store.folder import READERS, OutputFolder
from clipsieve.store.records import read_records
from clipsieve.store.seal import Damaged, Seal
from clipsieve.store.siblings import read_siblings

#: Ends the name of a damaged file that was moved aside; a number follows if there is one already.
_ASIDE = re.compile(r"(.+)\.damaged[0-9]*")
#: Begin what is wrong with a sound file in the place of another, which its seal cannot tell.
_UNLIKE_RECORD = "it is not the file that run"
_UNLIKE_LEDGER = "it is not the file that was written with the shard's ledger"
_UNLIKE = (_UNLIKE_RECORD, _UNLIKE_LEDGER)


@dataclass(frozen=True, slots=True)
class FileCheck:
    """One file as it was when it was verified.

    Attributes:
      name: relative to the output folder.
      bytes: its size.
      version: of its content; see `FileStatus`.
      sha256: of its seal; None if it is damaged.
      problem: why it is damaged; None if it is sound.
    """

    name: str
    bytes: int
    version: int
    sha256: str | None
    problem: str | None = None


def sealed_files(folder: OutputFolder, below: str | None = None) -> list[str]:
    """Return the names of all files that clipsieve writes with a seal, sorted.

    Args:
      folder: the output folder.
      below: a folder in it to which they are limited.
    """
    return list(_sealed_statuses(folder, below))


def _sealed_statuses(folder: OutputFolder, below: str | None) -> dict[str, FileStatus]:
    """Return the status of all files that clipsieve writes with a seal, sorted by name."""
    found = {
        name: status
        for name, status in _walk(folder, names.FOLDERS if below is None else (below,))
        if names.is_sealed(name) and name not in names.CACHES
    }
    if below is None:
        with suppress(FileNotFoundError):
            found[names.MANIFEST] = folder.files.status(names.MANIFEST)
    return dict(sorted(found.items()))


def check_files(
    folder: OutputFolder,
    known: Mapping[str, FileCheck] | None = None,
    written: Mapping[str, Seal] | None = None,
    below: str | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
    reads: bool = True,
) -> list[FileCheck]:
    """Verify the files of a folder, several at a time.

    Args:
      folder: the output folder.
      known: the last checks by name; None reads those that were saved.  Files are read that have
        changed since, or were damaged: with no last checks, all.
      written: seals of files that were written just now, which are not read.
      below: a folder in it to which the check is limited.
      is_stopped: whether to read no other file; those that are left have no check.
      reads: whether to read files at all; without, those that have changed have no check.

    Returns:
      One check for each sealed file, sorted by name.  A file that is removed meanwhile is left out,
      and so is the table of checks itself while it is sound.
    """
    last = read_checks(folder, below) if known is None else known

    def check(name: str, status: FileStatus) -> FileCheck | None:
        if is_stopped():
            return None
        return _check(folder, name, status, last.get(name), (written or {}).get(name), reads)

    found = _sealed_statuses(folder, below)
    with ThreadPoolExecutor(READERS, "clipsieve-verify") as pool:
        results = pool.map(check, found.keys(), found.values())
        checks = [each for each in results if each is not None]
    if below is not None:
        return checks
    for name in names.CACHES:
        with suppress(FileNotFoundError):
            own = _check(folder, name, folder.files.status(name), None, None)
            checks += [own] if own is not None and own.problem is not None else []
    return checks


def unverified_bytes(folder: OutputFolder, below: str, known: Mapping[str, FileCheck]) -> int:
    """Return the bytes of the files below a folder that have changed since the last checks."""
    total = 0
    for name, status in _sealed_statuses(folder, below).items():
        check = known.get(name)
        if check is None or (check.bytes, check.version) != status:
            total += status.bytes
    return total


def damaged(checks: Iterable[FileCheck]) -> dict[str, str]:
    """Return what is wrong with each damaged file, by its name."""
    return {check.name: check.problem for check in checks if check.problem is not None}


def with_replaced(folder: OutputFolder, checks: Iterable[FileCheck]) -> list[FileCheck]:
    """Return checks in which sound files that were not written with the rest are damaged.

    A file must be the one that its run recorded, and that the ledger of its shard names.  One of
    another run than the last record of it, as a kill leaves, is not compared with the record; none
    is if a record is none that clipsieve writes.
    """
    return _unlike_ledgers(folder, _unlike_records(folder, list(checks)))


def _unlike_ledgers(folder: OutputFolder, checks: list[FileCheck]) -> list[FileCheck]:
    """Return checks in which sound files are damaged of which the ledger names another content."""
    ledgers = folder.read_footers(map(names.samples, folder.shards()))
    siblings = {name: seal for each in ledgers for name, seal in read_siblings(each).items()}

    def compared(check: FileCheck) -> FileCheck:
        seal = siblings.get(check.name)
        if check.sha256 is None or seal is None or check.sha256 == seal.sha256:
            return check
        return FileCheck(check.name, check.bytes, check.version, None, _UNLIKE_LEDGER)

    return [compared(check) for check in checks]


def _unlike_records(folder: OutputFolder, checks: list[FileCheck]) -> list[FileCheck]:
    """Return checks in which sound files are damaged that are not those that their run recorded."""
    try:
        records = read_records(folder, damaged=damaged(checks))
    except (LedgerError, ValueError):
        return checks
    recorded = {
        name: (record.run_id, seal) for record in records for name, seal in record.files.items()
    }

    def compared(check: FileCheck) -> FileCheck:
        run_id, seal = recorded.get(check.name, ("", None))
        if check.sha256 is None or seal is None or check.sha256 == seal.sha256:
            return check
        if folder.read_footer(check.name).get(footers.RUN_ID) != run_id:
            return check
        problem = f"{_UNLIKE_RECORD} {run_id} wrote"
        return FileCheck(check.name, check.bytes, check.version, None, problem)

    return [compared(check) for check in checks]


def read_checks(folder: OutputFolder, below: str | None = None) -> Mapping[str, FileCheck]:
    """Return the last checks by name; none if they were never saved, or are damaged themselves.

    Args:
      folder: the output folder.
      below: a folder in it to which they are limited.
    """
    table = folder.read_cache(names.FILES, FILES_SCHEMA)
    if table is None:
        return {}  # all files are read, then
    if below is not None:
        table = table.filter(pc.starts_with(table["name"], f"{below}/"))
    return {row["name"]: FileCheck(**row) for row in table.to_pylist()}


def save_checks(folder: OutputFolder, checks: Iterable[FileCheck]) -> None:
    """Keep checks for the next look at the folder."""
    rows = [asdict(check) for check in checks if check.name not in names.CACHES]
    table = pa.Table.from_pylist(rows, schema=FILES_SCHEMA)
    folder.write_cache(names.FILES, table)


def add_checks(folder: OutputFolder, written: Mapping[str, Seal]) -> None:
    """Keep the seals of files that were written just now beside what is known; reads no file."""
    known = dict(read_checks(folder))
    statuses = _sealed_statuses(folder, None) if written else {}
    for name, seal in written.items():
        if name in statuses:
            check = _check(folder, name, statuses[name], None, seal)
            if check is not None:
                known[name] = check
    save_checks(folder, known.values())


def move_aside(folder: OutputFolder, name: str) -> str:
    """Give a damaged file a name under which nothing reads it, and return that."""
    aside, number = f"{name}.damaged", 1
    while folder.files.exists(aside):
        number += 1
        aside = f"{name}.damaged{number}"
    folder.files.rename(name, aside)
    return aside


def drop_replaced(folder: OutputFolder) -> None:
    """Remove the files moved aside that have been made again."""
    present = dict(_walk(folder, names.FOLDERS))
    for name in present:
        match = _ASIDE.fullmatch(name)
        if match and names.is_sealed(match[1]) and match[1] in present:
            folder.files.delete(name)


def _check(
    folder: OutputFolder,
    name: str,
    status: FileStatus,
    known: FileCheck | None,
    written: Seal | None,
    reads: bool = True,
) -> FileCheck | None:
    if written is not None and written.bytes == status.bytes:
        return FileCheck(name, *status, written.sha256)
    if known is not None and (known.bytes, known.version) == status:
        if known.problem is None or known.problem.startswith(_UNLIKE) or not reads:
            return known
    if not reads:
        return None
    try:
        return FileCheck(name, *status, folder.verify(name).sha256)
    except Damaged as error:
        return FileCheck(name, *status, None, str(error))
    except FileNotFoundError:
        return None
    except OSError as error:  # unreadable sectors
        return FileCheck(name, 0, 0, None, f"it cannot be read ({error.strerror or error})")
    except ClipsieveError as error:  # permissions
        return FileCheck(name, 0, 0, None, f"it cannot be read ({error.__cause__ or error})")


def _walk(folder: OutputFolder, tops: Sequence[str]) -> Iterator[tuple[str, FileStatus]]:
    """Yield name and status of every file below some folders, past hidden folders.

    In an object store the folders of one level are listed at once.
    """
    with ThreadPoolExecutor(LISTERS if folder.files.is_remote else 1, "clipsieve-list") as pool:
        level = list(tops)
        while level:
            below: list[str] = []
            for top, entries in zip(level, pool.map(folder.files.entries, level), strict=True):
                for name, status in entries.files.items():
                    yield f"{top}/{name}", status
                below += [f"{top}/{n}" for n in entries.folders if not n.startswith(".")]
            level = below
