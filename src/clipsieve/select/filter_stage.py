"""The stage that tests every row, and writes which are kept and why the others are not."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipsieve.control import Control, unless_stopped
from clipsieve.errors import UsageError
from clipsieve.schemas import footers
from clipsieve.schemas.states import RowState
from clipsieve.schemas.subsets import dropped_schema, kept_schema
from clipsieve.select.membership import Membership, RemovedRows
from clipsieve.select.rows import FilterRows
from clipsieve.select.thresholds import Thresholds, group_text
from clipsieve.select.verdict import (
    FAIL,
    NULL,
    PASS,
    PASSES_INSIDE,
    Funnel,
    Step,
    Verdicts,
    judge,
)
from clipsieve.sql.locked import ThreadDatabases
from clipsieve.sql.quantity import THRESHOLD, Quantity
from clipsieve.stage import Element, Report, Worker
from clipsieve.statistics.counts import RowCounts
from clipsieve.store import names
from clipsieve.store.canonical import canonical_json
from clipsieve.store.documents import footer_value
from clipsieve.store.folder import OutputFolder
from clipsieve.store.members import ShardRange, ledger_key, require_footer
from clipsieve.store.parquet import Footer
from clipsieve.store.validation import Count, Pattern
from clipsieve.threads import iterate_parts

#: Steps that a row fails, as bits of a number.
_Code = Annotated[str, Pattern("[0-9]{1,40}")]


@dataclass(frozen=True)
class FilterStage:
    """Tests the rows of shards; an element is a shard.

    Attributes:
      out: the output folder, absolute.
      run_id: the run.
      control: stop and progress.
      rows: which rows, and the columns that clauses read.
      steps: the tests, in order.
      clauses: SQL of the steps that are clauses, thresholds without groups in it.
      grouped: quantities with groups and their thresholds, by number.
      memberships: what each step asks that is no clause, by its position among `steps`.
      rescues: subsets and lists of `or`.
      subset: its name.
      revision: of the subset.
      writes: whether tables are written; without, rows are only counted.
      again: whether tables that are there are written again.
      device: not used.
    """

    out: str
    run_id: str
    control: Control
    rows: FilterRows
    steps: tuple[Step, ...]
    clauses: tuple[str, ...]
    grouped: Mapping[int, tuple[Quantity, Thresholds]] = field(default_factory=dict)
    memberships: Mapping[int, Membership] = field(default_factory=dict)
    rescues: tuple[Membership, ...] = ()
    subset: str = ""
    revision: str = ""
    writes: bool = True
    again: bool = False
    device: str = "cpu"
    name = "filter"

    def elements(self, members: Sequence[ShardRange]) -> list[Element]:
        """Return an element for each shard."""
        return [Element(member.shard, member.shard, max(member.rows, 1)) for member in members]

    def open(self) -> Worker:
        """Open a locked connection."""
        return _FilterWorker(self)

    def finish(self, total: Report) -> Report:
        """Return the counts as plain JSON."""
        funnel = total.value or Funnel()
        patterns = {str(code): rows for code, rows in sorted(funnel.patterns.items())}
        return replace(total, value=patterns)


def funnel_of(report: Report) -> Funnel:
    """Return the counts that a finished stage reported."""
    return Funnel({int(code): rows for code, rows in (report.value or {}).items()})


class _FilterWorker:
    def __init__(self, stage: FilterStage) -> None:
        self._stage = stage
        self._folder = OutputFolder.open(stage.out)
        self._rows = stage.rows.open()
        self._databases = ThreadDatabases()

    def work(self, elements: Sequence[str]) -> Iterator[Report]:
        # Several shards at a time: writing waits for the disk, reading for neither.
        yield from iterate_parts(self._shard, unless_stopped(elements, self._stage.control))

    def _shard(self, shard: str) -> Report:
        control = self._stage.control
        control.begin(shard)
        is_kept = self._stage.writes and not self._stage.again
        funnel = self._written(shard) if is_kept else None
        if funnel is None:
            funnel = self._filter(shard)
        control.add(rows=funnel.rows, shards=1)
        control.end(shard)
        return Report((shard,), rows=RowCounts(shards=1), value=funnel)

    def _written(self, shard: str) -> Funnel | None:
        """Return the counts of a shard whose tables are there already."""
        stage = self._stage
        ledger = ledger_key(self._folder.read_footer(names.samples(shard)))
        both = [
            self._folder.read_footer(table(stage.subset, stage.revision, shard))
            for table in (names.kept, names.dropped)
        ]
        for footer in both:
            if (footer.get(footers.REVISION), footer.get(footers.LEDGER_KEY)) != (
                stage.revision,
                ledger,
            ):
                return None
        place = self._folder.files.url(names.dropped(stage.subset, stage.revision, shard))
        patterns: dict[str, int] = footer_value(
            both[1], footers.PATTERNS, dict[_Code, Count], place
        )
        return Funnel({int(code): rows for code, rows in patterns.items()})

    def _filter(self, shard: str) -> Funnel:
        stage, control = self._stage, self._stage.control
        with control.timing("read"):
            columns = [*stage.rows.schema.names]
            table = self._rows.read(shard, columns)
            ledger = self._folder.read_table(names.samples(shard), ["uid", "row", "status"])
        with control.timing("encode"):
            verdicts = self._judge(shard, table, ledger)
        if stage.writes:
            with control.timing("write"):
                self._write(shard, ledger, verdicts)
        return Funnel(verdicts.patterns)

    def _judge(self, shard: str, table: pa.Table, ledger: pa.Table) -> Verdicts:
        stage = self._stage
        rows = np.asarray(ledger["row"].to_numpy())
        clauses = iter(self._clause_states(shard, table))
        states = []
        for position in range(len(stage.steps)):
            if position in stage.memberships:
                inside = stage.memberships[position].contains(self._folder, shard, rows)
                passes = inside == (stage.steps[position].kind in PASSES_INSIDE)
                states.append(np.where(passes, PASS, FAIL).astype(np.int8))
            else:
                states.append(next(clauses))
        rescued = None
        for rescue in stage.rescues:
            inside = rescue.contains(self._folder, shard, rows)
            rescued = inside if rescued is None else rescued | inside
        if not states:
            states = [np.full(len(rows), PASS, np.int8)]
        return judge(stage.steps, states, rescued)

    def _clause_states(self, shard: str, table: pa.Table) -> list[np.ndarray]:
        """Return (N,) int8 states of each clause."""
        stage, database = self._stage, self._databases.own()
        try:
            for number, (quantity, thresholds) in stage.grouped.items():
                assert quantity.group is not None
                (groups,) = database.evaluate(table, [group_text(quantity.group)])
                column = thresholds.column(groups)
                table = table.append_column(f"{THRESHOLD}{number}", column)
            values = database.evaluate(table, stage.clauses)
        except UsageError as error:
            raise UsageError(
                f"where cannot be computed for shard {shard}: {error}; cast the column to a wider "
                "type, or test it before"
            ) from error
        return [_states(value) for value in values]

    def _write(self, shard: str, ledger: pa.Table, verdicts: Verdicts) -> None:
        stage = self._stage
        uid_type = ledger.schema.field("uid").type
        kept, dropped = map(np.flatnonzero, (verdicts.kept, ~verdicts.kept))
        footer = self._footer(shard, verdicts)
        reasons = _reasons(stage.steps, verdicts, ledger["status"], dropped)
        columns = [
            self._with_lists(shard, verdicts, reasons, dropped),
            pa.array(verdicts.step[dropped]),
            pa.array(verdicts.is_null[dropped]),
        ]
        for name, schema, rows, more in (
            (names.kept, kept_schema(uid_type), kept, []),
            (names.dropped, dropped_schema(uid_type), dropped, columns),
        ):
            uids, places = ledger["uid"].take(pa.array(rows)), ledger["row"].take(pa.array(rows))
            common = [uids, pa.repeat(shard, len(rows)), places]
            table = pa.Table.from_arrays([*common, *more], schema=schema)
            self._folder.write_table(
                name(stage.subset, stage.revision, shard),
                table,
                {**footer, footers.ROWS: str(len(rows))},
            )

    def _with_lists(
        self, shard: str, verdicts: Verdicts, reasons: pa.Array, dropped: np.ndarray
    ) -> pa.Array:
        """Return the reasons of the rows dropped, with the names of removal lists."""
        for position, membership in self._stage.memberships.items():
            removed = verdicts.step[dropped] == position + 1
            if isinstance(membership, RemovedRows) and removed.any():
                lists = membership.names(self._folder, shard).take(pa.array(dropped))
                texts = pc.binary_join_element_wise("removed by", lists, " ")
                reasons = pc.if_else(pa.array(removed), texts, reasons)
        return reasons

    def _footer(self, shard: str, verdicts: Verdicts) -> Footer:
        ledger = self._folder.read_footer(names.samples(shard))
        require_footer(self._folder, names.samples(shard), ledger)
        patterns = {str(code): rows for code, rows in sorted(verdicts.patterns.items())}
        return {
            footers.LAYOUT: footers.LAYOUT_VERSION,
            footers.FAMILY: "subset",
            footers.REVISION: self._stage.revision,
            footers.LEDGER_KEY: ledger_key(ledger),
            footers.SHARD: shard,
            footers.PATTERNS: canonical_json(patterns),
        }


def _states(values: pa.Array) -> np.ndarray:
    """Return (N,) int8: `PASS` for true, `FAIL` for false, `NULL` for NULL."""
    true = np.asarray(pc.fill_null(values, False).to_numpy(zero_copy_only=False), bool)
    null = np.asarray(values.is_null().to_numpy(zero_copy_only=False), bool)
    return np.where(true, PASS, np.where(null, NULL, FAIL)).astype(np.int8)


def _reasons(
    steps: Sequence[Step], verdicts: Verdicts, status: pa.ChunkedArray, rows: np.ndarray
) -> pa.Array:
    """Return (M,) reasons of the rows dropped; where a score is missing, the row's state too."""
    states, codes = [RowState.OK], np.zeros(len(status), np.int32)
    if verdicts.is_null.any():
        encoded = status.combine_chunks().dictionary_encode(null_encoding="encode")
        states = encoded.dictionary.to_pylist()
        codes = encoded.indices.to_numpy(zero_copy_only=False)
    # A text for every step, whether it is NULL, and state.
    texts = [
        step.reason(is_null) + (f" ({state})" if is_null and state != RowState.OK else "")
        for step in steps
        for is_null in (False, True)
        for state in states
    ]
    keys = ((verdicts.step[rows] - 1) * 2 + verdicts.is_null[rows]) * len(states) + codes[rows]
    return pa.DictionaryArray.from_arrays(
        pa.array(keys.astype(np.int32)), pa.array(texts, pa.string())
    ).dictionary_decode()
