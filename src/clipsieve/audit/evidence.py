"""Whether a group is no ordinary one, and how much speaks against it.

**The test.**  Rows of one caption are alike, so a group is not compared with rows drawn one by one
but with ordinary groups.  Of the normal scores of a witness a share `spread` of the variance lies
between groups (the intraclass correlation); a group of u distinct observations then has a mean
score of variance

    spread + (1 - spread) / u                                  (Kish 1965: the design effect)

and its tail is that of the mean over the root of it.  Copies of one picture under one caption are
one observation of their similarity, copies of one picture one of its density; an observation has
the score that nine in ten of its rows reach.  Where many rows of a dataset are far out, chance
alone puts some of them together, so the mean score by rank must be out of the ordinary for random
rows as well; not so for groups of copies, which are no random rows.  The tail is
multiplied by the number of tests of a group, by the number of kinds of groups, and by
(rows in all groups of the kind) / (rows of the group): a Bonferroni correction for the groups that
were tried, weighted by their rows (Genovese, Roeder and Wasserman 2006), since a large group
matters more.  A group is listed if a corrected tail is at most `LINE`.

A picture that occurs `MANY_COPIES` times is rarer than any caption group and more often out of the
ordinary, so such copies have an error of their own: of the pictures that occur so often and are
listed, a share of `COPIES_FDR` is ordinary at most (Benjamini and Hochberg 1995, on the tails of
their similarity).

**The evidence.**  A row with tail p carries -ln p nats of surprise; an ordinary row one on average.
`ROW_COST` nats are taken off for each row of the group, so an ordinary row speaks for a group as
much as a row with a tail of exp(-3) speaks against it.  Witnesses whose tail is beyond the line are
added up, of several densities the strongest, and so are copies: a row whose picture occurs as
often as that of a share s of all rows carries -ln s.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipsieve.audit.key_sums import SCALE, KeySums
from clipsieve.audit.ordinary import log_tail
from clipsieve.audit.witnesses import Witness

#: Corrected tail from which a group is no ordinary one.
LINE = 0.05
#: Copies from which a picture is compared with pictures that occur as often, and the false
#: discovery rate among these.
MANY_COPIES, COPIES_FDR = 20, 0.1
#: Nats that every row of a group costs.
ROW_COST = 2.0
#: Share of the variance between groups, and how many groups that assumption weighs; also the least.
ASSUMED_SPREAD, ASSUMED_GROUPS = 0.2, 20
#: Groups of fewer rows say nothing about the spread.
SPREAD_ROWS = 5
#: Halvings in the search for a spread: it is within 0.004.
_HALVINGS = 8
_WITHIN = 1.1503493803760079  #: three quarters of normal values are


@dataclass(frozen=True, slots=True)
class Spread:
    """Share of the variance of a witness that lies between groups of one kind, in [0, 1].

    Attributes:
      robust: by three quarters of the groups: of 0.4 it makes 0.47 if a twentieth of the groups
        is far out, and 0.61 if a tenth is.
      whole: by the second moment of all groups: it includes concepts that are sparse by nature.
    """

    robust: float
    whole: float


def spreads(sums: KeySums) -> tuple[Spread, ...]:
    """The spread of each witness between the groups of one kind.

    Both estimates are averaged with `ASSUMED_SPREAD`, which counts as `ASSUMED_GROUPS` groups, and
    are at least it.
    """
    return tuple(_spread(sums, witness) for witness in range(sums.scores.shape[1]))


def _spread(sums: KeySums, witness: int) -> Spread:
    scored = sums.scored[:, witness]
    chosen = scored >= SPREAD_ROWS
    groups = int(chosen.sum())
    if groups < SPREAD_ROWS:
        return Spread(ASSUMED_SPREAD, ASSUMED_SPREAD)
    means = sums.scores[chosen, witness] / (SCALE * scored[chosen])
    means = means - np.median(means)
    inverse = 1 / scored[chosen]
    robust = _robust(means, inverse)
    noise = float(inverse.mean())
    whole = min(max((float((means**2).mean()) - noise) / (1 - noise), 0.0), 1.0)

    def weighted(share: float) -> float:
        total = groups * share + ASSUMED_GROUPS * ASSUMED_SPREAD
        return max(ASSUMED_SPREAD, total / (groups + ASSUMED_GROUPS))

    return Spread(weighted(robust), weighted(whole))


def _robust(means: np.ndarray, inverse: np.ndarray) -> float:
    """The share at which three quarters of the group means are within their normal bound.

    Args:
      means: (G,) of normal scores, their median taken off.
      inverse: (G,) one over the rows of each.
    """
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        share = (low + high) / 2
        ratio = np.abs(means) / np.sqrt(share + (1 - share) * inverse)
        # A larger share makes every ratio smaller.
        low, high = (share, high) if np.quantile(ratio, 0.75) > _WITHIN else (low, share)
    return (low + high) / 2


def mean_score(mean: float, observations: int, spread: float) -> float:
    """How many standard deviations of ordinary groups a mean score lies out.

    Args:
      mean: of the normal scores of the group's rows.
      observations: distinct ones, at least 1.
      spread: share of the variance between groups.
    """
    return mean / math.sqrt(spread + (1 - spread) / observations)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one test says of a group.

    Attributes:
      witness: number of the witness whose surprise counts.
      log_p: natural logarithm of the corrected tail; may be above 0.
      is_learnt: whether it is the joint test of a high similarity and a sparse neighbourhood.
    """

    witness: int
    log_p: float
    is_learnt: bool = False

    @property
    def is_beyond(self) -> bool:
        """Whether the tail is beyond the line."""
        return self.log_p <= math.log(LINE)


