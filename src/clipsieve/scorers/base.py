"""The seam of every method: what a scorer needs, what it learns, and which columns it adds.

A scorer sees arrays and nothing else: no Beam, no files.  A new method is one file with one class
and one line in `registry.py`; other packages add theirs through the entry-point group
`clipsieve.scorers`.

What must be known of the whole dataset before a row can be scored is learnt first: `statistics`
are observed over all rows and summed, `learn` makes arrays of the sums, and the scorer is asked
again until it asks for no more.  The arrays are recorded, so that rows that come later are scored
alike.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
import pyarrow as pa

from clipsieve.clip.prompt_set import PromptSet as PromptSet
from clipsieve.clip.prompt_set import TextMap as TextMap
from clipsieve.store.canonical import short_hash

if TYPE_CHECKING:
    from clipsieve.neighbours.lists import NeighbourLists
    from clipsieve.neighbours.metric import Metric

T = TypeVar("T")
Arrays = Mapping[str, np.ndarray]
"""What a scorer learnt, by name."""


class Input(StrEnum):
    """What a scorer or a statistic may read of a batch."""

    IMAGE_EMBEDDING = "image_embedding"
    TEXT_EMBEDDING = "text_embedding"
    REFERENCE_EMBEDDINGS = "reference_embeddings"
    CAPTION = "caption"
    NEIGHBOURS = "neighbours"
    IMAGE_HASHES = "image_hashes"
    CLIP_SCORE = "clip_score"


class Embedded:
    """Vectors of N rows, some of which may be missing; not to be written to.

    Attributes:
      vectors: (N, D) float32, as the model gave them: unit norm is not assumed.  Rows that are
        not valid hold zeros.
      valid: (N,) bool.
    """

    def __init__(self, vectors: np.ndarray, valid: np.ndarray) -> None:
        """Take (N, D) float32 vectors, and which of them are there."""
        self.vectors, self.valid = vectors, valid

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.valid)

    @classmethod
    def gather(cls, features: np.ndarray, rows: np.ndarray) -> "Embedded":
        """Take row `rows[i]` of `features` for each i.

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
        return Embedded(vectors, valid)

    def unit(self) -> np.ndarray:
        """Return (N, D) float64 vectors of unit norm; zeros where not valid.

        Normalised in float64, once for all who ask: do not write to the result.
        """
        return self._unit

    def norms(self) -> np.ndarray:
        """Return (N,) float64 Euclidean norms, computed once; 0 where not valid."""
        return self._norms

    def part(self, rows: slice) -> "Embedded":
        """Return some consecutive rows."""
        return Embedded(self.vectors[rows], self.valid[rows])

    @cached_property
    def _norms(self) -> np.ndarray:
        return np.asarray(np.linalg.norm(self.vectors.astype(np.float64), axis=1))

    @cached_property
    def _unit(self) -> np.ndarray:
        return unit_rows(self.vectors)


class StoredEmbedded(Embedded):
    """Vectors as an output folder keeps them: unit norm in float16, and the norms apart.

    What `unit` returns is normalised from the stored values themselves; `vectors` is made of both
    when it is asked for.
    """

    def __init__(self, stored: np.ndarray, norms: np.ndarray, valid: np.ndarray) -> None:
        """Take what is stored.

        Args:
          stored: (N, D) float16, about unit norm; zeros where not valid.
          norms: (N,) norms of the model's output; 0 where not valid.
          valid: (N,) bool.
        """
        self._stored, self._stored_norms, self.valid = stored, norms, valid

    @cached_property
    def vectors(self) -> np.ndarray:  # type: ignore[override]
        """Return (N, D) float32, as the model gave them up to the rounding to float16."""
        vectors: np.ndarray = (self.unit() * self._stored_norms[:, None]).astype(np.float32)
        return vectors

    def part(self, rows: slice) -> "Embedded":
        """Return some consecutive rows."""
        return StoredEmbedded(self._stored[rows], self._stored_norms[rows], self.valid[rows])

    @cached_property
    def _unit(self) -> np.ndarray:
        return unit_rows(self._stored)


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Return (N, D) float64 rows of unit norm; a row of zeros stays one.

    Args:
      vectors: (N, D), of any floating type and finite norm.
    """
    wide = vectors.astype(np.float64)
    norms = np.sqrt(np.vecdot(wide, wide))
    norms[norms == 0] = 1.0
    return np.asarray(np.divide(wide, norms[:, None], out=wide))


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
    def encode(
        cls,
        encode: Callable[[Sequence[str]], np.ndarray],
        lists: Sequence[Sequence[str | None]],
    ) -> "References":
        """Encode references of N rows, each distinct text once; blank ones are missing.

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
class NeighbourSpec:
    """Nearest neighbours of every row among the whole dataset, as a scorer asks for them.

    A row is never its own neighbour, nor is its caption's vector.

    Attributes:
      k: neighbours of each row, at least 1.
      batch: None: among all rows.  Else the dataset is dealt into batches of about that many rows
        by the hash of the uid, and a row's neighbours are those of its own batch.
      seed: of the hash.
      metric: `euclidean`, on vectors as the model gave them, or `cosine`, which is 1 - cos.
      texts: whether captions are among the neighbours beside images; captions then have lists too.
    """

    k: int
    batch: int | None = None
    seed: int = 0
    metric: "Metric" = "euclidean"
    texts: bool = False

    @property
    def key(self) -> str:
        """Hash of the specification."""
        return short_hash([self.k, self.batch, self.seed, self.metric, self.texts])


