"""Thresholds of a predicate over a whole dataset, in two or four passes of histograms.

The stage counts one digit of the values of every shard and adds the counts up; the driver runs it
until every digit is known.  No score leaves its shard.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipsieve.control import Control, unless_stopped
from clipsieve.errors import LedgerError, UsageError
from clipsieve.select.rows import FilterRows
from clipsieve.sql.locked import ThreadDatabases
from clipsieve.sql.quantity import ORDERED_TYPES, Quantity
from clipsieve.stage import Report, Worker
from clipsieve.statistics.counts import RowCounts
from clipsieve.statistics.radix import (
    ALL_ROWS,
    DigitCounts,
    RankSearch,
    ordered_bits,
    sorted_groups,
    values_of_bits,
)
from clipsieve.threads import iterate_parts

#: More groups than this are refused: their thresholds travel to every worker.
MOST_GROUPS = 1_000_000


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The thresholds of one quantity, by group.

    Attributes:
      type: DuckDB's type of the values.
      groups: names of the groups as text, sorted, None first; (None,) without groups.
      bits: threshold of each, as `ordered_bits` maps it.
      ranks: its place in descending order, from 1.
      rows: values of each group.
    """

    type: str
    groups: tuple[str | None, ...]
    bits: tuple[int, ...]
    ranks: tuple[int, ...]
    rows: tuple[int, ...]

    @property
    def values(self) -> tuple[str, ...]:
        """Thresholds as the shortest texts that read back as the same numbers."""
        return tuple(map(number_text, self._numbers()))

    def table(self, quantity: Quantity) -> list[dict[str, Any]]:
        """Return the rows of `thresholds.parquet`."""
        columns = zip(self.groups, self.rows, self.ranks, self.values, strict=True)
        return [
            {"quantity": quantity.text, "group": group, "rows": rows, "rank": rank, "threshold": at}
            for group, rows, rank, at in columns
        ]

    def column(self, groups: pa.Array) -> pa.Array:
        """Return the threshold of each of N rows, by the name of its group; NULL for no group."""
        places = pc.index_in(groups, pa.array(self.groups, pa.string()), skip_nulls=False)
        return pa.array(self._numbers(), ORDERED_TYPES[self.type]).take(places)

    def _numbers(self) -> np.ndarray:
        return values_of_bits(self.bits, np.dtype(ORDERED_TYPES[self.type].to_pandas_dtype()))


@dataclass(frozen=True)
class ThresholdStage:
    """Counts a digit of the values of each quantity; an element is a shard.

    Attributes:
      out: the output folder, absolute.
      run_id: the run.
      control: stop and progress.
      rows: which rows.
      quantities: whose thresholds are searched.
      searches: how far each search is.
      shards: how many there are.
      device: not used.
    """

    out: str
    run_id: str
    control: Control
    rows: FilterRows
    quantities: tuple[Quantity, ...]
    searches: tuple[RankSearch, ...]
    shards: int
    device: str = "cpu"
    name = "threshold"

    def open(self) -> Worker:
        """Open a locked connection."""
        return _ThresholdWorker(self)

    def finish(self, total: Report) -> Report:
        """Narrow every search by what was counted, if it was of every shard."""
        if not len(set(total.done)) == len(total.done) == self.shards or total.value is None:
            return replace(total, value=None)
        narrowed = [
            search if search.is_done else search.narrowed(counts, quantity.rank)
            for quantity, search, counts in zip(
                self.quantities, self.searches, total.value.counts, strict=True
            )
        ]
        return replace(total, value=[search.to_json() for search in narrowed])


@dataclass(frozen=True, slots=True)
class _Counts:
    """Counts of every quantity."""

    counts: tuple[DigitCounts, ...]

    def __add__(self, other: "_Counts") -> "_Counts":
        pairs = zip(self.counts, other.counts, strict=True)
        return _Counts(tuple(mine + theirs for mine, theirs in pairs))


class _ThresholdWorker:
    def __init__(self, stage: ThresholdStage) -> None:
        self._stage = stage
        self._rows = stage.rows.open()
        self._databases = ThreadDatabases()

    def work(self, elements: Sequence[str]) -> Iterator[Report]:
        yield from iterate_parts(self._shard, unless_stopped(elements, self._stage.control))

    def _shard(self, shard: str) -> Report:
        control = self._stage.control
        control.begin(shard)
        with control.timing("read"):
            table = self._rows.read(shard, self._stage.rows.schema.names)
            ranked = self._rows.ranked(shard)
            if ranked is not None:
                table = table.filter(pa.array(ranked))
        with control.timing("encode"):
            counts = self._observe(shard, table)
        control.add(rows=table.num_rows, shards=1)
        control.end(shard)
        return Report((shard,), rows=RowCounts(shards=1), value=counts)

    def _observe(self, shard: str, table: pa.Table) -> _Counts:
        quantities, searches = self._stage.quantities, self._stage.searches
        texts = [quantity.value for quantity in quantities]
        texts += [group_text(q.group) for q in quantities if q.group is not None]
        try:
            arrays = self._databases.own().evaluate(table, list(dict.fromkeys(texts)))
        except UsageError as error:
            raise UsageError(
                f"thresholds cannot be computed for shard {shard}: {error}; cast the column to a "
                "wider type"
            ) from error
        by_text = dict(zip(dict.fromkeys(texts), arrays, strict=True))
        counts = []
        for quantity, search in zip(quantities, searches, strict=True):
            if search.is_done:
                counts.append(DigitCounts())
                continue
            values = by_text[quantity.value]
            names = None if quantity.group is None else by_text[group_text(quantity.group)]
            counts.append(_observe(search, values, names))
        return _Counts(tuple(counts))


