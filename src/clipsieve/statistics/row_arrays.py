"""Values of every row, collected from all batches and joined in the order of the dataset."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True)
class RowArrays:
    """Arrays of rows by the batch they come from; adding two collects the rows of both.

    Attributes:
      parts: by (shard, position of the first row), arrays by name; equal names everywhere.
    """

    parts: Mapping[tuple[str, int], Mapping[str, np.ndarray]] = field(default_factory=dict)

    def __add__(self, other: "RowArrays") -> "RowArrays":
        """Return the rows of both."""
        return RowArrays({**self.parts, **other.parts})

    def joined(self) -> dict[str, np.ndarray]:
        """Return each array whole: shards by name, rows by position."""
        ordered = [self.parts[key] for key in sorted(self.parts)]
        return {name: np.concatenate([part[name] for part in ordered]) for name in ordered[0]}
