"""A fit in use: what a scorer is handed with each shard."""

from dataclasses import replace

from clipsieve.fits.sample import SampleSearch
from clipsieve.fits.store import FitFolder, scored_rows
from clipsieve.fits.whole import WholeSearch
from clipsieve.neighbours.lists import NeighbourLists
from clipsieve.scorers.base import Fitted, PairBatch, ReferenceSet, Scorer
from clipsieve.stored import StoredPairs


class FittedScorer:
    """A scorer with its fit, ready to score shards."""

    def __init__(self, scorer: Scorer, folder: FitFolder, pairs: StoredPairs, device: str) -> None:
        """Load the fit and prepare the search of neighbours.

        Args:
          scorer: one that is fitted.
          folder: its fit.
          pairs: the folder whose shards will be scored.
          device: for the search.

        Raises:
          LedgerError: if the fit is missing or damaged.
        """
        self.scorer = scorer
        self.fitted: Fitted = folder.load()
        self._folder = folder
        self._members = folder.members()
        self._shards = {member.shard for member in self._members}
        self._references = scorer.references(scored_rows(self._members))
        self._pairs = pairs
        self._device = device
        self._samples = {
            name: SampleSearch(name, wanted, self.fitted, device)
            for name, wanted in self._references.items()
            if wanted.is_sample
        }

    def with_neighbours(self, batch: PairBatch) -> PairBatch:
        """All rows of a shard with the neighbours that the scorer asks for."""
        found = {
            name: self._samples[name].of(batch)
            if name in self._samples
            else self._among_all(name, wanted, batch)
            for name, wanted in self._references.items()
        }
        return replace(batch, neighbours=found)

    def _among_all(self, name: str, wanted: ReferenceSet, batch: PairBatch) -> NeighbourLists:
        """Lists that were kept when the fit was made, or found now for a shard that came later."""
        if batch.shard in self._shards:
            return self._folder.read_lists(name, batch.shard, wanted.k)
        return WholeSearch(self._pairs, wanted, self._members, self._device).of([batch])[0]
