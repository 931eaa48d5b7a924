"""How the rows of clusters are dealt into passes over a dataset that fit into memory."""

import math
from dataclasses import dataclass

import numpy as np

from clipsieve.errors import UsageError

#: Passes over groups of clusters, at most: four of the 64 passes of a scorer are for the sample,
#: drawn again where it came out short, and the clusters.
MOST_GROUPS = 60
#: Bytes of a row in a pass beside its vectors: uid, position, cluster, cosine.
_ROW_BYTES = 128


@dataclass(frozen=True, slots=True)
class PassLimit:
    """Rows of a pass, and the groups of clusters that follow from it.

    Attributes:
      scorer: its name, for messages.
      memory_mib: MiB of a pass.
      dim: components of a vector; float32, once as collected and once in order.
    """

    scorer: str
    memory_mib: int
    dim: int

    @property
    def rows(self) -> int:
        """Rows that fit into a pass."""
        return (self.memory_mib << 20) // self._row_bytes

    def group_ends(self, counts: np.ndarray, first: int = 0) -> list[int]:
        """Return for each group of consecutive clusters the cluster after its last.

        A group takes clusters as long as their rows fit into a pass, and one at least.

        Args:
          counts: (K,) rows of each cluster.
          first: cluster to begin with, below K.
        """
        ends, total = [], 0
        for cluster, count in enumerate(counts.tolist()[first:], first):
            if total and total + count > self.rows:
                ends.append(cluster)
                total = 0
            total += count
        return [*ends, len(counts)]

    def check_rows(self, rows: int) -> None:
        """Refuse a dataset of more rows than fit into all passes.

        Raises:
          UsageError: says how many fit, and the least `memory_mib`.
        """
        fit = self.rows * MOST_GROUPS
        if rows > fit:
            raise self._too_small(
                f"learns of {rows} rows, and {fit} fit into {MOST_GROUPS} passes",
                math.ceil(rows / MOST_GROUPS),
            )

    def check_counts(self, counts: np.ndarray) -> None:
        """Refuse clusters that cannot be dealt into the passes.

        Args:
          counts: (K,) rows of each cluster, K >= 1.

        Raises:
          UsageError: if one does not fit into a pass, or all need more passes than there may be.
        """
        largest, groups = int(counts.max()), len(self.group_ends(counts))
        if largest > self.rows:
            raise self._too_small(
                f"has a cluster of {largest} rows, and {self.rows} fit into a pass",
                largest,
                ", or option clusters to more",
            )
        if groups > MOST_GROUPS:
            raise self._too_small(
                f"has clusters for {groups} passes of {self.rows} rows, and {MOST_GROUPS} are "
                "allowed",
                math.ceil(int(counts.sum()) / MOST_GROUPS) + largest,
            )

    @property
    def _row_bytes(self) -> int:
        return 2 * 4 * self.dim + _ROW_BYTES

    def _too_small(self, what: str, rows: int, other: str = "") -> UsageError:
        mib = -(-rows * self._row_bytes // (1 << 20))
        return UsageError(
            f"scorer {self.scorer} {what} of {self.memory_mib} MiB; set option memory_mib to "
            f"{mib} or more{other}"
        )
