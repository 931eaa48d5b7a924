"""Which kept rows go into which files: planned from counts alone, so workers change nothing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from clipsieve.formats.base import WorkItem
from clipsieve.store.canonical import short_hash


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive kept rows of one shard.

    Attributes:
      shard: its name.
      first: number of the first among the shard's kept rows, from 0.
      stop: number behind the last.
      item: where the shard's pictures are read; None where none are needed.
      source: position, among the sources of the export, of how they are read.
    """

    shard: str
    first: int
    stop: int
    item: WorkItem | None = None
    source: int = 0

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.stop - self.first


@dataclass(frozen=True, slots=True)
class Part:
    """What is written, or left, as one.

    Attributes:
      name: its own among the parts, safe as a file name.
      number: position among the parts.
      of: how many parts there are.
      spans: its rows, in order.
      key: hash of everything that decides the content of its files.
    """

    name: str
    number: int
    of: int
    spans: tuple[Span, ...]
    key: str = ""

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(span.rows for span in self.spans)

    def with_key(self, settings: Any, shards: Mapping[str, str]) -> "Part":
        """Return the part with its key.

        Args:
          settings: of the export, as plain JSON values.
          shards: hash of the content of each shard that is read; {} if only the subset is.
        """
        spans = [[span.shard, span.first, span.stop, shards.get(span.shard)] for span in self.spans]
        return replace(self, key=short_hash([settings, self.name, self.number, self.of, spans]))

    def to_json(self) -> str:
        """Return the part as one line of JSON."""
        spans = [
            [s.shard, s.first, s.stop, s.item.to_json() if s.item else None, s.source]
            for s in self.spans
        ]
        return json.dumps([self.name, self.number, self.of, spans, self.key])

    @classmethod
    def from_json(cls, text: str) -> "Part":
        """Return the part that `to_json` gave."""
        name, number, of, spans, key = json.loads(text)
        read = [
            Span(shard, first, stop, WorkItem.from_json(item) if item else None, source)
            for shard, first, stop, item, source in spans
        ]
        return cls(name, number, of, tuple(read), key)


def one_part(name: str, counts: Mapping[str, int]) -> tuple[Part, ...]:
    """Return one part with the kept rows of all shards.

    Args:
      name: of the part.
      counts: kept rows of each shard, in order.
    """
    return (Part(name, 0, 1, tuple(Span(s, 0, n) for s, n in counts.items() if n)),)


def shard_parts(counts: Mapping[str, int]) -> tuple[Part, ...]:
    """Return a part for each shard with kept rows; one without rows if no shard has any."""
    full = {shard: rows for shard, rows in counts.items() if rows}
    listed = full or dict(list(counts.items())[:1])
    return tuple(
        Part(shard, at, len(listed), (Span(shard, 0, rows),))
        for at, (shard, rows) in enumerate(listed.items())
    )


def even_parts(counts: Mapping[str, int], rows_each: int) -> tuple[Part, ...]:
    """Return parts of `rows_each` rows, the last of what is left; () for no rows.

    >>> [[s.rows for s in part.spans] for part in even_parts({"a": 3, "b": 0, "c": 4}, 5)]
    [[3, 2], [2]]
    """
    cut: list[list[Span]] = []
    room = 0
    for shard, rows in counts.items():
        first = 0
        while first < rows:
            if not room:
                cut.append([])
                room = rows_each
            stop = min(rows, first + room)
            cut[-1].append(Span(shard, first, stop))
            room -= stop - first
            first = stop
    return tuple(Part(f"{at:05d}", at, len(cut), tuple(spans)) for at, spans in enumerate(cut))
