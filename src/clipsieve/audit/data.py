"""What an audit reads of a dataset, shard by shard."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import pyarrow as pa

T = TypeVar("T")

#: Bytes of image vectors that are kept in memory.
KEPT_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class ShardColumns:
    """Narrow columns of the N rows of a shard.

    Attributes:
      captions: as read.
      urls: addresses; None where the source has none.
      image_bytes: (N,) uint64 of the digest of the encoded picture; 0 where there is none.
      image_hashes: (N,) uint64 perceptual hashes.
      has_hash: (N,) bool: which rows have one.
      values: (N,) float32 by column, NaN where NULL.
    """

    captions: Sequence[str | None]
    urls: Sequence[str | None]
    image_bytes: np.ndarray
    image_hashes: np.ndarray
    has_hash: np.ndarray
    values: Mapping[str, np.ndarray]


class AuditData(Protocol):
    """A dataset with scores and image embeddings."""

    def shards(self) -> Sequence[str]:
        """Names of the shards, in order."""
        ...

    def each(self, read: Callable[[str], T], names: Sequence[str]) -> Iterator[T]:
        """Yield `read` of each shard, in order."""
        ...

    def columns(self, name: str, values: Sequence[str]) -> ShardColumns:
        """Read the narrow columns of a shard, and `values` of its scores."""
        ...

    def vectors(self, name: str, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(N, D) float32 image vectors of unit norm, and (N,) bool: which rows have one.

        Args:
          name: of the shard.
          rows: (N,) numbers of rows, rising; None is all of them.
        """
        ...

    def identities(self, name: str, rows: np.ndarray) -> pa.Table:
        """`uid`, `caption`, `url` and `image_sha256` of some rows (ascending)."""
        ...


class KeptVectors:
    """A dataset whose image vectors are kept in memory once they were read, up to a bound.

    An audit asks for them three times: of rows that may be representatives, of all rows, and of
    the rows of groups.
    """

    def __init__(self, data: AuditData, most_bytes: int = KEPT_BYTES) -> None:
        """Keep at most `most_bytes` of the vectors of `data`."""
        self._data, self._left = data, most_bytes
        self._kept: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def shards(self) -> Sequence[str]:
        """Names of the shards, in order."""
        return self._data.shards()

    def each(self, read: Callable[[str], T], names: Sequence[str]) -> Iterator[T]:
        """Yield `read` of each shard, in order."""
        return self._data.each(read, names)

    def columns(self, name: str, values: Sequence[str]) -> ShardColumns:
        """Read the narrow columns of a shard, and `values` of its scores."""
        return self._data.columns(name, values)

    def identities(self, name: str, rows: np.ndarray) -> pa.Table:
        """`uid`, `caption`, `url` and `image_sha256` of some rows (ascending)."""
        return self._data.identities(name, rows)

    def vectors(self, name: str, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See `AuditData`; reads all rows of a shard while there is room to keep them."""
        if name not in self._kept:
            if self._left <= 0:
                return self._data.vectors(name, rows)
            self._kept[name] = self._data.vectors(name)
            self._left -= self._kept[name][0].nbytes
        unit, valid = self._kept[name]
        return (unit, valid) if rows is None else (unit[rows], valid[rows])
