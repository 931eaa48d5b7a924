"""The seam of every method: what a scorer needs, and which columns it adds.

A scorer sees arrays and nothing else: no Beam, no files, no device.  A new method is one file
with one class and one line in `registry.py`; other packages add theirs through the entry-point
group `clipsieve.scorers`.

What must be known of the whole dataset before a row can be scored is asked for in two ways:
`statistics` are states summed over all rows, and `references` are sets of rows among which the
neighbours of each row are sought.  A scorer that asks for either is *fitted*: once, before the
first row is scored, and recorded, so that rows that come later are scored alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from clipsieve.neighbours.lists import NeighbourLists
from clipsieve.neighbours.metric import Metric
from clipsieve.statistics.base import PairStatistic


class Input(StrEnum):
    """What a scorer may ask for."""

    IMAGE_EMBEDDING = "image_embedding"
    TEXT_EMBEDDING = "text_embedding"
    REFERENCE_EMBEDDINGS = "reference_embeddings"
    CAPTION = "caption"


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors of N rows, some of which may be missing.

    Attributes:
      vectors: (N, D) float32, as the model gave them: unit norm is not assumed.  Rows that are
        not valid hold zeros.
      valid: (N,) bool.
    """

    vectors: np.ndarray
    valid: np.ndarray

    @classmethod
    def gather(cls, features: np.ndarray, rows: np.ndarray) -> "Embedded":
        """Row `rows[i]` of `features` for each i.

        Args:
          features: (M, D) float32, M >= 0.
          rows: (N,) int64; -1 is a missing vector.

        Returns:
          N vectors; also missing where the feature is not finite, or zero.
        """
        usable = np.isfinite(features).all(axis=1) & features.any(axis=1)
        valid = np.append(usable, False)[rows]
        padding = np.zeros((1, features.shape[1]), np.float32)
        vectors = np.concatenate([features, padding])[rows]
        vectors[~valid] = 0
        return cls(vectors, valid)

    def unit(self) -> np.ndarray:
        """(N, D) float64 vectors of unit norm, normalised in float64; zeros where not valid."""
        wide = self.vectors.astype(np.float64)
        norms = np.linalg.norm(wide, axis=1, keepdims=True)
        unit = np.zeros_like(wide)
        np.divide(wide, norms, out=unit, where=norms > 0)
        return unit


@dataclass(frozen=True, slots=True)
class References:
    """Reference captions of N rows, encoded: row i owns `vectors[offsets[i]:offsets[i + 1]]`.

    Attributes:
      embedded: the vectors of all references one after the other, R rows.
      offsets: (N + 1,) int64, rising from 0 to R.  A row may own none.
    """

    embedded: Embedded
    offsets: np.ndarray

    @classmethod
    def encoded(
        cls,
        encode: Callable[[Sequence[str]], np.ndarray],
        lists: Sequence[Sequence[str | None]],
    ) -> "References":
        """References of N rows, each distinct text encoded once; blank ones are missing.

        Args:
          encode: maps M texts to (M, D) float32.
          lists: N lists of reference captions.
        """
        offsets = np.concatenate([[0], np.cumsum([len(refs) for refs in lists])]).astype(np.int64)
        flat = [ref or "" for refs in lists for ref in refs]
        numbers = {ref: at for at, ref in enumerate(sorted({r for r in flat if r.strip()}))}
        rows = np.array([numbers.get(ref, -1) for ref in flat], dtype=np.int64)
        return cls(Embedded.gather(encode(list(numbers)), rows), offsets)


