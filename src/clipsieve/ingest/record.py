"""SHARDS/_ingest/list.json: which lists a folder of shards was made of."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from clipsieve.errors import LedgerError
from clipsieve.ingest.layout import RECORD
from clipsieve.store.files import LocalFiles

FORMAT = 1


@dataclass(frozen=True, slots=True)
class TakenList:
    """A list that was ingested.

    Attributes:
      hash: of its columns and of url, caption and carried values of its rows, in order.
      rows: how many it has.
      new_rows: those that the shards did not have before.
      first_shard: number of the first shard of its new rows.
      shards: how many there are of them.
    """

    hash: str
    rows: int
    new_rows: int
    first_shard: int
    shards: int


@dataclass(frozen=True, slots=True)
class Record:
    """What a folder of shards was made of.

    Attributes:
      columns: of the lists that are in the shards, by Arrow's names of their types.
      rows_per_shard: rows of a shard that is full.
      lists: that were taken, the first one first.
      clipsieve: version that wrote this.
    """

    columns: Mapping[str, str]
    rows_per_shard: int
    lists: Sequence[TakenList]
    clipsieve: str

    @property
    def shards(self) -> int:
        """How many shards there are in all, finished or not."""
        return sum(taken.shards for taken in self.lists)

    @property
    def rows(self) -> int:
        """How many rows all shards have."""
        return sum(taken.new_rows for taken in self.lists)

    def with_list(self, taken: TakenList, version: str) -> "Record":
        """Return the record with one more list."""
        return replace(self, lists=(*self.lists, taken), clipsieve=version)

    def rows_of(self, shard: int) -> int:
        """Return how many rows a shard has, or will have."""
        for taken in self.lists:
            if taken.first_shard <= shard < taken.first_shard + taken.shards:
                before = (shard - taken.first_shard) * self.rows_per_shard
                return min(self.rows_per_shard, taken.new_rows - before)
        raise ValueError(f"there is no shard {shard}")


def read_record(files: LocalFiles) -> Record | None:
    """Return the record of a folder; None if it has none.

    Raises:
      LedgerError: it is damaged.
    """
    try:
        content: Any = json.loads(files.read(RECORD))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']} is not {FORMAT}")
        lists = tuple(TakenList(**taken) for taken in content["lists"])
        return Record(
            dict(content["columns"]), content["rows_per_shard"], lists, content["clipsieve"]
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(
            f"{files.path(RECORD)} is damaged: {error}; put a copy of it back, or ingest into "
            "another folder"
        ) from error


def write_record(files: LocalFiles, record: Record) -> None:
    """Write the record of a folder."""
    content = {"format": FORMAT, **asdict(record)}
    with files.writing(RECORD) as path:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
