"""How much speaks against a group, and which captions bind one.

Under the hypothesis that a group's rows are ordinary rows, drawn from the dataset without regard
to their score, the tail share q of each row is uniform in (0, 1].  A suspicious row (q <= tail)
then carries a surprise of -ln q nats, and a row picked at random is expected to carry

    E[-ln q; q <= tail] = tail * (1 - ln tail).

The evidence against a group is what its rows carry beyond that expectation: the logarithm of the
truncated product of p-values (Zaykin et al. 2002) minus its mean.  It grows with the number
of suspicious rows and with how suspicious each is, and every ordinary row of the same group takes
away from it.  So many rows of one caption outrank one extreme row or a pair of duplicates, and a
caption that is merely frequent has none.  Copies are not independent, so it ranks; it is not a
significance level.
"""

import math

import numpy as np

#: A caption of which a smaller share of the rows is suspicious says nothing about them.
BINDING_SHARE = 0.25
#: Nor does one that is not suspicious this many times as often as rows in general.
BINDING_LIFT = 2.0


def expected_surprise(tail: float) -> float:
    """Nats that an ordinary row carries on average, if a share `tail` of all rows is suspicious.

    >>> round(expected_surprise(0.01), 4), expected_surprise(0.0)
    (0.0561, 0.0)
    """
    return tail * (1 - math.log(tail)) if tail > 0 else 0.0


def evidence(tails: np.ndarray, rows: int, tail: float) -> float:
    """Nats of surprise beyond what as many ordinary rows carry; negative if there is less.

    Args:
      tails: (M,) float64 in (0, tail], of the group's suspicious rows.
      rows: rows of the group, suspicious or not; at least M.
      tail: share of all scored rows that are suspicious.
    """
    return float(-np.log(tails).sum()) - rows * expected_surprise(tail)


def binds(suspicious: int, rows: int, tail: float) -> bool:
    """Whether rows of one caption belong together because of it.

    Boilerplate ("image for sale") stands under pictures of all kinds: about a share `tail` of
    its rows is suspicious, and it would tie unrelated groups into one.

    Args:
      suspicious: suspicious rows with the caption.
      rows: scored rows of the dataset with it.
      tail: share of all scored rows that are suspicious.
    """
    share = min(1.0, max(BINDING_SHARE, BINDING_LIFT * tail))
    return suspicious >= 2 and suspicious >= share * rows
