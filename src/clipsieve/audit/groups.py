"""Groups of suspicious rows: the strongest first, and each row in one group."""

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from clipsieve.audit.candidates import LEAST_ROWS, Candidate
from clipsieve.audit.evidence import (
    MANY_COPIES,
    CopyShares,
    Outcome,
    Tests,
    discoveries,
    mean_score,
    row_evidence,
)
from clipsieve.audit.key_sums import exact_total
from clipsieve.audit.keys import Kind
from clipsieve.audit.members import Members, number_pictures
from clipsieve.audit.ordinary import log_tail

#: A group of a wide kind gives way to one that it holds with at least this share of its evidence.
NARROWER_SHARE = 1 / 3
#: A group is one of copies if its pictures, or its pairs, occur so often on average.
ROWS_A_PICTURE = 4
#: Share of a narrow group's rows that lie in the wide one which holds it.
HELD_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class SuspectGroup:
    """A group beyond the line.

    Attributes:
      candidate: what its rows share.
      members: numbers of its rows, rising.
      outcome: the test with the smallest tail.
      evidence: nats.
      observations: distinct ones of the test: pairs of picture and caption, or pictures.
      n_pictures: distinct pictures.
      copies: rows of its most frequent picture.
      means: mean normal score of each witness; NaN without a value.
    """

    candidate: Candidate
    members: np.ndarray
    outcome: Outcome
    evidence: float
    observations: int
    n_pictures: int
    copies: int
    means: tuple[float, ...]

    @property
    def is_copied(self) -> bool:
        """Whether it is a group of copies."""
        return len(self.members) >= ROWS_A_PICTURE * self.n_pictures

    @property
    def order(self) -> tuple[float, int, int, int]:
        """Sorts groups: most evidence, most rows, narrowest kind, key."""
        kind = list(Kind).index(self.candidate.kind)
        return -self.evidence, -len(self.members), kind, self.candidate.key


class RankScores(Protocol):
    """Normal scores of values by the share of all rows; see `OrdinaryRows`."""

    def rank_scores(self, values: np.ndarray) -> np.ndarray:
        """(N,) float64 scores of (N,) float32 values; NaN of NaN."""
        ...


@dataclass(frozen=True, slots=True)
class Assessor:
    """Tests groups of members.

    Attributes:
      members: the rows of all candidates.
      tests: by kind.
      copies: how often pictures occur.
      ordinary: the ordinary rows of each witness.
      copied: logarithm of the corrected tail of pictures that occur `MANY_COPIES` times.
    """

    members: Members
    tests: Mapping[Kind, Tests]
    copies: CopyShares
    ordinary: Sequence[RankScores]
    copied: Mapping[int, float] = field(default_factory=dict)

    def assess(
        self, candidate: Candidate, rows: np.ndarray, centre: int | None
    ) -> SuspectGroup | None:
        """The group of some rows of a candidate; None if it is an ordinary one.

        Args:
          candidate: what they share.
          rows: numbers of members.
          centre: the member around which the group was made, as its similarity was low: it is no
            witness; None for groups that were not chosen by a row.
        """
        if len(rows) < LEAST_ROWS:
            return None
        members, tests = self.members, self.tests[candidate.kind]
        pictures, pairs = _observations(members, rows)
        counts = np.bincount(pictures)
        copies = int(counts.max())
        tested = rows != centre
        scores, pairs = members.scores[rows][tested], pairs[tested]
        n_pairs, ranks = max(len(np.unique(pairs)), 1), None
        # One picture under many captions is many observations of its similarity.
        is_copied = len(rows) >= ROWS_A_PICTURE * n_pairs
        means = tuple(_mean(column, pairs) for column in scores.T)
        if not is_copied:
            values = members.values[rows][tested].T
            ranks = [
                _mean(each.rank_scores(column), pairs)
                for each, column in zip(self.ordinary, values, strict=True)
            ]
        copied = math.inf
        if is_copied:
            copied = self.copied.get(_most_frequent(members.pictures[rows]), math.inf)
        outcomes = tests.outcomes(means, len(rows), n_pairs, len(counts), ranks, copied)
        nats = [exact_total(column) for column in members.surprises[rows].T]
        scored = np.count_nonzero(~np.isnan(members.surprises[rows]), axis=0)
        evidence = row_evidence(tests.witnesses, outcomes, nats, scored.tolist())
        if evidence <= 0:
            return None
        outcome = min((o for o in outcomes if o.is_beyond), key=lambda each: each.log_p)
        is_density = tests.witnesses[outcome.witness].is_density
        return SuspectGroup(
            candidate,
            rows,
            outcome,
            evidence + self.copies.evidence(copies),
            len(counts) if is_density else n_pairs,
            len(counts),
            copies,
            means,
        )


