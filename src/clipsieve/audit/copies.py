"""How often captions and pictures occur, over all rows: the table `copies`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from clipsieve.audit.key_sums import SCALE, fixed
from clipsieve.audit.keys import NO_KEY, Kind, RowKeys

#: Kinds of keys that are counted.
KINDS = (Kind.CAPTION, Kind.IMAGE_BYTES, Kind.IMAGE_HASH)
#: Keys of each kind in the table, the most frequent ones.
MOST_KEYS = 20_000


@dataclass(frozen=True, slots=True)
class Copies:
    """What is known of the rows of each of K keys of one kind, all of which occur at least twice.

    Attributes:
      keys: (K,) uint64, rising.
      rows: (K,) int64.
      pairs: by property (hosts, pictures, captions) the (P, 2) distinct pairs of key number and
        value, sorted.
      embedded: (K,) int64: rows with an image vector.
      vectors: (K, D) int64: sums of their unit vectors, in 1 / `SCALE`.
      scored: by column the (K,) int64 rows with a value.
      values: by column the (K,) int64 sums, in 1 / `SCALE`.
      examples: (K, 2) int64: shard and row of the first row in the order of shards.
    """

    keys: np.ndarray
    rows: np.ndarray
    pairs: Mapping[str, np.ndarray]
    embedded: np.ndarray
    vectors: np.ndarray
    scored: Mapping[str, np.ndarray]
    values: Mapping[str, np.ndarray]
    examples: np.ndarray

    def distinct(self, name: str) -> np.ndarray:
        """(K,) int64 distinct values of a property."""
        return np.bincount(self.pairs[name][:, 0].astype(np.int64), minlength=len(self.keys))

    def means(self, column: str) -> np.ndarray:
        """(K,) float64 means of a column; NaN where no row has a value."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.values[column] / (SCALE * self.scored[column]))

    def similarity(self) -> np.ndarray:
        """(K,) float64 mean cosine of the pictures of two different rows; NaN for fewer than two.

        |sum of n unit vectors|^2 is n plus the cosines of all ordered pairs.
        """
        total = self.vectors / SCALE
        count = self.embedded.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = ((total * total).sum(axis=1) - count) / (count * (count - 1))
        return np.where(self.embedded > 1, np.clip(mean, -1.0, 1.0), np.nan)


@dataclass
class CopiesBuilder:
    """Counts the rows of chosen keys shard by shard, in any order of shards.

    Attributes:
      kind: of the keys.
      keys: (K,) uint64, rising.
      columns: whose means are kept.
    """

    kind: Kind
    keys: np.ndarray
    columns: Sequence[str]
    _rows: np.ndarray = field(init=False)
    _embedded: np.ndarray = field(init=False)
    _vectors: np.ndarray | None = field(default=None, init=False)
    _pairs: dict[str, list[np.ndarray]] = field(default_factory=dict, init=False)
    _scored: dict[str, np.ndarray] = field(init=False)
    _values: dict[str, np.ndarray] = field(init=False)
    _examples: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        """Begin with no rows."""
        zeros = np.zeros(len(self.keys), np.int64)
        self._rows, self._embedded = zeros.copy(), zeros.copy()
        self._scored = {column: zeros.copy() for column in self.columns}
        self._values = {column: zeros.copy() for column in self.columns}
        self._examples = np.full((len(self.keys), 2), np.iinfo(np.int64).max)
        self._pairs = {"hosts": [], "pictures": [], "captions": []}

    def add(
        self,
        shard: int,
        keys: RowKeys,
        values: Mapping[str, np.ndarray],
        unit: np.ndarray,
        has_vector: np.ndarray,
    ) -> None:
        """Take the N rows of a shard.

        Args:
          shard: its number.
          keys: of its rows.
          values: (N,) float32 of `columns`, NaN where there is none.
          unit: (N, D) float32 image vectors of unit norm.
          has_vector: (N,) bool.
        """
        rows, own = keys.of_kind(self.kind)
        if not len(self.keys) or not len(rows):
            return
        places = np.minimum(np.searchsorted(self.keys, own), len(self.keys) - 1)
        hits = self.keys[places] == own
        rows, places = rows[hits], places[hits]
        np.add.at(self._rows, places, 1)
        examples = np.stack([np.full(len(rows), shard), rows], axis=1)
        order = np.lexsort((rows, places))
        first = order[np.flatnonzero(np.diff(places[order], prepend=-1))]
        earlier = shard < self._examples[places[first], 0]
        self._examples[places[first][earlier]] = examples[first][earlier]
        pictures = np.where(
            keys.has_bits, keys.single[Kind.IMAGE_HASH], keys.single[Kind.IMAGE_BYTES]
        )
        properties = {
            "hosts": keys.single[Kind.HOST],
            "pictures": pictures,
            "captions": keys.single[Kind.CAPTION],
        }
        for name, shared in properties.items():
            present = shared[rows] != NO_KEY
            pairs = np.stack([places[present].astype(np.uint64), shared[rows][present]], axis=1)
            self._pairs[name].append(np.unique(pairs, axis=0))
            if len(self._pairs[name]) > 64:
                self._pairs[name] = [np.unique(np.concatenate(self._pairs[name]), axis=0)]
        seen = has_vector[rows]
        np.add.at(self._embedded, places[seen], 1)
        self._add_vectors(places[seen], unit[rows[seen]])
        for column in self.columns:
            present = ~np.isnan(values[column][rows])
            np.add.at(self._scored[column], places[present], 1)
            numbers = fixed(values[column][rows[present]].astype(np.float64))
            np.add.at(self._values[column], places[present], numbers)

    def _add_vectors(self, places: np.ndarray, unit: np.ndarray) -> None:
        """Add vectors to the sums of their keys."""
        if not len(places):
            return
        if self._vectors is None:  # a shard without vectors does not know their width
            self._vectors = np.zeros((len(self.keys), unit.shape[1]), np.int64)
        order = np.argsort(places, kind="stable")
        starts = np.flatnonzero(np.diff(places[order], prepend=-1))
        sums = np.add.reduceat(fixed(unit[order].astype(np.float64)), starts, axis=0)
        self._vectors[places[order][starts]] += sums

    def build(self) -> Copies:
        """Return what is known."""
        pairs = {
            name: np.unique(np.concatenate([np.zeros((0, 2), np.uint64), *parts]), axis=0)
            for name, parts in self._pairs.items()
        }
        vectors = self._vectors
        if vectors is None:
            vectors = np.zeros((len(self.keys), 0), np.int64)
        return Copies(
            self.keys,
            self._rows,
            pairs,
            self._embedded,
            vectors,
            self._scored,
            self._values,
            self._examples,
        )


def most_frequent(keys: np.ndarray, rows: np.ndarray, most: int = MOST_KEYS) -> np.ndarray:
    """The keys that occur at least twice, the `most` most frequent; among equals the least keys.

    Returns:
      (K,) uint64, rising.
    """
    repeated = rows > 1
    keys, rows = keys[repeated], rows[repeated]
    order = np.lexsort((keys, -rows))[:most]
    return np.sort(keys[order])
