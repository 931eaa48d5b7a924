"""A dataset in memory with rows that a test gives by hand, and ordinary ones beside them."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.audit.data import ShardColumns

DIM = 16
SIMILARITY, KDIST, LARGE = "clip_similarity", "density_kdist", "density_kdist_large"


@dataclass(frozen=True)
class Item:
    """One row of the dataset.

    Attributes:
      uid: of the row.
      caption: as read.
      url: address.
      picture: its bytes; None for a row without a picture.
      phash: perceptual hash of it.
      vector: of the picture, of unit norm.
      values: of score columns; NaN where there is none.
    """

    uid: str
    caption: str | None
    url: str | None
    picture: bytes | None
    phash: int
    vector: np.ndarray
    values: Mapping[str, float]

    def but(self, **changes: Any) -> "Item":
        """The same row with other fields; names of score columns change values."""
        own = {name: changes.pop(name) for name in list(changes) if name in self.values}
        return dataclasses.replace(self, values={**self.values, **own}, **changes)


def copy_of(item: Item, original: Item) -> Item:
    """The row with the picture of another."""
    return item.but(picture=original.picture, phash=original.phash, vector=original.vector)


def ordinary_items(count: int, seed: int = 0) -> list[Item]:
    """Rows of different pictures and captions that share words and hosts, with ordinary scores."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    # A word says something about how well its pictures fit: an ordinary spread between groups.
    of_word = rng.normal(size=200) * 0.01
    words = rng.integers(0, 200, (count, 3))
    similarity = 0.3 + of_word[words].sum(axis=1) + rng.normal(size=count) * 0.03
    density = np.exp(rng.normal(size=count) * 0.2)
    letters = np.array(list("abcdefghijklmnopqrst"))
    names = ["".join(letters[list(divmod(n, 20))]) * 2 for n in range(200)]
    items = []
    for n in range(count):
        caption = " ".join([*(names[w] for w in words[n]), f"unique{_letters(n)}"])
        values = {
            SIMILARITY: float(similarity[n]),
            KDIST: float(density[n]),
            LARGE: float(density[n] * np.exp(rng.normal() * 0.05) * 0.8),
        }
        items.append(
            Item(
                f"u{n:05}",
                caption,
                f"http://host{n % 30}.example/{n}.jpg",
                f"picture {seed} {n}".encode(),
                int(rng.integers(1 << 63)),
                vectors[n].astype(np.float32),
                values,
            )
        )
    return items


def _letters(number: int) -> str:
    """A number in letters: captions with digits would have a template in common."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


class MemoryData:
    """The dataset of some rows in shards, as `clipsieve.audit.data.AuditData`."""

    def __init__(self, shards: Mapping[str, Sequence[Item]]) -> None:
        """Hold rows by shard."""
        self._shards = shards

    @classmethod
    def dealt(cls, items: Sequence[Item], shards: int) -> "MemoryData":
        """The rows dealt over so many shards."""
        return cls({f"s{n:02}": items[n::shards] for n in range(shards)})

    def uid(self, shard: str, row: int) -> str:
        """The uid of a row."""
        return self._shards[shard][row].uid

    def shards(self) -> list[str]:
        return sorted(self._shards)

    def each(self, read: Callable[[str], Any], names: Sequence[str]) -> Iterator[Any]:
        return map(read, names)

    def columns(self, name: str, values: Sequence[str]) -> ShardColumns:
        rows = self._shards[name]
        return ShardColumns(
            [row.caption for row in rows],
            [row.url for row in rows],
            np.array([_digest(row.picture) for row in rows], np.uint64),
            np.array([row.phash if row.picture else 0 for row in rows], np.uint64),
            np.array([row.picture is not None for row in rows], bool),
            {v: np.array([row.values[v] for row in rows], np.float32) for v in values},
        )

    def vectors(self, name: str, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        chosen = self._shards[name] if rows is None else [self._shards[name][n] for n in rows]
        unit = np.zeros((len(chosen), DIM), np.float32)
        for n, row in enumerate(chosen):
            if row.picture is not None:
                unit[n] = row.vector
        return unit, np.array([row.picture is not None for row in chosen], bool)

    def identities(self, name: str, rows: np.ndarray) -> pa.Table:
        chosen = [self._shards[name][n] for n in rows]
        texts = {
            "uid": [row.uid for row in chosen],
            "caption": [row.caption for row in chosen],
            "url": [row.url for row in chosen],
            "image_sha256": [row.picture and sha256(row.picture).hexdigest() for row in chosen],
        }
        return pa.table({key: pa.array(column, pa.string()) for key, column in texts.items()})


def _digest(picture: bytes | None) -> int:
    return int(sha256(picture).hexdigest()[:16], 16) if picture else 0