@dataclass(frozen=True, slots=True)
class PairBatch:
    """N image-text pairs as arrays, in source order.

    Attributes:
      uid: N uids, in the type of the source.
      image: image embeddings, or None if no scorer asked for them.
      texts: caption embeddings by prompt prefix; `texts[""]` is the caption as it is.
      references: encoded reference captions by prompt prefix.
      captions: N captions; None where missing.
      shard: name of the shard whose rows these are, from its first row on.
      neighbours: what was found for each of the scorer's `references`, by name; rows without a
        valid image have none.
    """

    uid: pa.Array
    image: Embedded | None = None
    texts: Mapping[str, Embedded] = field(default_factory=dict)
    references: Mapping[str, References] = field(default_factory=dict)
    captions: Sequence[str | None] = ()
    shard: str = ""
    neighbours: Mapping[str, NeighbourLists] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.uid)


@dataclass(frozen=True, slots=True)
class ReferenceSet:
    """Rows of the dataset among which a scorer wants the neighbours of every row.

    A row is never its own neighbour, nor is its caption's vector.

    Attributes:
      k: neighbours of each row, at least 1.
      size: rows of the set, those whose uids hash lowest; None is every row of the dataset.
      batch: with `size`, the dataset is dealt into batches of about that many rows by the hash of
        the uid, and a row's neighbours are sought in its own batch.
      seed: of the hash.
      metric: `euclidean`, on vectors as the model gave them, or `cosine`, which is 1 - cos.
      texts: whether the captions of the set's rows are in it beside their images.
    """

    k: int
    size: int | None
    batch: bool = False
    seed: int = 0
    metric: Metric = "euclidean"
    texts: bool = False

    @property
    def is_sample(self) -> bool:
        """Whether the set is a sample of rows, the same for all."""
        return self.size is not None and not self.batch


Fitted = Mapping[str, np.ndarray]
"""What a scorer learnt of the whole dataset, by name; empty if it learns nothing.

The arrays that `fit` returned, and under `<reference>.<name>` those of `describe`: one value a
vector of that set, in the numbering of `PairBatch.neighbours`.
"""


class Scorer(Protocol):
    """One method of scoring pairs; inherit from it for the defaults of what is seldom needed.

    Attributes:
      family: name of the column family on disk, `scores/<family>/`.
      needs: which inputs `score` reads.
      prompt: prefix put before captions (and references) when they are encoded; "" for none.
      columns: float32 columns it adds; field metadata `doc`, `direction`, `range`, `source`.
      version: raised whenever the meaning of a value changes; part of the revision.
    """

    family: str
    needs: frozenset[Input]
    prompt: str = ""
    columns: pa.Schema
    version: int = 1

    def parameters(self) -> Mapping[str, Any]:
        """Everything that changes the values, as JSON; part of the revision."""
        return {}

    def statistics(self) -> Mapping[str, PairStatistic]:
        """Zero states of what must be summed over the dataset first; none if nothing."""
        return {}

    def references(self, rows: int) -> Mapping[str, ReferenceSet]:
        """Sets of rows whose nearest neighbours `score` reads; none if nothing.

        Args:
          rows: rows in state `ok` of the dataset that is fitted.
        """
        return {}

    def fit(self, merged: Mapping[str, PairStatistic]) -> Mapping[str, np.ndarray]:
        """Arrays to keep of the sums over the dataset of `statistics`."""
        return {}

    def describe(self, neighbours: NeighbourLists) -> Mapping[str, np.ndarray]:
        """What `score` must know of each vector of a reference set: one array a name.

        Args:
          neighbours: of each of V vectors of a set, among the others.

        Returns:
          (V,) arrays; each value depends on that vector's own list only.
        """
        return {}

    def score(self, batch: PairBatch, fitted: Fitted) -> Mapping[str, np.ndarray]:
        """One (N,) floating array a column; NaN where undefined, which is stored as NULL."""
        ...


def is_fitted(scorer: Scorer) -> bool:
    """Whether `scorer` must see the whole dataset before it can score a row."""
    return bool(scorer.statistics() or scorer.references(0))


def score_column(name: str, doc: str, direction: str, value_range: str, source: str) -> pa.Field:
    """A float32 column of scores with its meaning as metadata."""
    metadata = {"doc": doc, "direction": direction, "range": value_range, "source": source}
    return pa.field(name, pa.float32(), metadata=metadata)
