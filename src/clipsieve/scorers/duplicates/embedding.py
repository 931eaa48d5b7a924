"""Rows whose image embeddings are near-equal, by the neighbour lists of the whole dataset."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipsieve.errors import UsageError
from clipsieve.scorers.base import (
    Arrays,
    Context,
    Input,
    NeighbourSpec,
    PairBatch,
    Scorer,
    Statistic,
)
from clipsieve.scorers.duplicates.groups import Groups, group_columns
from clipsieve.scorers.duplicates.keys import Keys
from clipsieve.scorers.duplicates.passes import AmongValues, CollectRows
from clipsieve.scorers.duplicates.stars import stars
from clipsieve.scorers.options import check_ints
from clipsieve.statistics.hashed_array import LocalArray
from clipsieve.statistics.row_arrays import RowArrays

DEFAULT_K = 16
#: Least cosine of near-duplicates.  SemDeDup (arXiv:2303.09540) removes half of LAION-440M above
#: 0.93 to 0.94 of CLIP ViT-L/14; 0.95 keeps variations of one picture apart.
DEFAULT_THRESHOLD = 0.95
#: The key of a row that is near no row that was learnt of.
_NO_ROW = np.uint64(2**64 - 1)


@dataclass(frozen=True, slots=True)
class NearNeighbours:
    """Collects the neighbours of each row that are near it.

    Attributes:
      spec: which lists.
      threshold: least cosine.
    """

    spec: NeighbourSpec
    threshold: float
    needs = frozenset({Input.NEIGHBOURS})

    def observe(self, batch: PairBatch, context: Context) -> RowArrays:
        """Return, of the rows of `batch`, pairs of row and number of the neighbour."""
        lists = batch.neighbours[self.spec]
        rows, places = np.nonzero(lists.distances <= largest_distance(self.threshold))
        arrays = {
            "count": np.array([len(batch)]),
            "row": rows,
            "neighbour": lists.indices[rows, places],
        }
        return RowArrays({(batch.shard, batch.start): arrays})


@dataclass(frozen=True, slots=True)
class RowNumbers:
    """Keys that are the numbers of rows among all that are learnt of, and 0.

    Attributes:
      shards: names, sorted.
      firsts: number of the first row of each.
    """

    shards: LocalArray
    firsts: LocalArray
    needs = frozenset({Input.IMAGE_EMBEDDING})

    def first(self, shard: str) -> int | None:
        """Return the number of the first row of a shard; None if it was not learnt of."""
        at = np.flatnonzero(self.shards.values == shard)
        return int(self.firsts.values[at[0]]) if len(at) else None

    def keys(self, batch: PairBatch) -> Keys:
        """Return the number of each row; a row without an image embedding has none."""
        assert batch.image is not None
        first = self.first(batch.shard)
        numbers = np.full(len(batch), _NO_ROW)
        if first is not None:
            numbers = np.arange(len(batch), dtype=np.uint64) + np.uint64(first + batch.start)
        return number_keys(numbers, batch.image.valid)


class EmbeddingDuplicates(Scorer):
    """Groups of rows whose image embeddings have at least a cosine with a representative's.

    Two rows are near if one is among the k nearest neighbours of the other, and their cosine
    reaches the threshold.  Rows are taken in the order of `clip_score`, the highest first, then
    lowest uid, shard and row; the first that is in no group yet represents one, and every row near
    it that is in none yet joins.

    Exact while no row has more than k others within the threshold, so for groups of up to k + 1
    rows: of a larger one, rows whose k nearest are all others than the representative, and that are
    not among its k nearest, are left to another group.  Copies of one file in large numbers are
    what `duplicates.bytes` and `duplicates.phash` find.

    A row without an image embedding has no value.  A row that comes later joins the nearest
    representative among its neighbours within the threshold, or is alone; groups among later rows
    need `--refit`.
    """

    name, family = "duplicates.embedding", "duplicates"
    needs = frozenset({Input.IMAGE_EMBEDDING, Input.NEIGHBOURS})
    columns = group_columns(
        "duplicate_embedding", "with near-equal image embeddings", "cosine of SemDeDup, 2303.09540"
    )

    def __init__(self, threshold: float = DEFAULT_THRESHOLD, k: int = DEFAULT_K) -> None:
        """Make a scorer.

        Args:
          threshold: least cosine of a row and its representative, above 0, at most 1.
          k: neighbours of each row that are looked at, at least 1.

        Raises:
          UsageError: for a value out of range.
        """
        check_ints(self.name, {"k": (k, 1)})
        if isinstance(threshold, bool) or not isinstance(threshold, int | float):
            raise UsageError(
                f"option threshold of scorer {self.name} must be a number, got {threshold!r}"
            )
        if not 0 < threshold <= 1:
            raise UsageError(
                f"option threshold of scorer {self.name} is a cosine and must be above 0 and at "
                f"most 1, got {threshold}"
            )
        self._threshold = float(threshold)
        self._spec = NeighbourSpec(k=k, metric="cosine")

    def parameters(self) -> Mapping[str, Any]:
        """All options."""
        return {"threshold": self._threshold, "k": self._spec.k}

    def neighbour_lists(self) -> tuple[NeighbourSpec, ...]:
        """Return the k nearest by cosine."""
        return (self._spec,)

    def statistics(self, known: Arrays, context: Context) -> Mapping[str, Statistic]:
        """Return the near neighbours, then the rows that have some."""
        if "groups" in known:
            return {}
        if "nodes" not in known:
            return {"near": NearNeighbours(self._spec, self._threshold)}
        return {"rows": CollectRows(row_numbers(known), AmongValues(LocalArray(known["nodes"])))}

    def learn(self, sums: Mapping[str, Any], known: Arrays, context: Context) -> Arrays:
        """Return which rows are near which, then the groups."""
        if "near" in sums:
            return near_rows(sums["near"])
        best = sums["rows"].by_key()
        order = best.by_rank()
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        centres = stars(len(best), rank[known["one"]], rank[known["other"]])
        groups = Groups.of(best, order[centres][rank], best.keys[:, 0])
        members = {name: known[name] for name in ("member_shards", "member_firsts")}
        return {**groups.to_arrays(), **members}

    def load(self, known: Arrays, context: Context) -> tuple[Groups, RowNumbers]:
        """Return the groups, and the numbers of rows."""
        return Groups.from_arrays(known), row_numbers(known)

    def score(self, batch: PairBatch, loaded: Any) -> Mapping[str, np.ndarray]:
        """Three columns; NULL where the row has no image embedding."""
        groups, numbers = loaded
        keys = numbers.keys(batch)
        if numbers.first(batch.shard) is None:
            keys = self._nearest_representatives(batch, groups)
        columns: Mapping[str, np.ndarray] = groups.columns("duplicate_embedding", keys, batch)
        return columns

    def _nearest_representatives(self, batch: PairBatch, groups: Groups) -> Keys:
        """Return the number of the nearest representative near each row of a later shard."""
        assert batch.image is not None
        lists = batch.neighbours[self._spec]
        numbers = lists.indices.astype(np.uint64)
        flat = number_keys(numbers.ravel(), np.ones(numbers.size, bool))
        at = groups.find(flat.values).reshape(numbers.shape)
        near = (at >= 0) & (lists.distances <= largest_distance(self._threshold))
        near[near] = groups.groups[at[near]] == numbers[near]
        nearest = numbers[np.arange(len(near)), near.argmax(axis=1)]
        return number_keys(np.where(near.any(axis=1), nearest, _NO_ROW), batch.image.valid)


def largest_distance(threshold: float) -> np.float32:
    """Return the largest distance, 1 - cosine, of rows that are near."""
    return np.float32(1 - threshold)


def near_rows(collected: RowArrays) -> dict[str, np.ndarray]:
    """Return the rows that are near another, and which are near.

    Args:
      collected: what `NearNeighbours` saw of all rows.

    Returns:
      `nodes`, (m,) uint64 numbers of rows, rising; `one` and `other`, (E,) int64 positions in them
      of each near pair, once; `member_shards` and `member_firsts`, as in `RowNumbers`.
    """
    firsts: dict[str, int] = {}
    rows, neighbours, total = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
    for shard, start in sorted(collected.parts):
        part = collected.parts[shard, start]
        firsts.setdefault(shard, total)
        rows.append(part["row"] + total)
        neighbours.append(part["neighbour"])
        total += int(part["count"][0])
    ends = np.stack([np.concatenate(rows), np.concatenate(neighbours)], axis=1)
    edges = np.unique(np.sort(ends, axis=1), axis=0)
    nodes, places = np.unique(edges, return_inverse=True)
    places = places.reshape(edges.shape)
    return {
        "nodes": nodes.astype(np.uint64),
        "one": places[:, 0],
        "other": places[:, 1],
        "member_shards": np.array(list(firsts), np.str_),
        "member_firsts": np.array(list(firsts.values()), np.int64),
    }


def row_numbers(known: Arrays) -> RowNumbers:
    """Return the numbers of the rows that were learnt of."""
    return RowNumbers(LocalArray(known["member_shards"]), LocalArray(known["member_firsts"]))


def number_keys(numbers: np.ndarray, valid: np.ndarray) -> Keys:
    """Return (N,) uint64 numbers as keys."""
    values = np.stack([numbers, np.zeros_like(numbers)], axis=1)
    return Keys(np.where(valid[:, None], values, np.uint64(0)), valid)
