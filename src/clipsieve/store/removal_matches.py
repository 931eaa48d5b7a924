"""The rows of each shard that removal lists name, as a stage: `removals/rev=<id>/<shard>.parquet`.

A footer has the key of the ledger that was read, so that a shard that is embedded again is looked
at again.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from clipsieve.control import Control
from clipsieve.schemas import footers
from clipsieve.schemas.removals import removed_schema
from clipsieve.stage import Element, Report, Worker
from clipsieve.statistics.counts import RowCounts
from clipsieve.store import names
from clipsieve.store.canonical import canonical_json, short_hash
from clipsieve.store.folder import OutputFolder
from clipsieve.store.id_values import needed_columns
from clipsieve.store.ids import IdList
from clipsieve.store.members import ShardRange, ledger_key
from clipsieve.store.removal_lists import RemovalList, lists_id, read_ids

_IDENTITY = ("uid", "shard", "row")


@dataclass(frozen=True, slots=True)
class MatchStage:
    """Writes the rows that lists name; an element is a shard.

    Attributes:
      out: the output folder, absolute.
      run_id: the run.
      control: stop and progress.
      lists: whose ids are in the folder; they need not be active.
      device: not used.
    """

    out: str
    run_id: str
    control: Control
    lists: tuple[RemovalList, ...]
    device: str = "cpu"
    name = "removals"

    def elements(self, members: Sequence[ShardRange]) -> list[Element]:
        """Return an element for each shard."""
        return [Element(each.shard, each.shard, max(each.rows, 1)) for each in members]

    def open(self) -> Worker:
        """Read the ids of all lists."""
        return _MatchWorker(self)

    def finish(self, total: Report) -> Report:
        """Nothing is left to do."""
        return total


class _MatchWorker:
    def __init__(self, stage: MatchStage) -> None:
        self._control = stage.control
        self._folder = OutputFolder.open(stage.out)
        self._identifier = lists_id(stage.lists)
        self._ids = {each.name: read_ids(self._folder, each) for each in stage.lists}

    def work(self, elements: Sequence[str]) -> Iterator[Report]:
        for shard in elements:  # to the end: it is quick, and compaction needs all
            self._control.begin(shard)
            write_matches(self._folder, self._identifier, self._ids, shard)
            self._control.end(shard)
            yield Report((shard,), rows=RowCounts(shards=1))


def write_matches(
    folder: OutputFolder, identifier: str, ids: dict[str, IdList], shard: str
) -> None:
    """Write the rows of a shard that lists name.

    Args:
      folder: the output folder.
      identifier: of the set of lists.
      ids: of each list, by its name.
      shard: its name.

    Raises:
      UsageError: if the shard lacks columns that a list needs.
      LedgerError: if its ledger is missing or damaged.
    """
    key = ledger_key(folder.read_footer(names.samples(shard)))
    table = find_matches(folder, ids, shard)
    first = first_lists(table)
    by_list = Counter(table["list"].to_pylist())
    footer = {
        footers.LAYOUT: footers.LAYOUT_VERSION,
        footers.FAMILY: names.REMOVALS,
        footers.REVISION: identifier,
        footers.SHARD: shard,
        footers.ROWS: str(table.num_rows),
        footers.LEDGER_KEY: key,
        footers.REMOVALS: short_hash(list(first.items())),
        footers.MATCHES: canonical_json({"rows": len(first), "lists": by_list}),
    }
    folder.write_table(names.removed(identifier, shard), table, footer)


def find_matches(folder: OutputFolder, ids: dict[str, IdList], shard: str) -> pa.Table:
    """Return the rows of a shard that lists name, a row for each of them and list.

    In source order, then by the names of lists; see `clipsieve.schemas.removals`.

    Raises:
      UsageError: if the shard lacks columns that a list needs.
      LedgerError: if its ledger is missing or damaged.
    """
    samples = names.samples(shard)
    available = folder.read_schema(samples).names
    places = {name: f"shard {shard} of {folder.root}, for list {name!r}," for name in ids}
    needed = dict.fromkeys(_IDENTITY)
    for name, each in ids.items():
        needed |= dict.fromkeys(needed_columns(each.kind, available, places[name]))
    ledger = folder.read_table(samples, list(needed))
    schema = removed_schema(ledger.schema.field("uid").type)
    parts: list[tuple[np.ndarray, pa.Table]] = []
    for name in sorted(ids):
        found = ids[name].find(ledger, places[name])
        rows = np.flatnonzero(found >= 0)
        parts.append((rows, _matches(ledger, rows, name, ids[name], found[rows], schema)))
    rows = np.concatenate([np.empty(0, np.int64), *(rows for rows, _ in parts)])
    table = pa.concat_tables([schema.empty_table(), *(part for _, part in parts)])
    return table.take(pa.array(np.argsort(rows, kind="stable"))).combine_chunks()


def first_lists(removed: pa.Table) -> dict[int, str]:
    """Return the first list that names each row that is removed, by the row's number."""
    pairs = zip(removed["row"].to_pylist(), removed["list"].to_pylist(), strict=True)
    first: dict[int, str] = {}
    for row, name in pairs:
        first.setdefault(row, name)
    return first


def _matches(
    ledger: pa.Table,
    rows: np.ndarray,
    name: str,
    ids: IdList,
    positions: np.ndarray,
    schema: pa.Schema,
) -> pa.Table:
    """Return rows of the ledger as matches of one list."""
    own = ledger.select(_IDENTITY).take(pa.array(rows))
    constants = [pa.repeat(pa.scalar(text, pa.string()), len(rows)) for text in (name, ids.kind)]
    columns = [*(own[column] for column in _IDENTITY), *constants, ids.text(positions)]
    return pa.Table.from_arrays(columns, schema=schema)
