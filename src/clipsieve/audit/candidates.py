"""Groups that may be out of the ordinary, by the sums over their rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clipsieve.audit.evidence import MANY_COPIES, Tests, row_evidence, spreads
from clipsieve.audit.key_sums import SCALE, KeySums
from clipsieve.audit.keys import Kind
from clipsieve.audit.witnesses import LOW_SIMILARITY, SawData, Witness

#: Rows of the smallest group.
LEAST_ROWS = 4
#: A word or host of a larger share of the rows is no group but the dataset.
MOST_SHARE = 0.1
#: Groups whose rows are looked at.
MOST_CANDIDATES = 4096


@dataclass(frozen=True, slots=True)
class Candidate:
    """A group that may be out of the ordinary.

    Attributes:
      kind: what its rows share.
      key: of that; for `Kind.PICTURE` the number of its representative.
      rows: in the dataset.
    """

    kind: Kind
    key: int
    rows: int


def groups_of_kind(kind: Kind, sums: KeySums, rows: int) -> KeySums:
    """The keys of one kind that are groups at all, of a dataset of `rows` rows."""
    chosen = sums.rows >= LEAST_ROWS
    if kind in (Kind.CAPTION_WORD, Kind.HOST):
        chosen &= sums.rows <= MOST_SHARE * rows
    return sums.among(chosen)


def tests_of_kinds(
    groups: Mapping[Kind, KeySums], witnesses: Sequence[Witness], saw_data: SawData
) -> dict[Kind, Tests]:
    """The tests of every kind of which there are groups, and of pictures.

    Groups of near pictures are found among rows of low similarity and lie as dense as they lie
    near, so density is not tested there.
    """
    kinds = [kind for kind, sums in groups.items() if len(sums.keys)]
    similarity = witnesses.index(LOW_SIMILARITY) if LOW_SIMILARITY in witnesses else None
    with_learnt = saw_data is not SawData.NO
    tests = {
        kind: Tests(
            witnesses,
            spreads(groups[kind]),
            len(kinds) + 1,
            int(groups[kind].rows.sum()),
            similarity,
            with_learnt,
        )
        for kind in kinds
    }
    none = KeySums.from_rows(
        np.zeros(0, np.uint64), np.zeros((0, len(witnesses))), np.zeros((0, len(witnesses)))
    )
    densities = frozenset(n for n, witness in enumerate(witnesses) if witness.is_density)
    picture = Tests(witnesses, spreads(none), len(kinds) + 1, 0, similarity, False, densities)
    return {**tests, Kind.PICTURE: picture}


def find_candidates(groups: Mapping[Kind, KeySums], tests: Mapping[Kind, Tests]) -> list[Candidate]:
    """Groups beyond the line if each row were an observation of its own, most evidence first.

    At most `MOST_CANDIDATES`.  Fewer observations only bring a group nearer to ordinary ones.
    """
    found: list[tuple[float, Candidate]] = []
    for kind, sums in groups.items():
        if kind not in tests:
            continue
        with np.errstate(invalid="ignore", divide="ignore"):
            means = sums.scores / (SCALE * sums.scored)
        nats = sums.surprises / SCALE
        # A mean score near 0 is that of an ordinary group; the joint test asks for a high one too.
        for place in np.flatnonzero(np.nanmax(np.nan_to_num(means), axis=1) > 0).tolist():
            rows = int(sums.rows[place])
            # A group of one caption or picture may turn out to be copies.
            may_be_copies = rows >= MANY_COPIES and not kind.is_wide
            outcomes = tests[kind].outcomes(
                means[place].tolist(),
                rows,
                rows,
                rows,
                copies_log_p=-math.inf if may_be_copies else math.inf,
            )
            scored = sums.scored[place].tolist()
            own = tests[kind].witnesses
            evidence = row_evidence(own, outcomes, nats[place].tolist(), scored)
            if evidence > 0:
                found.append((evidence, Candidate(kind, int(sums.keys[place]), rows)))
    order = list(Kind)
    found.sort(key=lambda each: (-each[0], order.index(each[1].kind), each[1].key))
    return [candidate for _, candidate in found[:MOST_CANDIDATES]]
