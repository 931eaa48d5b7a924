"""Exact distances of chosen pairs of a query and a reference row."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from clipsieve.neighbours.metric import Metric, defined_distances, round_lengths


@dataclass(frozen=True, slots=True)
class PairMeter:
    """Measures pairs, a portion at a time, in memory that is used again.

    Fresh memory for each portion would cost a CPU more than the arithmetic.

    Attributes:
      rows: (R, D) float16 or float32 reference rows.
      metric: of the distances.
      near: (P, D) like `rows`, scratch; P is the size of a portion.
      wide: (P, D) float64, scratch.
      mine: (P, D) float64, scratch.
    """

    rows: torch.Tensor
    metric: Metric
    near: torch.Tensor
    wide: torch.Tensor
    mine: torch.Tensor

    @classmethod
    def of(cls, rows: torch.Tensor, metric: Metric, portion: int) -> "PairMeter":
        """A meter with scratch for `portion` pairs."""
        near = rows.new_empty(portion, rows.shape[1])
        wide = torch.empty_like(near, dtype=torch.float64)
        return cls(rows, metric, near, wide, torch.empty_like(wide))

    def measure(
        self, queries: torch.Tensor, owners: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        """Distances of pairs.

        Args:
          queries: (B, D) float64.
          owners: (P,) int64, which query.
          rows: (P,) int64, which reference row.

        Returns:
          (P,) float32.
        """
        if rows.device.type != "cpu":
            return self._defined(queries, owners, rows)
        # Lengths are quicker than sums by halves, and nearly always tell the same.
        lengths = torch.empty(len(rows), dtype=torch.float64)
        for mine, theirs, out in self._portions(owners, rows, lengths):
            torch.linalg.vector_norm(self._differences(queries, mine, theirs), dim=1, out=out)
        distances, unsure = round_lengths(lengths, queries.shape[1], self.metric)
        if len(unsure):
            distances[unsure] = self._defined(queries, owners[unsure], rows[unsure])
        return distances

    def _defined(
        self, queries: torch.Tensor, owners: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        """As `measure`, by definition."""
        distances = torch.empty(len(rows), device=rows.device)
        for mine, theirs, out in self._portions(owners, rows, distances):
            differences = self._differences(queries, mine, theirs)
            out.copy_(defined_distances(differences, self.metric))
        return distances

    def _portions(self, *tables: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """Views of all tables together, a portion of rows at a time."""
        return zip(*(torch.split(table, len(self.near)) for table in tables), strict=True)

    def _differences(
        self, queries: torch.Tensor, owners: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        """(P, D) row less query, in scratch."""
        near, wide, mine = self.near, self.wide, self.mine
        if len(rows) < len(near):
            near, wide, mine = near[: len(rows)], wide[: len(rows)], mine[: len(rows)]
        torch.index_select(self.rows, 0, rows, out=near)
        torch.index_select(queries, 0, owners, out=mine)
        return wide.copy_(near).sub_(mine)
