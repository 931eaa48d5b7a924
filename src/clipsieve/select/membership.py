"""Sets of rows that a filter names: other subsets, lists of ids, the folder's removal lists."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from clipsieve.select.id_lists import read_id_list
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.id_values import needed_columns
from clipsieve.store.ids import IdList
from clipsieve.store.removals import removed_column
from clipsieve.store.subsets import Subset, kept_mask


class Membership(ABC):
    """A set of rows, as a value that travels."""

    @property
    @abstractmethod
    def key(self) -> str:
        """What identifies the set's rows."""

    @abstractmethod
    def contains(self, folder: OutputFolder, shard: str, rows: np.ndarray) -> np.ndarray:
        """Return (N,) bool: the rows of a shard that are in the set.

        Args:
          folder: the output folder.
          shard: its name.
          rows: (N,) int64, the ledger's `row` column, ascending.
        """


@dataclass(frozen=True, slots=True)
class SubsetRows(Membership):
    """The rows that a subset keeps."""

    subset: Subset

    @property
    def key(self) -> str:
        """Name and revision."""
        return f"subset/{self.subset.name}/{self.subset.revision}"

    def contains(self, folder: OutputFolder, shard: str, rows: np.ndarray) -> np.ndarray:
        """Read what is kept; raises LedgerError if the subset was made of other rows."""
        return kept_mask(folder, self.subset, shard, rows)


@dataclass(frozen=True, slots=True)
class ListRows(Membership):
    """The rows that a file of ids names.

    Attributes:
      path: of the file, absolute; every worker reads it.
      by: kind of the ids.
      sha256: of the file.
    """

    path: str
    by: str
    sha256: str

    @property
    def key(self) -> str:
        """Kind of the ids, and hash of the file."""
        return f"list/{self.by}/{self.sha256}"

    def contains(self, folder: OutputFolder, shard: str, rows: np.ndarray) -> np.ndarray:
        """Look for the ids of the rows; raises UsageError if the ledger lacks their columns."""
        ids, ledger = _read_list(self.path, self.by, self.sha256), names.samples(shard)
        place = folder.files.url(ledger)
        columns = needed_columns(ids.kind, folder.read_schema(ledger).names, place)
        return ids.matches(folder.read_table(ledger, columns), place)


@dataclass(frozen=True, slots=True)
class RemovedRows(Membership):
    """The rows that the folder's removal lists name.

    Attributes:
      removals: id of the lists.
    """

    removals: str

    @property
    def key(self) -> str:
        """Id of the lists."""
        return f"removals/{self.removals}"

    def names(self, folder: OutputFolder, shard: str) -> pa.Array:
        """Return (N,) text: name of the first list that names a row; NULL if none does."""
        return removed_column(folder, shard, self.removals)

    def contains(self, folder: OutputFolder, shard: str, rows: np.ndarray) -> np.ndarray:
        """Read which rows were found; raises LedgerError if they were not looked for yet."""
        named = self.names(folder, shard).is_valid()
        return np.asarray(named.to_numpy(zero_copy_only=False), bool)


@lru_cache(maxsize=8)
def _read_list(path: str, by: str, sha256: str) -> IdList:
    """Return the ids of a file; once a process for each content."""
    return read_id_list(path, by)
