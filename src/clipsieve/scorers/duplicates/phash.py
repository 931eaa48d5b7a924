"""Rows whose pictures look the same: perceptual hashes within a few bits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipsieve.errors import UsageError
from clipsieve.scorers.base import Arrays, Context, Input, PairBatch, Scorer, Statistic
from clipsieve.scorers.duplicates.groups import Groups, group_columns
from clipsieve.scorers.duplicates.hamming import MOST_BITS, hamming_pairs
from clipsieve.scorers.duplicates.keys import PHASH
from clipsieve.scorers.duplicates.passes import AmongValues, CollectRows
from clipsieve.scorers.duplicates.stars import stars
from clipsieve.statistics.hashed_array import LocalArray
from clipsieve.statistics.repeated_values import RepeatedValues

#: Bits in which near-duplicates differ at most, unless another number is given.
DEFAULT_DISTANCE = 4


@dataclass(frozen=True, slots=True)
class DistinctHashes:
    """Collects the perceptual hashes of all rows."""

    needs = PHASH.needs

    def observe(self, batch: PairBatch, context: Context) -> RepeatedValues:
        """Return the hashes of the rows of `batch` alone."""
        keys = PHASH.keys(batch)
        return RepeatedValues.of(keys.values[keys.valid, 0])


class PerceptualDuplicates(Scorer):
    """Groups of rows whose perceptual hashes are within a Hamming distance of a representative's.

    Hashes are taken in the order of their best rows: highest `clip_score`, then lowest uid, shard
    and row.  The first that is in no group yet is the centre of one; every hash within the distance
    of it that is in none yet joins.  So every row of a group is within the distance of its
    representative, and two of them within twice that.  Rows of one hash are always together.

    The first pass collects the distinct hashes, of which those near another, or of several rows,
    are kept; the second collects their best rows.  All distinct hashes are in memory at once, with
    8 bytes each, and all pairs of near ones, with 16.

    A row whose picture was not decoded has no value.  Pictures without structure, as of one colour,
    have one hash and so are one group.  A row that comes later gets the group of its hash and does
    not represent it, or is alone; groups among later rows need `--refit`.
    """

    name, family, needs = "duplicates.phash", "duplicates", frozenset({Input.IMAGE_HASHES})
    columns = group_columns(
        "duplicate", "with near-equal perceptual hashes", "pHash: the DCT hash of Zauner 2010"
    )

    def __init__(self, distance: int = DEFAULT_DISTANCE) -> None:
        """Make a scorer.

        Args:
          distance: bits in which a hash differs from that of its representative at most, 0 to 8.

        Raises:
          UsageError: for another distance.
        """
        if isinstance(distance, bool) or not isinstance(distance, int):
            raise UsageError(
                f"option distance of scorer {self.name} must be an int, got {distance!r}"
            )
        if not 0 <= distance <= MOST_BITS:
            raise UsageError(
                f"option distance of scorer {self.name} must be from 0 to {MOST_BITS} bits, got "
                f"{distance}; above it unrelated pictures become near"
            )
        self._distance = distance

    def parameters(self) -> Mapping[str, Any]:
        """All options."""
        return {"distance": self._distance}

    def statistics(self, known: Arrays, context: Context) -> Mapping[str, Statistic]:
        """Return the distinct hashes, then the rows of those that are not alone."""
        if "groups" in known:
            return {}
        if "hashes" not in known:
            return {"hashes": DistinctHashes()}
        return {"rows": CollectRows(PHASH, AmongValues(LocalArray(known["hashes"])))}

    def learn(self, sums: Mapping[str, Any], known: Arrays, context: Context) -> Arrays:
        """Return the hashes that are not alone and which are near, then the groups."""
        if "hashes" in sums:
            values, repeated = sums["hashes"].sorted()
            return near_hashes(values, repeated, self._distance)
        best = sums["rows"].by_key()
        order = best.by_rank()
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        centres = stars(len(best), rank[known["one"]], rank[known["other"]])
        return Groups.of(best, order[centres][rank], best.keys[:, 0]).to_arrays()

    def load(self, known: Arrays, context: Context) -> Groups:
        """Return the groups."""
        return Groups.from_arrays(known)

    def score(self, batch: PairBatch, loaded: Any) -> Mapping[str, np.ndarray]:
        """Three columns; NULL where the picture was not decoded."""
        groups: Groups = loaded
        return groups.columns("duplicate", PHASH.keys(batch), batch)


def near_hashes(values: np.ndarray, repeated: np.ndarray, distance: int) -> dict[str, np.ndarray]:
    """Return the hashes that are near another or occur more than once, and which are near.

    Args:
      values: (n,) uint64, rising.
      repeated: (n,) bool: whether a hash occurs more than once.
      distance: bits, 0 to 8.

    Returns:
      `hashes`, (m,) uint64, rising; `one` and `other`, (E,) int64 positions in them of each pair
      within the distance.
    """
    pairs = list(hamming_pairs(values, distance))
    nothing = np.empty(0, np.int64)
    one = np.concatenate([nothing, *(first for first, _ in pairs)])
    other = np.concatenate([nothing, *(second for _, second in pairs)])
    kept = repeated.copy()
    kept[one] = kept[other] = True
    places = np.cumsum(kept) - 1
    return {"hashes": values[kept], "one": places[one], "other": places[other]}
