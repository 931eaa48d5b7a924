"""The rows that a filter is about, shard by shard, with the columns it reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from clipsieve.select.membership import RemovedRows
from clipsieve.store.folder import OutputFolder
from clipsieve.store.glue import GluedShards, conformed
from clipsieve.store.subsets import Subset, kept_mask


@dataclass(frozen=True)
class FilterRows:
    """Where rows are read, as a value that travels.

    Attributes:
      out: the output folder, absolute.
      families: revision of each score family that is read.
      reserved: names that views give to scores.
      aliases: stored column of each other name under which the view `scores` shows it.
      schema: type of each column that is read, over all shards.
      base: the subset whose rows alone are ranked; None is all rows.
      removed: rows that removal lists name, which are not ranked; None without lists.
    """

    out: str
    families: Mapping[str, str]
    reserved: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    schema: pa.Schema = field(default_factory=lambda: pa.schema([]))
    base: Subset | None = None
    removed: RemovedRows | None = None

    def open(self) -> "ShardRows":
        """Return what reads them."""
        return ShardRows(self)


class ShardRows:
    """Reads the rows of shards."""

    def __init__(self, rows: FilterRows) -> None:
        """Open nothing yet."""
        self._rows = rows
        self.folder = OutputFolder.open(rows.out)
        self._glued = GluedShards(self.folder, rows.families, rows.reserved)

    def read(self, shard: str, columns: Sequence[str]) -> pa.Table:
        """Return columns of the N rows of a shard, in ledger order, in the types of all shards.

        A column that the shard does not have is NULL.

        Raises:
          LedgerError: if a file is missing or damaged.
        """
        aliases = self._rows.aliases
        stored = list(dict.fromkeys(["row", *(aliases.get(name, name) for name in columns)]))
        table = self._glued.read(shard, stored)
        present = {
            name: table[aliases.get(name, name)]
            for name in columns
            if aliases.get(name, name) in table.column_names
        }
        schema = pa.schema([self._rows.schema.field(name) for name in columns])
        if not columns:
            return table
        return conformed(_table(present, table.num_rows), schema)

    def ranked(self, shard: str) -> np.ndarray | None:
        """Return (N,) bool: rows that count for thresholds; None if all do."""
        base, removed = self._rows.base, self._rows.removed
        if base is None and removed is None:
            return None
        rows = np.asarray(self._glued.read(shard, ["row"])["row"].to_numpy())
        ranked = np.ones(len(rows), bool)
        if base is not None:
            ranked &= kept_mask(self.folder, base, shard, rows)
        if removed is not None:
            ranked &= ~removed.contains(self.folder, shard, rows)
        return ranked


def _table(columns: Mapping[str, pa.ChunkedArray], rows: int) -> pa.Table:
    """Return a table of so many rows, also of no column that is asked for."""
    if columns:
        return pa.table(dict(columns))
    return pa.table({"row": pa.nulls(rows, pa.int64())})
