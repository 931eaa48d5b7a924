"""A sample of rows chosen by hash of uid: the same whatever the order, the split, the runner."""

from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from clipsieve.scorers.base import PairBatch

_HASHES = 2**64


def row_hashes(uids: pa.Array, seed: int = 0) -> np.ndarray:
    """Hash of each uid, uniform over all 64-bit numbers: blake2b salted with the seed.

    Args:
      uids: N uids of any type; text and bytes are hashed as they are, NULL as an empty text.
      seed: at least 0, under 2**64; another seed gives an independent order of the rows.

    Returns:
      (N,) uint64.  Rows with equal uids have equal hashes.

    >>> hashes = row_hashes(pa.array(["a", "b", "a"]))
    >>> (hashes[0] == hashes[2], hashes[0] == hashes[1])
    (np.True_, np.False_)
    """
    salt = seed.to_bytes(8, "little")
    texts = ("" if uid is None else uid for uid in uids.to_pylist())
    digests = b"".join(
        blake2b(
            text if isinstance(text, bytes) else str(text).encode(), digest_size=8, salt=salt
        ).digest()
        for text in texts
    )
    return np.frombuffer(digests, "<u8")


@dataclass(frozen=True, slots=True)
class Sample:
    """The `size` rows with a valid image whose uids hash lowest, with their embeddings.

    Rows are in the order of (hash, shard, row): of rows with one uid the first are taken.

    Attributes:
      size: rows wanted.
      seed: of the hash.
      with_texts: whether captions' embeddings are kept beside the images'.
      bound: rows with a hash above it are not taken; see `bounded`.
      seen: rows with a valid image that were looked at.
      hashes: (n,) uint64, n <= size.
      shards: (n,) names of shards; rows: (n,) int64, positions in them.
      images: (n, D) float32, as the model gave them.
      texts: (n, D) float32, likewise, zeros where the caption has no valid embedding; or (n, 0).
    """

    size: int
    seed: int = 0
    with_texts: bool = False
    bound: int = _HASHES - 1
    seen: int = 0
    hashes: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    shards: np.ndarray = field(default_factory=lambda: np.empty(0, np.str_))
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    images: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    texts: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))

    @classmethod
    def bounded(cls, size: int, seed: int, with_texts: bool, rows: int) -> "Sample":
        """An empty sample that takes hardly more rows of a dataset than it needs.

        A part of the dataset cannot know which of its rows will be among the lowest of all, but
        rows that hash far above the share that is wanted will not be.  The bound leaves room for
        eight standard deviations; `is_short` says if that was too little.

        Args:
          size: rows wanted.
          seed: of the hash.
          with_texts: whether captions are kept.
          rows: valid rows that the dataset has at least; 0 if that is not known.
        """
        wanted = size + 8 * size**0.5 + 8
        if wanted >= rows:
            return cls(size, seed, with_texts)
        return cls(size, seed, with_texts, bound=int(wanted / rows * _HASHES))

    @property
    def is_short(self) -> bool:
        """Whether the bound has kept rows out that belong into the sample."""
        return len(self.hashes) < min(self.size, self.seen)

    def of(self, batch: "PairBatch") -> "Sample":
        """The sample of the rows of `batch` alone."""
        assert batch.image is not None
        hashes = row_hashes(batch.uid, self.seed)
        chosen = np.flatnonzero(batch.image.valid & (hashes <= np.uint64(self.bound)))
        images = batch.image.vectors[chosen]
        texts = batch.texts[""].vectors[chosen] if self.with_texts else images[:, :0]
        return replace(
            self,
            seen=int(batch.image.valid.sum()),
            hashes=hashes[chosen],
            shards=np.full(len(chosen), batch.shard),
            rows=chosen.astype(np.int64),
            images=images,
            texts=texts,
        )._lowest()

    def __add__(self, other: "Sample") -> "Sample":
        """The sample of the rows of both."""
        if not len(self.hashes) or not len(other.hashes):
            longer = self if len(self.hashes) else other
            return replace(longer, seen=self.seen + other.seen)
        return replace(
            self,
            seen=self.seen + other.seen,
            hashes=np.concatenate([self.hashes, other.hashes]),
            shards=np.concatenate([self.shards, other.shards]),
            rows=np.concatenate([self.rows, other.rows]),
            images=np.concatenate([self.images, other.images]),
            texts=np.concatenate([self.texts, other.texts]),
        )._lowest()

    def _lowest(self) -> "Sample":
        """In order, and no longer than `size`."""
        order = np.lexsort((self.rows, self.shards, self.hashes))[: self.size]
        return replace(
            self,
            hashes=self.hashes[order],
            shards=self.shards[order],
            rows=self.rows[order],
            images=self.images[order],
            texts=self.texts[order],
        )
