"""Proof that every input row is in the ledger exactly once, and every file as it was written."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from clipsieve.errors import LedgerError, ShardError, UsageError
from clipsieve.formats.base import WorkItem
from clipsieve.schemas import footers
from clipsieve.schemas.states import RowState
from clipsieve.store import names
from clipsieve.store.cures import cure
from clipsieve.store.documents import footer_rows
from clipsieve.store.folder import READERS, OutputFolder
from clipsieve.store.manifest import Manifest
from clipsieve.store.parquet import Footer
from clipsieve.store.source import fingerprint_text
from clipsieve.store.subsets import Subset, kept_counts, require_subset, subset_names
from clipsieve.threads import read_ahead

#: What is wrong with a shard that no input gives.
NO_SOURCE = "in the ledger, but its source is no longer among the inputs"


@dataclass(frozen=True, slots=True)
class ShardAccount:
    """One shard's rows in the source and in the ledger; or a subset, or a file, that is wrong.

    Attributes:
      shard: output name; uri: where its rows come from.
      source_rows: rows counted in the source now; None if it cannot be read.
      ledger_rows: rows in `samples/`; None if there is no file.
      states: ledger rows by state.
      problems: everything that does not add up, one line each; empty if all is well.
      is_shard: false for a subset or a file.
    """

    shard: str
    uri: str
    source_rows: int | None
    ledger_rows: int | None
    states: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    is_shard: bool = True


def reconcile(
    folder: OutputFolder,
    manifest: Manifest,
    items: Iterable[WorkItem],
    count_rows: Callable[[WorkItem], int],
    damage: Mapping[str, str] | None = None,
) -> Iterator[ShardAccount]:
    """Compare each planned item with its files, and find files of no item.

    Args:
      folder: the output folder.
      manifest: what it holds.
      items: the input as it is now.
      count_rows: counts an item's rows in the source itself, not from any footer of ours.
      damage: what is wrong with damaged files, by name.
    """
    seen: dict[str, str] = {}
    left = dict(damage or {})
    planned, subsets = list(items), _readable_subsets(folder)

    def read(item: WorkItem) -> ShardAccount:
        return _account(folder, manifest, item, count_rows, left, subsets)

    accounts = read_ahead(read, planned, READERS if folder.files.is_remote else 0)
    for item, account in zip(planned, accounts, strict=True):
        own = _tables(manifest, item.shard).values()
        damaged = [_damage(folder, name, left.pop(name)) for name in own if name in left]
        account = replace(account, problems=(*account.problems, *damaged))
        if item.shard in seen:
            doubt = f"its output has the name of another source's, {seen[item.shard]}"
            account = replace(account, states={}, problems=(*account.problems, doubt))
        seen[item.shard] = item.uri
        yield account
    yield from _subset_accounts(folder)
    for shard in folder.shards():
        if shard not in seen:
            footer = folder.read_footer(names.samples(shard))
            yield ShardAccount(
                shard,
                footer.get(footers.SOURCE_URI, "unknown"),
                None,
                _rows(footer),
                problems=(NO_SOURCE,),
            )
    for name, problem in left.items():
        place = folder.files.url(name)
        problems = (_damage(folder, name, problem),)
        yield ShardAccount(name, place, None, None, problems=problems, is_shard=False)


def _damage(folder: OutputFolder, name: str, problem: str) -> str:
    return f"{name} is damaged: {problem}; {cure(folder.root, name)}"


def _tables(manifest: Manifest, shard: str) -> dict[str, str]:
    """Return the name of every file of a shard, by family."""
    tables = {f: names.scores(f, r, shard) for f, r in manifest.revisions().items()}
    if manifest.embeddings is not None:
        entry = manifest.embeddings
        tables["embeddings"] = names.embeddings(entry.model, entry.revision, shard)
    return {"samples": names.samples(shard), **tables}


def _rows(footer: Footer) -> int | None:
    """Return the rows of a ledger as its footer counts them; None if it does not."""
    try:
        return footer_rows(footer, footers.ROWS, "")
    except LedgerError:
        return None


def _account(
    folder: OutputFolder,
    manifest: Manifest,
    item: WorkItem,
    count_rows: Callable[[WorkItem], int],
    damage: Mapping[str, str],
    subsets: Mapping[str, Subset],
) -> ShardAccount:
    problems: list[str] = []
    source_rows = None
    try:
        source_rows = count_rows(item)
    except ShardError as error:
        problems.append(f"source cannot be counted: {error}")
    name = names.samples(item.shard)
    if not folder.files.exists(name):
        problems.append("not in the ledger: this shard is not done")
        return ShardAccount(item.shard, item.uri, source_rows, None, {}, tuple(problems))
    try:
        ledger = folder.read_table(name, ["uid", "shard", "row", "status", "error"])
    except LedgerError as error:
        if name not in damage:
            problems.append(f"ledger file is damaged: {error}")
        return ShardAccount(item.shard, item.uri, source_rows, None, {}, tuple(problems))
    if source_rows is not None and ledger.num_rows != source_rows:
        problems.append(f"source has {source_rows} rows, ledger has {ledger.num_rows}")
    recorded = folder.read_footer(name).get(footers.SOURCE_FINGERPRINT)
    if recorded != fingerprint_text(item):
        problems.append("source has changed since it was read: run `clipsieve run` again")
    problems += _ledger_problems(item, ledger)
    problems += _family_problems(folder, manifest, item.shard, ledger["uid"], damage)
    problems += _subset_problems(folder, subsets, item.shard, ledger)
    states = dict(sorted(Counter(ledger["status"].to_pylist()).items(), key=str))
    return ShardAccount(item.shard, item.uri, source_rows, ledger.num_rows, states, tuple(problems))


def _subset_accounts(folder: OutputFolder) -> Iterator[ShardAccount]:
    """Yield an account of each subset whose description is damaged, or counts other rows."""
    for name in subset_names(folder):
        problem = ""
        try:
            subset = require_subset(folder, name)
            kept = sum(kept_counts(folder, subset).values())
            if (kept, subset.rows - kept) != (subset.kept, subset.dropped):
                problem = f"its description says {subset.kept} rows are kept, its files {kept}"
        except (UsageError, LedgerError) as error:
            problem = str(error)
        if problem:
            place = folder.files.url(names.subset_manifest(name))
            yield ShardAccount(
                f"subset {name}", place, None, None, problems=(problem,), is_shard=False
            )


def _ledger_problems(item: WorkItem, ledger: pa.Table) -> Iterator[str]:
    """What is wrong inside a ledger file."""
    expected = pa.array(range(item.start, item.start + ledger.num_rows), pa.int64())
    if not ledger["row"].combine_chunks().equals(expected):
        yield f"rows are not {item.start} to {item.start + ledger.num_rows - 1}, each once"
    if pc.unique(ledger["shard"]).to_pylist() not in ([item.shard], []):
        yield f"rows name other shards: {pc.unique(ledger['shard']).to_pylist()[:3]}"
    unknown = set(pc.unique(ledger["status"]).to_pylist()) - set(RowState)
    if unknown:
        yield f"unknown states {sorted(map(str, unknown))}"
    ok = pc.equal(ledger["status"], RowState.OK)
    if pc.any(pc.equal(ok, pc.is_valid(ledger["error"]))).as_py():
        yield "a row is ok and has an error, or is not ok and has none"


def _family_problems(
    folder: OutputFolder,
    manifest: Manifest,
    shard: str,
    uids: pa.ChunkedArray,
    damage: Mapping[str, str],
) -> Iterator[str]:
    """What does not line up with the ledger, in files that are not damaged."""
    for family, name in _tables(manifest, shard).items():
        if family == "samples" or name in damage:
            continue
        try:
            other = folder.read_table(name, ["uid"])["uid"]
        except LedgerError as error:
            cause = type(error.__cause__ or error).__name__
            yield f"{family}: {cause}: {name.rpartition('/')[2]} is missing or damaged"
            continue
        if not other.equals(uids):
            yield f"{family}: uids differ from the ledger's"


def _readable_subsets(folder: OutputFolder) -> dict[str, Subset]:
    """Return the subsets whose description can be read, by name; others have an account."""
    subsets = {}
    for name in subset_names(folder):
        with suppress(UsageError):
            subsets[name] = require_subset(folder, name)
    return subsets


def _subset_problems(
    folder: OutputFolder, subsets: Mapping[str, Subset], shard: str, ledger: pa.Table
) -> Iterator[str]:
    """Which subsets do not have every row of the ledger exactly once, kept or dropped."""
    rows = ledger.select(["uid", "row"])
    for name, subset in subsets.items():
        if shard not in subset.shards:
            continue  # it was made before this shard came
        tables = (table(name, subset.revision, shard) for table in (names.kept, names.dropped))
        try:
            kept, dropped = (folder.read_table(table, ["uid", "row"]) for table in tables)
        except LedgerError as error:
            yield f"subset {name}: {error}"
            continue
        if kept.schema.names != rows.schema.names or dropped.schema.names != rows.schema.names:
            yield (
                f"subset {name}: its files lack uid or row; make it again with "
                f"`clipsieve filter ... --name {name}`"
            )
        elif kept.num_rows + dropped.num_rows != rows.num_rows:
            yield (
                f"subset {name}: {kept.num_rows} kept and {dropped.num_rows} dropped are not the "
                f"{rows.num_rows} rows of the ledger"
            )
        elif not pa.concat_tables([kept, dropped]).sort_by("row").equals(rows.combine_chunks()):
            yield (
                f"subset {name}: rows kept and dropped are others than those of the ledger; make "
                f"it again with `clipsieve filter ... --name {name}`"
            )
