"""How cases ended, and their sums."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

#: Words for what a case shows; one case may show several.
SURVIVED, DETECTED, REPAIRED, LOST = "survived", "detected", "repaired", "lost"


@dataclass(frozen=True)
class Outcome:
    """One case.

    Attributes:
      kind: "kills", "rot", ...
      number: with the kind and the same code, makes the case again.
      what: what went wrong where, in words.
      faults: kills, damaged files or mutated files in the case.
      marks: of `SURVIVED`, `DETECTED`, `REPAIRED`, `LOST`.
      problems: what a user would not accept, in words; empty if all is well.
      seconds: the case took.
      notes: what was said and done, for who replays the case.
    """

    kind: str
    number: int
    what: str
    faults: int = 1
    marks: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    seconds: float = 0.0
    notes: tuple[str, ...] = field(default=(), compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass
class Totals:
    """Sums over the cases of one kind."""

    cases: int = 0
    faults: int = 0
    survived: int = 0
    detected: int = 0
    repaired: int = 0
    lost: int = 0
    tracebacks: int = 0
    hung: int = 0
    with_problems: int = 0
    seconds: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count one case."""
        self.cases += 1
        self.faults += outcome.faults
        for mark in outcome.marks:
            setattr(self, mark, getattr(self, mark) + 1)
        self.tracebacks += any("traceback" in problem for problem in outcome.problems)
        self.hung += any(problem.startswith("hung") for problem in outcome.problems)
        self.with_problems += bool(outcome.problems)
        self.seconds += outcome.seconds


COLUMNS = (
    "cases",
    "faults",
    "survived",
    "detected",
    "repaired",
    "lost",
    "tracebacks",
    "hung",
    "with_problems",
)


def totals(outcomes: Iterable[Outcome]) -> dict[str, Totals]:
    """Sums by kind, in the order in which kinds come."""
    sums: dict[str, Totals] = {}
    for outcome in outcomes:
        sums.setdefault(outcome.kind, Totals()).add(outcome)
    return sums


def markdown(sums: dict[str, Totals]) -> str:
    """Return the table of docs/reliability.md."""
    lines = ["| kind | " + " | ".join(c.replace("_", " ") for c in COLUMNS) + " | minutes |"]
    lines.append("|---|" + "---:|" * (len(COLUMNS) + 1))
    for kind, total in sums.items():
        values = (f"{getattr(total, column):,}" for column in COLUMNS)
        lines.append(f"| {kind} | " + " | ".join(values) + f" | {total.seconds / 60:.1f} |")
    return "\n".join(lines)


def commonest_problems(outcomes: Iterable[Outcome], count: int = 20) -> list[str]:
    """Problems without the numbers in them, most often seen first, with a case to replay."""
    seen: Counter[str] = Counter()
    example: dict[str, Outcome] = {}
    for outcome in outcomes:
        for problem in outcome.problems:
            seen[key := f"{outcome.kind}: {problem[:110]}"] += 1
            example.setdefault(key, outcome)
    return [f"{n:5}  {key}  [case {example[key].number}]" for key, n in seen.most_common(count)]
