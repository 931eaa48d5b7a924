"""Counts of rows by state: the ledger's totals."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RowCounts:
    """How many rows ended in each state; adding two merges shards.

    >>> total = RowCounts.of(["ok", "ok"]) + RowCounts.of(["ok", "decode_error"])
    >>> total.rows, dict(total.states)
    (4, {'decode_error': 1, 'ok': 3})
    """

    states: Mapping[str, int] = field(default_factory=dict)
    shards: int = 0

    @classmethod
    def of(cls, states: Iterable[str]) -> "RowCounts":
        """Counts of one shard whose rows have `states`."""
        return cls(dict(sorted(Counter(states).items())), shards=1)

    def __add__(self, other: "RowCounts") -> "RowCounts":
        """Counts of the rows of both."""
        total = Counter(self.states) + Counter(other.states)
        return RowCounts(dict(sorted(total.items())), self.shards + other.shards)

    @property
    def rows(self) -> int:
        """All rows, whatever their state."""
        return sum(self.states.values())

    def to_json(self) -> dict[str, object]:
        """`{"states": {...}, "shards": n}`."""
        return {"states": dict(self.states), "shards": self.shards}

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> "RowCounts":
        """The counts that `to_json` gave."""
        states, shards = value["states"], value["shards"]
        assert isinstance(states, Mapping) and isinstance(shards, int)
        return cls(dict(states), shards)
