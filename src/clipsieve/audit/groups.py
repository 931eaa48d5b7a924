"""Groups of suspicious rows that share a caption or a picture, most evidence first."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from clipsieve.audit.components import Components
from clipsieve.audit.evidence import binds, evidence
from clipsieve.audit.near import near_duplicates
from clipsieve.audit.suspects import Suspects

#: Cosine from which two pictures count as near-duplicates.
NEAR_COSINE = 0.95
#: Rows of a group that are named.
EXAMPLES = 5


class Why(StrEnum):
    """What holds a group together."""

    CAPTION = "caption"
    IMAGE = "image"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Group:
    """Suspicious rows of one caption, of one picture, or joined by both in turn.

    Attributes:
      evidence: nats, see `evidence`; groups are ranked by it.
      size: suspicious rows.
      rows: those, and the rows below the line that have one of the captions that bind the group.
        Near-duplicates of its pictures below the line are not looked for.
      share: `rows` as a share of the scored rows.
      score_mean: mean score of the suspicious rows.
      score_max: the highest.
      caption: the most frequent one, as the most suspicious row with it has it; None if no row
        has a caption.
      n_captions: different normalised captions; rows without one do not count.
      n_images: different pictures, near-duplicates counted as one.
      similarity: mean cosine of the pictures of two different rows.
      why: what holds it together.
      uids: different uids of at most `EXAMPLES` rows, the most suspicious first.
      urls: their addresses; None where the source has none.
    """

    evidence: float
    size: int
    rows: int
    share: float
    score_mean: float
    score_max: float
    caption: str | None
    n_captions: int
    n_images: int
    similarity: float
    why: Why
    uids: tuple[Any, ...]
    urls: tuple[str | None, ...]


def find_groups(suspects: Suspects, near_cosine: float = NEAR_COSINE) -> list[Group]:
    """Groups of at least two rows for which there is evidence, most first.

    Two rows are linked if their pictures are near-duplicates, or if they share a caption that
    `binds`; a group is whatever links connect.  Equal evidence: the larger group first, then the
    one with the more suspicious row.

    Args:
      suspects: rows in their order.
      near_cosine: threshold of near-duplicates, in (0, 1].
    """
    pictures = near_duplicates(suspects.images, near_cosine)
    linked = pictures.copy()
    binding = _binding_captions(suspects)
    _join_captions(linked, suspects.normal, binding)
    labels = linked.labels()
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    image_labels = pictures.labels()
    groups = [
        _group(suspects, members, image_labels[members], binding)
        for members in np.split(order, starts[1:])
        if len(members) > 1
    ]
    supported = [group for group in groups if group.evidence > 0]
    # Groups stand in the order of their most suspicious row, and sorting keeps it among equals.
    return sorted(supported, key=lambda group: (-group.evidence, -group.size))


def _binding_captions(suspects: Suspects) -> dict[str, int]:
    """Rows of the dataset, for every caption that links its suspicious rows."""
    suspicious = Counter(suspects.normal)
    return {
        caption: rows
        for caption, rows in suspects.caption_rows.items()
        if binds(suspicious[caption], rows, suspects.threshold.tail)
    }


def _join_captions(
    linked: Components, normal: Sequence[str | None], binding: dict[str, int]
) -> None:
    """Join every row with the first that has its caption."""
    first: dict[str, int] = {}
    pairs = [
        (first.setdefault(caption, row), row)
        for row, caption in enumerate(normal)
        if caption is not None and caption in binding
    ]
    one, other = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    linked.join(one, other)


def _group(
    suspects: Suspects, members: np.ndarray, images: np.ndarray, binding: dict[str, int]
) -> Group:
    """What is known about the rows `members` (ascending), whose pictures have labels `images`."""
    captions = Counter(form for n in members if (form := suspects.normal[n]) is not None)
    below = sum(binding[form] - count for form, count in captions.items() if form in binding)
    rows = len(members) + below
    scores = suspects.scores[members].astype(np.float64)
    n_images = len(np.unique(images))
    by_caption = any(form in binding for form in captions)
    by_image = n_images < len(members)
    examples = _distinct(suspects.uids, members)
    return Group(
        evidence=evidence(
            suspects.threshold.tails(suspects.scores[members]), rows, suspects.threshold.tail
        ),
        size=len(members),
        rows=rows,
        share=rows / suspects.threshold.scored,
        score_mean=float(scores.mean()),
        score_max=float(scores.max()),
        caption=_representative_caption(suspects, members, captions),
        n_captions=len(captions),
        n_images=n_images,
        similarity=_similarity(suspects.images[members]),
        why=Why.BOTH if by_caption and by_image else Why.CAPTION if by_caption else Why.IMAGE,
        uids=tuple(suspects.uids[n] for n in examples),
        urls=tuple(suspects.urls[n] for n in examples),
    )


def _representative_caption(
    suspects: Suspects, members: np.ndarray, captions: Counter[str]
) -> str | None:
    """The most frequent caption; among equals, that of the most suspicious row."""
    if not captions:
        return None
    most = max(captions.values())
    for row in members:
        form = suspects.normal[row]
        if form is not None and captions[form] == most:
            caption: str | None = suspects.captions[row]
            return caption
    return None


def _distinct(uids: Sequence[Any], members: np.ndarray) -> list[int]:
    """The first rows with different uids, `EXAMPLES` at most."""
    first: dict[Any, int] = {}
    for row in members:
        first.setdefault(uids[row], int(row))
        if len(first) == EXAMPLES:
            break
    return list(first.values())


def _similarity(unit: np.ndarray) -> float:
    """Mean cosine over all pairs of different rows; (M, D) of unit norm, M at least 2."""
    wide = unit.astype(np.float64)
    total = wide.sum(axis=0)
    count = len(wide)
    return float((total @ total - (wide * wide).sum()) / (count * (count - 1)))
