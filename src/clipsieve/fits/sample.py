"""Neighbours of rows among a sample of the dataset, the same for all rows."""

from collections.abc import Mapping

import numpy as np

from clipsieve.neighbours.index import ExactIndex, SearchOptions
from clipsieve.neighbours.lists import NeighbourLists, fill_missing
from clipsieve.scorers.base import PairBatch, ReferenceSet
from clipsieve.statistics.sample import Sample, row_hashes

_KEPT = ("hashes", "shards", "rows", "images", "texts")


def sample_arrays(name: str, sample: Sample) -> dict[str, np.ndarray]:
    """What is kept of a sample, as arrays named `<name>.<what>`."""
    return {f"{name}.{kept}": getattr(sample, kept) for kept in _KEPT}


class SampleSearch:
    """Finds neighbours among the vectors of a sample.

    Vectors are numbered: the sample's images in their order, then, if the set has captions, those
    of its captions that were encoded.
    """

    def __init__(
        self, name: str, wanted: ReferenceSet, arrays: Mapping[str, np.ndarray], device: str
    ) -> None:
        """A search in the sample kept under `name`.

        Args:
          name: of the reference set.
          wanted: the set.
          arrays: what `sample_arrays` gave.
          device: `auto`, `cpu`, `cuda` or `cuda:N`.
        """
        self._wanted = wanted
        self._hashes, self._shards, self._rows, vectors, texts = (
            arrays[f"{name}.{kept}"] for kept in _KEPT
        )
        count = len(vectors)
        self._own = np.full((count, 2), -1, np.int64)
        self._own[:, 0] = np.arange(count)
        if wanted.texts:
            encoded = np.flatnonzero(texts.any(axis=1))
            self._own[encoded, 1] = count + np.arange(len(encoded))
            vectors = np.concatenate([vectors, texts[encoded]])
        self._vectors = vectors
        self._index = (
            ExactIndex(vectors, metric=wanted.metric, options=SearchOptions(device=device))
            if count
            else None  # no row had a valid image when the sample was taken
        )

    def within(self) -> NeighbourLists:
        """Of each vector of the sample, among those of other rows."""
        own = np.concatenate([self._own, self._own[self._own[:, 1] >= 0]])
        return self._search(self._vectors, own)

    def of(self, batch: PairBatch) -> NeighbourLists:
        """Of each row's image; rows without a valid one have none."""
        assert batch.image is not None
        own = np.full((len(batch), 2), -1, np.int64)
        here = np.flatnonzero(self._shards == batch.shard)
        here = here[self._rows[here] < len(batch)]
        rows = self._rows[here]
        # A shard that was read again since may hold another row in that place.
        same = row_hashes(batch.uid.take(rows), self._wanted.seed) == self._hashes[here]
        own[rows[same]] = self._own[here[same]]
        valid = batch.image.valid
        return fill_missing(self._search(batch.image.vectors[valid], own[valid]), valid)

    def _search(self, queries: np.ndarray, own: np.ndarray) -> NeighbourLists:
        k = self._wanted.k
        if self._index is None:
            return NeighbourLists.empty(len(queries), k)
        return self._index.search(queries, k, own)
