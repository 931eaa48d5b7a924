"""The record that every reader yields: a run of consecutive rows of one shard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from clipsieve.schemas.states import RowFailure


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Consecutive rows of one shard, in source order; N rows, N >= 1.

    Attributes:
      start: index in the source (file or folder) of the first row, counted from 0; the first
        batch of a work item starts at `WorkItem.start`.
      images: N encoded images as found in the source; None where there are no bytes.
      captions: N captions; None where the source has NULL.  Bytes that are not UTF-8 are
        replaced by U+FFFD, and the row has an `INVALID_CAPTION` failure.
      failures: what the *source* already says of a row, by its position in this batch (0..N-1):
        `FETCH_FAILED`, `MISSING_IMAGE`, `INVALID_CAPTION`.  The decoder adds its own later.
      carried: N rows of all source columns that are not pixels, the uid and caption columns
        left out (they have their own place), in unified types.
      uids: N uids in the type of the source, or None where the source has no uid column.
      references: N lists of reference captions, or None if no references column was named.
    """

    start: int
    images: Sequence[bytes | None]
    captions: Sequence[str | None]
    carried: pa.Table
    failures: Mapping[int, RowFailure] = field(default_factory=dict)
    uids: pa.Array | None = None
    references: Sequence[Sequence[str]] | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.images)
