"""Nearest neighbours of rows among a hash sample of the dataset, the same sample for all rows."""

import numpy as np

from clipsieve.neighbours.index import ExactIndex, SearchOptions
from clipsieve.neighbours.lists import NeighbourLists, fill_missing
from clipsieve.neighbours.metric import Metric
from clipsieve.scorers.base import Arrays, PairBatch
from clipsieve.statistics.hash_sample import SampleState, row_hashes

_KEPT = ("hashes", "shards", "rows", "images", "texts")


def sample_arrays(name: str, sample: SampleState) -> dict[str, np.ndarray]:
    """Return what is recorded of a sample, as arrays named `<name>.<what>`."""
    return {f"{name}.{kept}": getattr(sample, kept) for kept in _KEPT}


class SampleSearch:
    """Finds neighbours among the vectors of a recorded sample.

    Vectors are numbered: the sample's images in their order, then, with `texts`, those of its
    captions that were encoded.
    """

    def __init__(
        self,
        name: str,
        arrays: Arrays,
        k: int,
        metric: Metric,
        seed: int,
        texts: bool,
        device: str,
    ) -> None:
        """Index the sample recorded as `name`.

        Args:
          name: of the sample.
          arrays: with what `sample_arrays` gave.
          k: neighbours of each row.
          metric: see `clipsieve.neighbours.metric`.
          seed: of the sample's hash.
          texts: whether captions are among the vectors.
          device: `auto`, `cpu`, `cuda` or `cuda:N`.
        """
        self._k, self._seed = k, seed
        self._hashes, self._shards, self._rows, vectors, captions = (
            arrays[f"{name}.{kept}"] for kept in _KEPT
        )
        count = len(vectors)
        self._own = np.full((count, 2), -1, np.int64)
        self._own[:, 0] = np.arange(count)
        if texts:
            encoded = np.flatnonzero(captions.any(axis=1))
            self._own[encoded, 1] = count + np.arange(len(encoded))
            vectors = np.concatenate([vectors, captions[encoded]])
        self._vectors = vectors
        self._index = (
            ExactIndex(vectors, metric=metric, options=SearchOptions(device=device))
            if count
            else None  # no row had a valid image when the sample was drawn
        )

    def search_sample(self) -> NeighbourLists:
        """Return lists of each vector of the sample, among those of other rows."""
        own = np.concatenate([self._own, self._own[self._own[:, 1] >= 0]])
        return self._search(self._vectors, own)

    def search(self, batch: PairBatch) -> NeighbourLists:
        """Return lists of each row's image; rows without a valid one have empty lists."""
        assert batch.image is not None
        own = np.full((len(batch), 2), -1, np.int64)
        positions = self._rows - batch.start
        inside = (self._shards == batch.shard) & (positions >= 0) & (positions < len(batch))
        sampled = np.flatnonzero(inside)
        rows = positions[sampled]
        # A shard that was read again since may have another row in that place.
        same = row_hashes(batch.uid.take(rows), self._seed) == self._hashes[sampled]
        own[rows[same]] = self._own[sampled[same]]
        valid = batch.image.valid
        return fill_missing(self._search(batch.image.vectors[valid], own[valid]), valid)

    def _search(self, queries: np.ndarray, own: np.ndarray) -> NeighbourLists:
        if self._index is None:
            return NeighbourLists.empty(len(queries), self._k)
        return self._index.search(queries, self._k, own)