def _observe(search: RankSearch, values: pa.Array, names: pa.Array | None) -> DigitCounts:
    """Count a digit of the values that are not NULL."""
    present = pc.is_valid(values)
    if pa.types.is_floating(values.type):  # of an expression, e.g. a logarithm
        present = pc.and_(present, pc.invert(pc.fill_null(pc.is_nan(values), True)))
    numbers = np.asarray(values.filter(present).to_numpy(zero_copy_only=False))
    if names is None:
        groups, codes = ALL_ROWS, np.zeros(len(numbers), np.int64)
    else:
        groups, codes = _encoded(names.filter(present))
    return search.observe(ordered_bits(numbers), groups, codes)


def _encoded(names: pa.Array) -> tuple[tuple[str | None, ...], np.ndarray]:
    """Return the distinct names, sorted, and the position of each row's among them."""
    encoded = names.dictionary_encode(null_encoding="encode")
    distinct = encoded.dictionary.to_pylist()
    groups = sorted_groups(set(distinct))
    places = {group: place for place, group in enumerate(groups)}
    moved = np.array([places[group] for group in distinct], np.int64)
    codes = np.asarray(encoded.indices.to_numpy(zero_copy_only=False), np.int64)
    return groups, moved[codes]


def group_text(group: str) -> str:
    """Return the expression whose values name the groups."""
    return f"CAST({group} AS VARCHAR)"


def search_thresholds(
    run: Callable[[ThresholdStage], Report], stage: ThresholdStage
) -> list[Thresholds] | None:
    """Return the thresholds of every quantity of a stage; None if the run was stopped.

    Args:
      run: runs one pass over all shards.
      stage: its `searches` are not read.

    Raises:
      UsageError: if a quantity has no value at all, or too many groups.
      LedgerError: if shards kill their worker.
    """
    searches = tuple(RankSearch(_bits(quantity)) for quantity in stage.quantities)
    while not all(search.is_done for search in searches):
        report = run(replace(stage, searches=searches))
        if report.failed:
            raise LedgerError(
                f"shards {', '.join(report.failed)} kill the worker that reads them, and "
                "thresholds must be of all rows; look at the system log"
            )
        if report.value is None:
            return None
        searches = tuple(RankSearch.from_json(content) for content in report.value)
        for quantity, search in zip(stage.quantities, searches, strict=True):
            check_groups(quantity, len(search.groups))
    return [thresholds_of(q, s) for q, s in zip(stage.quantities, searches, strict=True)]


def thresholds_of(quantity: Quantity, search: RankSearch) -> Thresholds:
    """Return what a finished search found."""
    ranks = tuple(map(quantity.rank, search.rows))
    return Thresholds(quantity.type, search.groups, search.prefixes, ranks, search.rows)


def check_groups(quantity: Quantity, groups: int) -> None:
    """Refuse a quantity without a value, and one with too many groups.

    Raises:
      UsageError: says which.
    """
    if not groups:
        raise UsageError(
            f"{quantity.text}: {quantity.value} is NULL in every row; name a column with values"
        )
    if groups > MOST_GROUPS:
        raise UsageError(
            f"{quantity.text} has {groups:,} groups, at most {MOST_GROUPS:,} are possible; group "
            "by a coarser column"
        )


def number_text(value: Any) -> str:
    """Return the shortest text that reads back as the same NumPy number.

    >>> number_text(np.float32(0.1)), number_text(np.int64(-3))
    ('0.1', '-3')
    """
    return str(value.item()) if isinstance(value, np.integer) else str(value)


def _bits(quantity: Quantity) -> int:
    return 64 if ORDERED_TYPES[quantity.type].bit_width == 64 else 32


def constants(
    quantities: Sequence[Quantity], thresholds: Sequence[Thresholds]
) -> Mapping[int, str]:
    """Return the thresholds of quantities without groups, by number, as text."""
    pairs = enumerate(zip(quantities, thresholds, strict=True))
    return {number: each.values[0] for number, (quantity, each) in pairs if quantity.group is None}
