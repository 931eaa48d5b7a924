"""The seam of every method: what a scorer needs, and which columns it adds.

A scorer sees arrays and nothing else: no Beam, no files, no device.  A new method is one file
with one class and one line in `registry.py`; other packages add theirs through the entry-point
group `clipsieve.scorers`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from clipsieve.statistics.base import Statistic


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
    """

    uid: pa.Array
    image: Embedded | None = None
    texts: Mapping[str, Embedded] = field(default_factory=dict)
    references: Mapping[str, References] = field(default_factory=dict)
    captions: Sequence[str | None] = ()

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.uid)


Fitted = Mapping[str, Any]
"""Values of a scorer's statistics over the whole dataset, by name; empty if nothing is fitted."""


class Scorer(Protocol):
    """One method of scoring pairs.

    Attributes:
      family: name of the column family on disk, `scores/<family>/`.
      needs: which inputs `score` reads.
      prompt: prefix put before captions (and references) when they are encoded; "" for none.
      columns: float32 columns it adds; field metadata `doc`, `direction`, `range`, `source`.
      version: raised whenever the meaning of a value changes; part of the revision.
    """

    family: str
    needs: frozenset[Input]
    prompt: str
    columns: pa.Schema
    version: int

    def parameters(self) -> Mapping[str, Any]:
        """Everything that changes the values, as JSON; part of the revision."""
        ...

    def statistics(self) -> Mapping[str, Statistic]:
        """Zero states of what must be summed over the dataset first; empty if nothing."""
        ...

    def score(self, batch: PairBatch, fitted: Fitted) -> Mapping[str, np.ndarray]:
        """One (N,) floating array a column; NaN where undefined, which is stored as NULL."""
        ...