@dataclass(frozen=True, slots=True)
class Tests:
    """The tests of the groups of one kind.

    Attributes:
      witnesses: W of them.
      spreads: of each.
      kinds: how many kinds of groups there are.
      kind_rows: rows in all groups of this kind, those in several counted for each.
      similarity: number of the witness that is low CLIP similarity; None without one.
      with_learnt: whether the joint test is made: a high similarity **and** a sparse
        neighbourhood, the larger of two tails (an intersection-union test).  A model that was
        trained on the rows gives both to a backdoor that it learnt, and to any rare concept.
      skips: witnesses that are not tested, as they chose the group.
    """

    witnesses: Sequence[Witness]
    spreads: Sequence[Spread]
    kinds: int
    kind_rows: int
    similarity: int | None
    with_learnt: bool
    skips: frozenset[int] = frozenset()

    @property
    def number(self) -> int:
        """Tests of one group."""
        densities = sum(witness.is_density for witness in self.witnesses)
        is_joint = self.with_learnt and self.similarity is not None
        return len(self.witnesses) + (densities if is_joint else 0)

    def outcomes(
        self,
        means: Sequence[float],
        rows: int,
        pairs: int,
        pictures: int,
        rank_means: Sequence[float] | None = None,
        copies_log_p: float = math.inf,
    ) -> list[Outcome]:
        """Test a group.

        Args:
          means: mean normal score of each witness; NaN where no row has a value.
          rows: of the group.
          pairs: distinct pairs of picture and caption.
          pictures: distinct pictures.
          rank_means: mean score by rank of each witness; None for a group of copies.
          copies_log_p: logarithm of the tail of many copies, corrected for all of these.
        """
        correction = math.log(self.number * self.kinds * max(self.kind_rows / rows, 1.0))

        def tail(number: int, spread: float, sign: float = 1.0) -> float:
            units = pictures if self.witnesses[number].is_density else pairs
            return log_tail(mean_score(sign * means[number], units, spread))

        found = []
        for number, (witness, spread) in enumerate(zip(self.witnesses, self.spreads, strict=True)):
            if math.isnan(means[number]) or number in self.skips:
                continue
            share = spread.robust if number == self.similarity else spread.whole
            log_p = tail(number, share)
            if rank_means is not None:
                log_p = max(log_p, log_tail(mean_score(rank_means[number], pairs, 0.0)))
            log_p += correction
            if number == self.similarity:
                log_p = min(log_p, copies_log_p)
            found.append(Outcome(number, log_p))
            similarity = self.similarity
            if not (self.with_learnt and witness.is_density and similarity is not None):
                continue
            if not math.isnan(means[similarity]):
                high = tail(similarity, self.spreads[similarity].robust, -1.0)
                joint = max(high, tail(number, spread.robust))
                found.append(Outcome(number, joint + correction, is_learnt=True))
        return found


def row_evidence(
    witnesses: Sequence[Witness],
    outcomes: Sequence[Outcome],
    surprises: Sequence[float],
    scored: Sequence[int],
) -> float:
    """Nats that the witnesses beyond the line have against a group.

    Args:
      witnesses: W of them.
      outcomes: of the tests.
      surprises: (W,) sums over the rows of the group.
      scored: (W,) rows of the group with a value.
    """
    strongest: dict[str, float] = {}
    for number in {outcome.witness for outcome in outcomes if outcome.is_beyond}:
        source = witnesses[number].source
        nats = surprises[number] - ROW_COST * scored[number]
        strongest[source] = max(strongest.get(source, 0.0), nats)
    for source, nats in strongest.items():
        alike = sum(witness.source == source for witness in witnesses)
        strongest[source] = max(0.0, nats - math.log(alike))
    return sum(strongest.values())


@dataclass(frozen=True, slots=True)
class CopyShares:
    """How many rows have pictures that occur as often.

    Attributes:
      counts: (C,) int64, rising: rows of each picture that occurs at least twice.
      rows: all rows.
    """

    counts: np.ndarray
    rows: int

    def evidence(self, copies: int) -> float:
        """Nats that `copies` rows of one picture carry together; 0 for a single one."""
        if copies < 2:
            return 0.0
        share = (int(self.counts[self._first(copies) :].sum()) + 1) / (self.rows + 1)
        return copies * max(0.0, -math.log(share) - ROW_COST)

    @property
    def many(self) -> int:
        """Pictures that occur at least `MANY_COPIES` times."""
        return len(self.counts) - self._first(MANY_COPIES)

    def _first(self, copies: int) -> int:
        return int(np.searchsorted(self.counts, copies))


def discoveries(log_tails: Sequence[float], tests: int) -> list[float]:
    """Logarithms of tails, corrected so that the false discovery rate is that of the line.

    Benjamini and Hochberg 1995, as adjusted tails: the i-th least of m tails becomes the least of
    m p_j / j over all j from i on.  They are scaled so that `COPIES_FDR` falls on `LINE`.

    Args:
      log_tails: natural logarithms of the tails of the least ordinary pictures.
      tests: pictures that were tested, those with larger tails too.
    """
    tests = max(tests, len(log_tails))
    order = np.argsort(log_tails, kind="stable")
    ranks = np.arange(1, len(log_tails) + 1)
    adjusted = np.sort(log_tails) + np.log(tests / ranks) + math.log(LINE / COPIES_FDR)
    adjusted = np.minimum.accumulate(adjusted[::-1])[::-1]
    found = np.zeros(len(log_tails))
    found[order] = adjusted
    return found.tolist()
