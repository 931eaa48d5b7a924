"""A sample of rows chosen by hash of uid: the same whatever the order, the split, the engine."""

from dataclasses import dataclass, field, replace
from hashlib import blake2b

import numpy as np
import pyarrow as pa

from clipsieve.scorers.base import Context, Input, PairBatch

_HASHES = 2**64


def row_hashes(uids: pa.Array, seed: int = 0) -> np.ndarray:
    """Hash each uid, uniformly over all 64-bit numbers: blake2b salted with the seed.

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
class HashSample:
    """The `size` rows with a valid image whose uids hash lowest, with their embeddings.

    Attributes:
      size: rows to draw.
      seed: of the hash.
      texts: whether captions' embeddings are kept beside the images'.
      bound: rows with a hash above it are left out at once; see `bounded`.
    """

    size: int
    seed: int = 0
    texts: bool = False
    bound: int = _HASHES - 1

    @classmethod
    def bounded(cls, size: int, seed: int, texts: bool, rows: int) -> "HashSample":
        """Make a sample that takes hardly more rows of each part of a dataset than it needs.

        A part of the dataset cannot know which of its rows will be among the lowest of all, but
        rows that hash far above the share to be drawn will not be.  The bound leaves room for
        eight standard deviations; `SampleState.is_short` says if that was too little.

        Args:
          size: rows to draw.
          seed: of the hash.
          texts: whether captions are kept.
          rows: valid rows that the dataset has at least; 0 if that is not known.
        """
        enough = size + 8 * size**0.5 + 8
        if enough >= rows:
            return cls(size, seed, texts)
        return cls(size, seed, texts, bound=int(enough / rows * _HASHES))

    @property
    def needs(self) -> frozenset[Input]:
        """Image embeddings, and caption embeddings with `texts`."""
        return frozenset(
            {Input.IMAGE_EMBEDDING, Input.TEXT_EMBEDDING} if self.texts else {Input.IMAGE_EMBEDDING}
        )

    def observe(self, batch: PairBatch, context: Context) -> "SampleState":
        """Return the sample of the rows of `batch` alone."""
        assert batch.image is not None
        hashes = row_hashes(batch.uid, self.seed)
        rows = np.flatnonzero(batch.image.valid & (hashes <= np.uint64(self.bound)))
        images = batch.image.vectors[rows]
        return SampleState(
            size=self.size,
            seen=int(batch.image.valid.sum()),
            hashes=hashes[rows],
            shards=np.full(len(rows), batch.shard),
            rows=rows.astype(np.int64) + batch.start,
            images=images,
            texts=batch.texts[""].vectors[rows] if self.texts else images[:, :0],
        ).lowest()


@dataclass(frozen=True, slots=True)
class SampleState:
    """Rows of a sample, in the order of (hash, shard, row): of rows with one uid the first.

    Attributes:
      size: rows to draw.
      seen: rows with a valid image that were looked at.
      hashes: (n,) uint64, n <= size.
      shards: (n,) names of shards; rows: (n,) int64, positions in them.
      images: (n, D) float32, as the model gave them.
      texts: (n, D) float32, likewise, zeros where the caption has no valid embedding; or (n, 0).
    """

    size: int
    seen: int = 0
    hashes: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    shards: np.ndarray = field(default_factory=lambda: np.empty(0, np.str_))
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    images: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    texts: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))

    @property
    def is_short(self) -> bool:
        """Whether a bound has kept rows out that belong into the sample."""
        return len(self.hashes) < min(self.size, self.seen)

    def __add__(self, other: "SampleState") -> "SampleState":
        """Return the sample of the rows of both."""
        if not len(self.hashes) or not len(other.hashes):
            longer = self if len(self.hashes) else other
            return replace(longer, seen=self.seen + other.seen)
        return SampleState(
            size=self.size,
            seen=self.seen + other.seen,
            hashes=np.concatenate([self.hashes, other.hashes]),
            shards=np.concatenate([self.shards, other.shards]),
            rows=np.concatenate([self.rows, other.rows]),
            images=np.concatenate([self.images, other.images]),
            texts=np.concatenate([self.texts, other.texts]),
        ).lowest()

    def lowest(self) -> "SampleState":
        """Return the sample in order, and no longer than `size`."""
        order = np.lexsort((self.rows, self.shards, self.hashes))[: self.size]
        return replace(
            self,
            hashes=self.hashes[order],
            shards=self.shards[order],
            rows=self.rows[order],
            images=self.images[order],
            texts=self.texts[order],
        )
