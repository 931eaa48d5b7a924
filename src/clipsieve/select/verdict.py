"""Verdicts: which rows a filter keeps, and the first step that each other row fails.

Steps are tested in order: removal lists, the subset that is filtered, the clauses as written, other
subsets; `or` keeps rows of a subset whatever those say; what is subtracted comes last.  A step
passes a row, fails it, or is NULL for it, which fails it too and is a reason of its own.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations
from typing import Any

import numpy as np

PASS, FAIL, NULL = 0, 1, 2
#: States of rows are digits in base 3 of an int64, with a bit for `or`.
MAX_STEPS = 38
#: Codes up to which they are counted in an array.
_HISTOGRAM = 1 << 16


class StepKind(StrEnum):
    """What a step asks of a row."""

    REMOVED = "removed"  #: that it is on no removal list
    FROM = "from"  #: that the filtered subset keeps it
    CLAUSE = "clause"  #: that a clause is true
    AND = "and"  #: that another subset or list has it
    MINUS = "minus"  #: that another subset or list does not have it


#: Steps that rows inside a set pass; rows inside the sets of others fail.
PASSES_INSIDE = (StepKind.FROM, StepKind.AND)
#: Steps that `or` does not overrule.
_ABSOLUTE = (StepKind.REMOVED, StepKind.MINUS)


@dataclass(frozen=True, slots=True)
class Step:
    """One test.

    Attributes:
      kind: what it asks.
      label: clause, subset or list, as in messages.
    """

    kind: StepKind
    label: str

    def reason(self, is_null: bool) -> str:
        """Return why a row fails.

        >>> Step(StepKind.CLAUSE, "clip_score >= 0.7").reason(True)
        'clip_score >= 0.7 is NULL'
        """
        texts = {
            StepKind.REMOVED: f"removed by {self.label}",
            StepKind.FROM: f"not in {self.label}",
            StepKind.CLAUSE: self.label,
            StepKind.AND: f"not in {self.label}",
            StepKind.MINUS: f"in {self.label}",
        }
        return f"{texts[self.kind]} is NULL" if is_null else texts[self.kind]


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What becomes of N rows.

    Attributes:
      step: (N,) int16: number, from 1, of the first step that drops the row; 0 for rows kept.
      is_null: (N,) bool: whether that step is NULL there.
      patterns: rows by their states, see `Funnel`.
    """

    step: np.ndarray
    is_null: np.ndarray
    patterns: Mapping[int, int]

    @property
    def kept(self) -> np.ndarray:
        """(N,) bool: rows that are kept."""
        return np.asarray(self.step == 0)


def judge(
    steps: Sequence[Step],
    states: Sequence[np.ndarray] | np.ndarray,
    rescued: np.ndarray | None = None,
) -> Verdicts:
    """Return the verdicts on N rows.

    Args:
      steps: at most `MAX_STEPS`, in order.
      states: for each step (N,) of `PASS`, `FAIL` or `NULL`.
      rescued: (N,) bool: rows that `or` keeps; None if there is no `or`.
    """
    rows = len(states[0]) if len(states) else 0 if rescued is None else len(rescued)
    step = np.zeros(rows, np.int16)
    is_null = np.zeros(rows, bool)
    most = 2 * 3 ** len(steps)
    kind = np.dtype(np.int32 if most < 2**31 else np.int64)
    code = np.zeros(rows, kind) if rescued is None else rescued.astype(kind)
    for number in range(len(steps), 0, -1):
        state = states[number - 1]
        drops = state != PASS
        if rescued is not None and steps[number - 1].kind not in _ABSOLUTE:
            drops &= ~rescued
        step[drops] = number
        is_null[drops] = state[drops] == NULL
        code = code + state * kind.type(2 * 3 ** (number - 1))
    return Verdicts(step, is_null, _counted(code, most))


def _counted(codes: np.ndarray, most: int) -> dict[int, int]:
    """Return how often each code comes; all are below `most`."""
    if most <= _HISTOGRAM:  # no sort
        counts = np.bincount(codes, minlength=most)
        present = np.flatnonzero(counts)
        return dict(zip(present.tolist(), counts[present].tolist(), strict=True))
    values, counts = np.unique(codes, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class Funnel:
    """How many rows have which states; adding two counts the rows of both.

    Attributes:
      patterns: rows by code: bit 0 is `or`; the state of step i is digit i - 1 in base 3 above it.
    """

    patterns: Mapping[int, int] = field(default_factory=dict)

    def __add__(self, other: "Funnel") -> "Funnel":
        """Return the counts of the rows of both."""
        return Funnel(dict(Counter(self.patterns) + Counter(other.patterns)))

    @property
    def rows(self) -> int:
        """All rows."""
        return sum(self.patterns.values())

    def kept(self, steps: Sequence[Step]) -> int:
        """Return how many rows are kept."""
        return sum(rows for rows, _, step in self._decoded(steps) if step == 0)

    def table(self, steps: Sequence[Step]) -> list[dict[str, Any]]:
        """Return the rows of `funnel.parquet`: what each step drops, in order and alone."""
        decoded = list(self._decoded(steps))
        left, lines = self.rows, []
        for number, step in enumerate(steps, 1):
            lost = sum(rows for rows, _, first in decoded if first == number)
            null = sum(
                rows
                for rows, states, first in decoded
                if first == number and states[number - 1] == NULL
            )
            failing = [(rows, states) for rows, states, _ in decoded if states[number - 1] != PASS]
            only = sum(rows for rows, states in failing if _failed(states) == [number])
            lines.append(
                {
                    "step": number,
                    "kind": str(step.kind),
                    "label": step.label,
                    "rows_in": left,
                    "lost": lost,
                    "lost_null": null,
                    "lost_alone": sum(rows for rows, _ in failing),
                    "lost_only": only,
                    "rows_out": left - lost,
                }
            )
            left -= lost
        return lines

    def overlaps(self, steps: Sequence[Step]) -> list[dict[str, Any]]:
        """Return the rows of `overlaps.parquet`: rows by the set of steps they fail."""
        counts: Counter[tuple[int, ...]] = Counter()
        for rows, states, _ in self._decoded(steps):
            counts[tuple(_failed(states))] += rows
        ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        return [
            {
                "failed": list(failed),
                "labels": [steps[number - 1].label for number in failed],
                "rows": rows,
            }
            for failed, rows in ordered
        ]

    def pairs(self, steps: Sequence[Step]) -> dict[tuple[int, int], int]:
        """Return how many rows fail both of two steps, for every pair that some row fails."""
        counts: Counter[tuple[int, int]] = Counter()
        for rows, states, _ in self._decoded(steps):
            for pair in combinations(_failed(states), 2):
                counts[pair] += rows
        return dict(sorted(counts.items()))

    def _decoded(self, steps: Sequence[Step]) -> list[tuple[int, list[int], int]]:
        """Return rows, states and the step that drops them, of every pattern."""
        decoded = []
        for code, rows in sorted(self.patterns.items()):
            is_rescued, rest = bool(code & 1), code >> 1
            states = []
            for _ in steps:
                rest, state = divmod(rest, 3)
                states.append(state)
            dropping = [
                number
                for number in _failed(states)
                if not is_rescued or steps[number - 1].kind in _ABSOLUTE
            ]
            decoded.append((rows, states, dropping[0] if dropping else 0))
        return decoded


def _failed(states: Sequence[int]) -> list[int]:
    """Return the numbers of the steps that are not passed."""
    return [number for number, state in enumerate(states, 1) if state != PASS]
