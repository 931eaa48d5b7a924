"""Groups of rows that are equal in something: learnt in two passes, of any number of rows."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from clipsieve.scorers.base import Arrays, Context, PairBatch, Scorer, Statistic
from clipsieve.scorers.duplicates.groups import Groups, unique_numbers
from clipsieve.scorers.duplicates.keys import KeySource
from clipsieve.scorers.duplicates.passes import CollectRows, CountSlots, InSlots
from clipsieve.statistics.hashed_array import LocalArray
from clipsieve.statistics.slot_counts import slot_bits


class ExactDuplicates(Scorer):
    """Groups of rows with equal keys of 128 bits.

    The first pass counts hashed slots, so that the second collects only keys that can repeat.
    Memory: four bytes a row for the counts, about 100 bytes for each key that is collected.

    Groups are those of the rows that were learnt of.  A row that comes later gets the group of its
    key and does not represent it, or is alone; groups among later rows need `--refit`.

    Attributes:
      prefix: of the columns.
      source: of the keys.
    """

    prefix: str
    source: KeySource

    def statistics(self, known: Arrays, context: Context) -> Mapping[str, Statistic]:
        """Return the slots, then the rows of those that were hit twice."""
        if "groups" in known:
            return {}
        bits = slot_bits(context.rows)
        if "repeated" not in known:
            return {"slots": CountSlots(self.source, bits)}
        chosen = InSlots(LocalArray(known["repeated"]), bits)
        return {"rows": CollectRows(self.source, chosen)}

    def learn(self, sums: Mapping[str, Any], known: Arrays, context: Context) -> Arrays:
        """Return the slots hit twice, then the groups."""
        if "slots" in sums:
            return {"repeated": sums["slots"].repeated()}
        best = sums["rows"].by_key()
        best = best.take(np.flatnonzero(best.counts > 1))
        return Groups.of(best, np.arange(len(best)), unique_numbers(best.keys)).to_arrays()

    def load(self, known: Arrays, context: Context) -> Groups:
        """Return the groups."""
        return Groups.from_arrays(known)

    def score(self, batch: PairBatch, loaded: Any) -> Mapping[str, np.ndarray]:
        """Three columns; NULL where the row has no key."""
        groups: Groups = loaded
        return groups.columns(self.prefix, self.source.keys(batch), batch)
