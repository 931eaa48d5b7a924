"""Density scores of one whole batch against itself, by brute force, in either convention."""

from collections.abc import Mapping
from enum import StrEnum

import numpy as np

from clipsieve.errors import UsageError
from clipsieve.scorers.brute_force import nearest
from clipsieve.scorers.density import (
    DEFAULT_K,
    DEFAULT_LID_K,
    dao,
    k_distance,
    lid_mle,
    lid_mom,
    lof,
    reference_density,
    slof,
)
from clipsieve.scorers.density_released import check_batch, released_scores


class Convention(StrEnum):
    """Whose definition of the scores.

    Attributes:
      PUBLISHED: the papers', `clipsieve.scorers.density`.
      RELEASED: the authors' code's, `clipsieve.scorers.density_released`.
    """

    PUBLISHED = "published"
    RELEASED = "released"


def batch_scores(
    images: np.ndarray,
    texts: np.ndarray | None = None,
    k: int = DEFAULT_K,
    lid_k: int = DEFAULT_LID_K,
    convention: str = Convention.PUBLISHED,
    *,
    valid: np.ndarray | None = None,
    text_valid: np.ndarray | None = None,
) -> Mapping[str, np.ndarray]:
    """Scores of each image of a batch, the rest of the batch being the reference.

    Time grows with B * B * D, memory with B * B at most.  In the published convention distances
    are float64, and no row has its own row or the other half of its pair as a neighbour: neither
    the images that are scored nor, for their densities, the rows of the reference.

    A row is missing if its mask says so or a component is not finite.  Missing rows score NaN
    and are in no reference.  A missing caption leaves its image scored in the published
    convention; in the released one, which knows whole pairs only, it leaves out the pair.  A zero
    vector is a vector like any other, unless a mask says that it is missing.

    Args:
      images: (B, D) floating.
      texts: (B, D) captions of the images.  If given, the reference of an image is the other
        images and the other captions; else the other images.
      k: neighbours of all scores but LID.
      lid_k: neighbours of LID; DAO uses LID with k neighbours.
      convention: whose definition, a `Convention` or its value.
      valid: (B,) bool, which images are there; all if None.
      text_valid: (B,) bool, which captions are there; all if None.

    Returns:
      `k_distance`, `slof`, `dao`, `lid_mle`, `lid_mom` and, if published, `lof`: each (B,)
      floating, higher more suspicious; never inf, NaN where undefined.

    Raises:
      UsageError: if k or lid_k is below 1, shapes differ, a text mask comes without texts, or
        the convention is unknown.
    """
    check_batch(images, texts, k, lid_k)
    if convention not in list(Convention):
        raise UsageError(
            f"convention {convention!r} is not known; choose from {', '.join(Convention)}"
        )
    if texts is None and text_valid is not None:
        raise UsageError("text_valid is given but texts is None; give both or neither")
    present = _present("valid", images, valid)
    present_text = np.zeros(0, bool) if texts is None else _present("text_valid", texts, text_valid)
    if convention == Convention.PUBLISHED:
        return _published(images, texts, k, lid_k, present, present_text)
    whole = present if texts is None else present & present_text
    scores = released_scores(images[whole], None if texts is None else texts[whole], k, lid_k)
    return {name: _spread(value, whole) for name, value in scores.items()}


def _published(
    images: np.ndarray,
    texts: np.ndarray | None,
    k: int,
    lid_k: int,
    present: np.ndarray,
    present_text: np.ndarray,
) -> dict[str, np.ndarray]:
    """Published scores of the present images, NaN for the others."""
    vectors = images if texts is None else np.concatenate([images, texts])
    there = np.flatnonzero(np.concatenate([present, present_text]))
    number = np.full(len(vectors), -1)
    number[there] = np.arange(len(there))
    halves = number.reshape(1 if texts is None else 2, len(images))
    pair = halves.T[there % max(len(images), 1)]
    reference = vectors[there].astype(np.float64)
    distances, indices = nearest(reference, reference, pair, max(k, lid_k))

    density = reference_density(distances, indices, k)
    scored = int(present.sum())
    distances, indices = distances[:scored], indices[:scored]
    scores = {
        "k_distance": k_distance(distances, k),
        "slof": slof(distances, indices, density, k),
        "dao": dao(distances, indices, density, k),
        "lof": lof(distances, indices, density, k),
        "lid_mle": lid_mle(distances, lid_k),
        "lid_mom": lid_mom(distances, lid_k),
    }
    return {name: _spread(value, present) for name, value in scores.items()}


def _present(name: str, vectors: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """(B,) bool: rows that are finite, and in the mask of that name if there is one."""
    finite: np.ndarray = np.isfinite(vectors).all(axis=1)
    if valid is not None and valid.shape != finite.shape:
        raise UsageError(
            f"{name} of shape {valid.shape} does not go with vectors of shape {vectors.shape}; "
            "give one flag per row"
        )
    return finite if valid is None else finite & valid


def _spread(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """`values` at the places that are present, NaN at the others."""
    spread = np.full(len(present), np.nan, values.dtype)
    spread[present] = values
    return spread
