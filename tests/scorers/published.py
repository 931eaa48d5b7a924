"""Published density scores of one batch against itself, by brute force in float64."""

import numpy as np

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
from clipsieve.scorers.density_released import nearest


def published_scores(
    images, texts=None, k=DEFAULT_K, lid_k=DEFAULT_LID_K, *, valid=None, text_valid=None
):
    """Scores of each image of a batch, the rest of the batch being the reference.

    No row has its own row or the other half of its pair as a neighbour: neither the images that
    are scored nor, for their densities, the rows of the reference.  Rows that a mask excludes
    score NaN and are in no reference, and so those that are not finite; a missing caption leaves
    its image scored.
    """
    present = rows_present(images, valid)
    vectors, both = images, present
    if texts is not None:
        vectors = np.concatenate([images, texts])
        both = np.concatenate([present, rows_present(texts, text_valid)])
    rows = np.flatnonzero(both)
    number = np.full(len(vectors), -1)
    number[rows] = np.arange(len(rows))
    halves = number.reshape(1 if texts is None else 2, len(images))
    own = halves.T[rows % max(len(images), 1)]
    reference = vectors[rows].astype(np.float64)
    distances, indices = nearest(reference, reference, own, max(k, lid_k))

    density = reference_density(distances, indices, k)
    count = int(present.sum())
    distances, indices = distances[:count], indices[:count]
    scores = {
        "k_distance": k_distance(distances, k),
        "slof": slof(distances, indices, density, k),
        "dao": dao(distances, indices, density, k),
        "lof": lof(distances, indices, density, k),
        "lid_mle": lid_mle(distances, lid_k),
        "lid_mom": lid_mom(distances, lid_k),
    }
    filled = {name: np.full(len(images), np.nan) for name in scores}
    for name, score in scores.items():
        filled[name][present] = score
    return filled


def rows_present(vectors, valid):
    finite = np.isfinite(vectors).all(axis=1)
    return finite if valid is None else finite & valid
