"""Whether rows are in another subset, in a list of ids, or on a removal list of the folder."""

from dataclasses import dataclass

import numpy as np

from clipsieve.store.folder import OutputFolder
from clipsieve.store.subsets import Subset, kept_mask


@dataclass(frozen=True, slots=True)
class Membership:
    """A set of rows, as a value that travels, and whether to be in it passes.

    Attributes:
      subset: a subset of the folder.
      passes_inside: whether rows inside pass; else rows outside do.
    """

    subset: Subset
    passes_inside: bool = True

    @property
    def key(self) -> str:
        """What identifies the set's rows."""
        return f"{self.subset.name}/{self.subset.revision}/{self.passes_inside}"

    def passes(self, folder: OutputFolder, shard: str, rows: np.ndarray) -> np.ndarray:
        """Return (N,) bool: the rows of a shard that pass.

        Args:
          folder: the output folder.
          shard: its name.
          rows: (N,) int64, the ledger's `row` column, ascending.

        Raises:
          LedgerError: if the subset was made of other rows.
        """
        inside = kept_mask(folder, self.subset, shard, rows)
        return inside if self.passes_inside else ~inside