def copied_pictures(
    candidates: Sequence[Candidate],
    members: Members,
    tests: Mapping[Kind, Tests],
    copies: CopyShares,
) -> dict[int, float]:
    """Corrected tails of the similarity of pictures that occur `MANY_COPIES` times.

    Returns:
      Logarithm by picture, see `discoveries`, of each that is most of a narrow candidate.
    """
    tails: dict[int, float] = {}
    for candidate, rows in zip(candidates, members.groups, strict=True):
        own = tests[candidate.kind]
        if candidate.kind.is_wide or len(rows) < MANY_COPIES or own.similarity is None:
            continue
        _, pairs = _observations(members, rows)
        mean = _mean(members.scores[rows][:, own.similarity], pairs)
        n_pairs = len(np.unique(pairs))
        if len(rows) < ROWS_A_PICTURE * n_pairs or math.isnan(mean):
            continue
        spread = own.spreads[own.similarity].robust
        tail = log_tail(mean_score(mean, n_pairs, spread))
        picture = _most_frequent(members.pictures[rows])
        tails[picture] = min(tail, tails.get(picture, math.inf))
    corrected = discoveries(list(tails.values()), copies.many)
    return dict(zip(tails, corrected, strict=True))


def _observations(members: Members, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(M,) int64 numbers of the pictures of rows, and of their pairs of picture and caption."""
    pictures = number_pictures(members.pictures[rows], members.has_bits[rows])
    captions = np.unique(members.captions[rows], return_inverse=True)[1]
    return pictures, pictures * (captions.max() + 1) + captions


def _most_frequent(values: np.ndarray) -> int:
    """The value that occurs most often; among equals the least."""
    different, counts = np.unique(values, return_counts=True)
    return int(different[np.argmax(counts)])


def disjoint_groups(
    candidates: Sequence[Candidate], assessor: Assessor, centres: Mapping[int, int]
) -> list[SuspectGroup]:
    """Groups beyond the line, most evidence first; each row is in the first that has it.

    What an earlier group has taken is taken out of the others, and what is left of them is tested
    again.  A wide group (a word, near pictures, a host) gives way to a narrow one inside it that
    has a third of its evidence.

    Args:
      candidates: in any order.
      assessor: has their members.
      centres: number of the member in the middle of each group of near pictures, by the number of
        the candidate.
    """
    waiting: list[tuple[tuple[float, int, int, int], int, SuspectGroup]] = []

    def wait(number: int, rows: np.ndarray) -> None:
        group = assessor.assess(candidates[number], rows, centres.get(number))
        if group is not None:
            heapq.heappush(waiting, (group.order, number, group))

    for number in range(len(candidates)):
        wait(number, assessor.members.groups[number])
    taken = np.zeros(len(assessor.members.rows), bool)
    found: list[SuspectGroup] = []
    while waiting:
        _, number, group = heapq.heappop(waiting)
        free = group.members[~taken[group.members]]
        if len(free) < len(group.members):
            wait(number, free)
            continue
        narrow = _narrower(group, waiting) if group.candidate.kind.is_wide else None
        if narrow is not None:
            wait(number, group.members)
            waiting.remove(narrow)
            heapq.heapify(waiting)
            _, number, group = narrow
            free = group.members[~taken[group.members]]
            if len(free) < len(group.members):
                wait(number, free)
                continue
        taken[group.members] = True
        found.append(group)
    return sorted(found, key=lambda group: group.order)


def _narrower(
    wide: SuspectGroup, waiting: Sequence[tuple[tuple[float, int, int, int], int, SuspectGroup]]
) -> tuple[tuple[float, int, int, int], int, SuspectGroup] | None:
    """The strongest narrow group inside a wide one that it gives way to."""
    inside = [
        entry
        for entry in waiting
        if not entry[2].candidate.kind.is_wide
        and entry[2].evidence >= NARROWER_SHARE * wide.evidence
        and np.isin(entry[2].members, wide.members).mean() >= HELD_SHARE
    ]
    return min(inside, key=lambda entry: entry[0], default=None)


def _mean(scores: np.ndarray, pairs: np.ndarray) -> float:
    """Mean over rows of the score that nine in ten rows of the same pair reach; NaN without any.

    Args:
      scores: (M,) of the rows, NaN where there is none.
      pairs: (M,) numbers of their pairs of picture and caption.
    """
    present = ~np.isnan(scores)
    scores, pairs = scores[present], pairs[present]
    if not len(scores):
        return math.nan
    order = np.lexsort((scores, pairs))
    scores, pairs = scores[order], pairs[order]
    starts = np.flatnonzero(np.concatenate([[True], pairs[1:] != pairs[:-1]]))
    counts = np.diff(np.append(starts, len(pairs)))
    reached = scores[starts + counts // 10]
    return exact_total(np.repeat(reached, counts)) / len(scores)
