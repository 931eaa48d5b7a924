"""What makes two rows equal: 128-bit keys of bytes, captions and perceptual hashes."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

import numpy as np

from clipsieve.scorers.base import Input, PairBatch


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of N rows; equal rows have equal keys.

    Attributes:
      values: (N, 2) uint64; 0 where not valid.
      valid: (N,) bool: whether the row has a key.
    """

    values: np.ndarray
    valid: np.ndarray

    @classmethod
    def of_valid(cls, values: np.ndarray, valid: np.ndarray) -> "Keys":
        """Take (M, 2) uint64 keys of the M valid rows of N."""
        spread = np.zeros((len(valid), 2), np.uint64)
        spread[valid] = values
        return cls(spread, valid)


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where keys come from; equal ones give equal keys.

    Attributes:
      keys: returns the keys of a batch.
      needs: the inputs that it reads.
    """

    keys: Callable[[PairBatch], Keys]
    needs: frozenset[Input]


class RowKeys(Protocol):
    """What `KeySource` is, and whatever else gives keys: hashable, equal if the keys are."""

    @property
    def needs(self) -> frozenset[Input]: ...  # noqa: D102

    @property
    def keys(self) -> Callable[[PairBatch], Keys]: ...  # noqa: D102


class KeyFilter(Protocol, Hashable):
    """Which keys are collected."""

    def __call__(self, keys: np.ndarray) -> np.ndarray:
        """Return (N,) bool for (N, 2) keys."""
        ...


def bytes_keys(batch: PairBatch) -> Keys:
    """First 128 bits of the sha256 of the encoded bytes; a row without bytes has no key."""
    assert batch.image_sha256 is not None
    digests = batch.image_sha256
    raw = bytes.fromhex("".join(digests.drop_null().to_pylist()))
    values = np.frombuffer(raw, ">u8").reshape(-1, 4)[:, :2]
    return Keys.of_valid(values, np.asarray(digests.is_valid()))


def caption_keys(batch: PairBatch) -> Keys:
    """128-bit blake2b of the caption in UTF-8, as it is; a blank or missing one has no key."""
    return batch.shared("caption keys", lambda: _caption_keys(batch.captions))


def phash_keys(batch: PairBatch) -> Keys:
    """The perceptual hash and 0; a picture that was not decoded has no key."""
    assert batch.image_phash is not None
    valid = np.asarray(batch.image_phash.is_valid())
    hashes = batch.image_phash.drop_null().to_numpy(zero_copy_only=False)
    return Keys.of_valid(np.stack([hashes, np.zeros_like(hashes)], axis=1), valid)


BYTES = KeySource(bytes_keys, frozenset({Input.IMAGE_HASHES}))
CAPTION = KeySource(caption_keys, frozenset({Input.CAPTION}))
PHASH = KeySource(phash_keys, frozenset({Input.IMAGE_HASHES}))


def _caption_keys(captions: Sequence[str | None]) -> Keys:
    valid = np.array([caption is not None and bool(caption.strip()) for caption in captions], bool)
    texts = (c for c, v in zip(captions, valid, strict=True) if v and c is not None)
    raw = b"".join(
        blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts
    )
    return Keys.of_valid(np.frombuffer(raw, ">u8").reshape(-1, 2), valid)
