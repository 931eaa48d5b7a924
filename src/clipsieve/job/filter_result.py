"""What a filter leaves: its result, and the parts of its description."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from clipsieve.select.thresholds import Thresholds, check_groups, group_text
from clipsieve.select.verdict import Step, StepKind
from clipsieve.sql.quantity import ORDERED_TYPES, THRESHOLD, Quantity
from clipsieve.sql.syntax import literal
from clipsieve.statistics.radix import ordered_bits, sorted_groups

#: Groups whose thresholds stand in the text of a clause.
WRITTEN_GROUPS = 20


@dataclass(frozen=True, slots=True)
class FilterResult:
    """How a filter ended.

    Attributes:
      name: of the subset; "" for a dry run without one.
      rows: rows of the ledger.
      kept: rows kept; `dropped`: all others.
      dropped: rows dropped.
      funnel: rows of the table `funnel`.
      overlaps: rows of the table `overlaps`.
      thresholds: rows of the table `thresholds`.
      resolved: the clauses with their thresholds, as SQL.
      path: of the subset; "" for a dry run.
      notes: what the user should know.
      exit_code: 0; 143 or 130 after a signal, 3 if a deadline left shards.
    """

    name: str
    rows: int = 0
    kept: int = 0
    dropped: int = 0
    funnel: tuple[Mapping[str, Any], ...] = ()
    overlaps: tuple[Mapping[str, Any], ...] = ()
    thresholds: tuple[Mapping[str, Any], ...] = ()
    resolved: tuple[str, ...] = ()
    path: str = ""
    notes: tuple[str, ...] = field(default=())
    exit_code: int = 0


def standalone_clauses(
    clauses: Sequence[str], grouped: Mapping[int, tuple[Quantity, Thresholds]], subset: str
) -> tuple[str, ...]:
    """Return clauses that run over the view `scores` by themselves.

    Args:
      clauses: in which thresholds by group are columns.
      grouped: quantities with groups and their thresholds, by number.
      subset: its name; the thresholds of many groups are looked up in the view `thresholds`.
    """

    def lookup(match: re.Match[str]) -> str:
        quantity, thresholds = grouped[int(match[1])]
        assert quantity.group is not None
        group = group_text(quantity.group)
        if len(thresholds.groups) > WRITTEN_GROUPS:
            return (
                f"(SELECT any_value(t.threshold)::{quantity.type} FROM thresholds t WHERE t.subset "
                f'= {literal(subset)} AND t.quantity = {literal(quantity.text)} AND t."group" IS '
                f"NOT DISTINCT FROM {group})"
            )
        pairs = zip(thresholds.groups, thresholds.values, strict=True)
        cases = " ".join(
            f"WHEN {group} IS NOT DISTINCT FROM {'NULL' if name is None else literal(name)} THEN "
            f"'{value}'::{quantity.type}"
            for name, value in pairs
        )
        return f"(CASE {cases} END)"

    return tuple(re.sub(rf"{THRESHOLD}(\d+)", lookup, clause) for clause in clauses)


def scanned_thresholds(
    quantity: Quantity, answer: Sequence[tuple[str | None, Any, int]]
) -> Thresholds:
    """Return thresholds in the order of their groups."""
    check_groups(quantity, len(answer))
    by_group = {group: (value, rows) for group, value, rows in answer}
    groups = sorted_groups(set(by_group))
    dtype = ORDERED_TYPES[quantity.type].to_pandas_dtype()
    values = pa.array([by_group[g][0] for g in groups], ORDERED_TYPES[quantity.type])
    bits = ordered_bits(values.to_numpy(zero_copy_only=False).astype(dtype))
    rows = tuple(by_group[group][1] for group in groups)
    return Thresholds(
        quantity.type, groups, tuple(bits.tolist()), tuple(map(quantity.rank, rows)), rows
    )


def described_steps(
    steps: Sequence[Step], resolved: Sequence[str]
) -> tuple[Mapping[str, Any], ...]:
    """Return steps as plain JSON, clauses with their thresholds."""
    clauses = iter(resolved)
    described = []
    for step in steps:
        entry: dict[str, Any] = {"kind": str(step.kind), "label": step.label}
        if step.kind is StepKind.CLAUSE:
            entry["resolved"] = next(clauses)
        described.append(entry)
    return tuple(described)


def notes_on(funnel: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what stands out: steps that drop nothing, or everything."""
    notes = []
    for row in funnel:
        if row["lost_alone"] == 0:
            notes.append(f"step {row['step']}, {row['label']}, is passed by every row")
        elif row["rows_in"] and row["rows_out"] == 0:
            notes.append(f"step {row['step']}, {row['label']}, drops every row that reaches it")
    return notes