@dataclass(frozen=True)
class PairBatch:
    """N image-text pairs as arrays, consecutive rows of one shard.

    What several scorers want of a batch is computed once: unit vectors and norms (`Embedded`),
    cosines with a prompt set, and anything else through `shared`.

    Attributes:
      uid: N uids, in the type of the source.
      image: image embeddings; None if nobody asked for them.
      texts: caption embeddings by prompt prefix; `texts[""]` is the caption as it is.
      references: encoded reference captions by prompt prefix.
      captions: N captions; None where missing.
      columns: N values of each source column that a statistic names; None where missing.
      shard: name of the shard.
      start: position of the first row in it.
      prototypes: (K, D) float64, unit rows unless the set says otherwise, by prompt set.
      neighbours: lists of the N images, by specification.
      caption_neighbours: lists of the N captions, for specifications with `texts`.
      image_sha256: N strings of 64 hex digits, NULL without bytes; None if nobody asked for them.
      image_phash: N perceptual hashes, uint64, NULL if not decoded; None if nobody asked for them.
      clip_score: (N,) float32 as stored with the embeddings, NaN where it is NULL; None if nobody
        asked for it.
    """

    uid: pa.Array
    image: Embedded | None = None
    texts: Mapping[str, Embedded] = field(default_factory=dict)
    references: Mapping[str, References] = field(default_factory=dict)
    captions: Sequence[str | None] = ()
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    shard: str = ""
    start: int = 0
    prototypes: Mapping[PromptSet, np.ndarray] = field(default_factory=dict)
    neighbours: Mapping[NeighbourSpec, "NeighbourLists"] = field(default_factory=dict)
    caption_neighbours: Mapping[NeighbourSpec, "NeighbourLists"] = field(default_factory=dict)
    image_sha256: pa.Array | None = None
    image_phash: pa.Array | None = None
    clip_score: np.ndarray | None = None
    #: Shared by copies that differ in their neighbours only.
    _shared: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.uid)

    def image_cosines(self, prompts: PromptSet) -> np.ndarray:
        """Return cosines of each image with each class: (N, K) float64; NaN rows without image.

        Computed once for all who ask: do not write to the result.
        """
        assert self.image is not None
        return self._cosine("image", self.image, prompts)

    def text_cosines(self, prompts: PromptSet) -> np.ndarray:
        """Return cosines of each caption with each class; see `image_cosines`."""
        return self._cosine("text", self.texts[""], prompts)

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` returns, computed once for all scorers that ask under the same key.

        Args:
          key: everything that decides the value, beside the batch itself.
          make: called by the first who asks; do not write to its result.
        """
        if key not in self._shared:
            self._shared[key] = make()
        value: T = self._shared[key]
        return value

    def _cosine(self, side: str, embedded: Embedded, prompts: PromptSet) -> np.ndarray:
        def make() -> np.ndarray:
            cosines: np.ndarray = embedded.unit() @ self.prototypes[prompts].T
            np.clip(cosines, -1.0, 1.0, out=cosines)
            if not embedded.valid.all():
                cosines[~embedded.valid] = np.nan
            return cosines

        return self.shared(("cosines", side, prompts), make)


@dataclass(frozen=True, slots=True)
class Context:
    """What a scorer may know beside the rows.

    Attributes:
      dim: components of an embedding.
      rows: rows in state `ok` of the dataset that is learnt from.
      logit_scale: the factor that the model multiplies cosines with.
      device: for heavy computations: `auto`, `cpu`, `cuda` or `cuda:N`.
      prototypes: (K, D) float64, by prompt set, as in `PairBatch`: those that the scorer asked for.
    """

    dim: int
    rows: int
    logit_scale: float
    device: str = "cpu"
    prototypes: Mapping[PromptSet, np.ndarray] = field(default_factory=dict)


@runtime_checkable
class State(Protocol):
    """A sum over rows: `+` is associative and commutative.

    However rows are split over batches, shards and workers, and in whatever order the parts are
    added, the sum is the same.  States are pickled between workers and should be small.
    """

    def __add__(self, other: Self) -> Self:
        """Return the state of the rows of both."""
        ...


class Statistic(Protocol):
    """Something to be summed over the dataset.  Frozen and hashable: equal ones are summed once.

    A statistic may also have `source_columns`, names of the source's columns that it reads from
    `PairBatch.columns`, and `batch_rows`, see `Scorer`.

    Attributes:
      needs: which inputs `observe` reads.
    """

    @property
    def needs(self) -> frozenset[Input]: ...  # noqa: D102

    def observe(self, batch: PairBatch, context: Context) -> State:
        """Return the state of the rows of `batch` alone."""
        ...


class Scorer(ABC):
    """One method of scoring pairs.

    Attributes:
      name: by which it is asked for: its family's, or `<family>.<method>`.
      family: the columns of a family are one file a shard, `scores/<family>/`, and one view.
      version: raised whenever the meaning of a value changes; part of the revision.
      needs: which inputs `score` reads.
      prompt: prefix put before captions (and references) when they are encoded; "" for none.
      columns: columns it adds, see `score_column`.
      batch_rows: None: it sees large batches, one after the other.  A number: batches of at most
        so many rows, several at a time, each in a thread on one core: its results then do not
        depend on how many threads there are.
    """

    name: str
    family: str
    version: int = 1
    needs: frozenset[Input] = frozenset({Input.IMAGE_EMBEDDING})
    prompt: str = ""
    columns: pa.Schema
    batch_rows: int | None = None

    def parameters(self) -> Mapping[str, Any]:
        """Return everything that changes the values, as JSON; part of the revision."""
        return {}

    def prompts(self) -> tuple[PromptSet, ...]:
        """Return the prompt sets whose prototypes it reads."""
        return ()

    def neighbour_lists(self) -> tuple[NeighbourSpec, ...]:
        """Return the neighbour lists among the whole dataset that it reads."""
        return ()

    def statistics(self, known: Arrays, context: Context) -> Mapping[str, Statistic]:
        """Return what must be summed over the dataset next; nothing once all is known.

        Args:
          known: what `learn` has made so far; empty at first.
          context: of the dataset that is learnt from.
        """
        return {}

    def learn(self, sums: Mapping[str, Any], known: Arrays, context: Context) -> Arrays:
        """Return all that is known after a pass.

        Args:
          sums: the states of the statistics that it asked for, by name.
          known: what was known before.
          context: of the dataset that is learnt from.
        """
        return known

    def load(self, known: Arrays, context: Context) -> Any:
        """Return what `score` is handed: made once a process, e.g. an index."""
        return known

    @abstractmethod
    def score(self, batch: PairBatch, loaded: Any) -> Mapping[str, np.ndarray]:
        """Return one (N,) array a column; NaN where undefined, which is stored as NULL.

        A row's values depend on that row and on `loaded` only: shards are scored in batches.
        """


def score_column(
    name: str,
    doc: str,
    direction: str,
    value_range: str,
    source: str,
    type: pa.DataType | None = None,
) -> pa.Field:
    """Make a column of scores with its meaning as metadata; float32 if no type is given.

    Args:
      name: of the column, unlike that of any other scorer's.
      doc: what a value is.
      direction: which end of the range means what, e.g. "higher is better".
      value_range: e.g. "[-1, 1]".
      source: paper and section, or another definition.
      type: another type: an integer, boolean or text.
    """
    metadata = {"doc": doc, "direction": direction, "range": value_range, "source": source}
    return pa.field(name, type or pa.float32(), metadata=metadata)
