"""How sparse the surroundings of a row are: k-distance, SLOF, DAO, LOF and LID.

Backdoor samples of a CLIP model lie in sparser places of its embedding space than clean ones
(Huang et al., ICLR 2025, arXiv:2502.01385, section 4).  Here are the scores as their papers
define them; `clipsieve.scorers.density_released` has what the authors' code computes.

Everything is a function of neighbour lists:

* `distances`: (N, C) floating, row i holds the distances of row i to its nearest reference rows,
  ascending, its own row left out; inf where there are fewer than C.
* `indices`: (N, C) int64, the numbers of these reference rows; -1 where there are fewer.

Functions read the first k columns and work in float64, N x k values at a time.  d_i(k) below is
the k-distance of row i.  Higher is more suspicious throughout.  Results are (N,) float64, at
least 0, never inf, and NaN where undefined.

Edges, the same for all functions:

* Fewer than k neighbours, m of them: all m are used, as if k were m.
* No neighbour at all, which is also how a missing row is given: NaN.  A NaN distance, or a
  neighbour whose own density is undefined: NaN.
* Of ratios, 0 / 0 is 1, for a row as dense as its neighbour, and x / 0 is 1000, the value the
  authors' code has there.  A ratio to a distance that is small and not 0 may be larger.
* LID is 0 if any of the k distances is 0, the limit of its formula (and so if all are), and 10000
  if all are equal and not 0, where the formula is infinite.  10000 is also its upper bound.
* Ratios, and powers in DAO, are bounded by the largest float32, about 3.4e38.
* In DAO a neighbour with d_o(k) = 0 has no dimension to give: its ratio, 1 or 1000, is not raised
  to a power.
* Neighbours at equal distance: as the lists order them.  N = 0: an empty array.
"""

from dataclasses import dataclass

import numpy as np

from clipsieve.errors import UsageError

#: Neighbours of all scores but LID, and of LID (Huang et al., released experiments).
DEFAULT_K = 16
DEFAULT_LID_K = 64

RATIO_TO_ZERO = 1000.0
RATIO_MAX = float(np.finfo(np.float32).max)
LID_MAX = 1e4


@dataclass(frozen=True, slots=True)
class ReferenceDensity:
    """What SLOF, DAO and LOF need to know of the R reference rows; see `reference_density`.

    Attributes:
      k_distance: (R,) float64 distance of each row to its k-th neighbour in the reference.
      lid: (R,) float64 local intrinsic dimensionality, the exponent of DAO.
      reachability: (R,) float64 mean reachability distance: one over Breunig's local
        reachability density, and finite where that is not; None if LOF is not wanted.
    """

    k_distance: np.ndarray
    lid: np.ndarray
    reachability: np.ndarray | None = None


def reference_density(
    distances: np.ndarray, indices: np.ndarray, k: int = DEFAULT_K, lid_k: int | None = None
) -> ReferenceDensity:
    """Densities of the reference rows from their lists within the reference.

    Args:
      distances: (R, C) of the reference rows, in their order.
      indices: (R, C) numbers of reference rows.
      k: neighbours of k-distance and reachability; the k of the scores made from the result.
      lid_k: neighbours of the LID that DAO uses; k if None, as Huang et al. do.  Anderberg et
        al. choose it apart from k, between 5 and 780 in their experiments.

    Returns:
      R values of each kind.

    Raises:
      UsageError: if k or lid_k is below 1 or above C, or the lists do not fit together.
    """
    _check_indices(distances, indices, len(distances))
    kdist = k_distance(distances, k)
    return ReferenceDensity(
        k_distance=kdist,
        lid=lid_mle(distances, k if lid_k is None else lid_k),
        reachability=_reachability(distances, indices, kdist, k),
    )


def k_distance(distances: np.ndarray, k: int = DEFAULT_K) -> np.ndarray:
    """Distance of each row to its k-th nearest neighbour.

    Args:
      distances: (N, C), C >= k.
      k: at least 1.

    Returns:
      (N,) in the unit of the distances.

    Raises:
      UsageError: if k is below 1 or above C.

    >>> k_distance(np.array([[1.0, 2.0, 4.0], [3.0, np.inf, np.inf]]), 2).tolist()
    [2.0, 3.0]
    """
    kept, present = _first(distances, k)
    return np.where(present.any(axis=1), np.where(present, kept, -np.inf).max(axis=1), np.nan)


def lid_mle(distances: np.ndarray, k: int = DEFAULT_LID_K) -> np.ndarray:
    """Local intrinsic dimensionality, maximum likelihood (Amsaleg et al., KDD 2015, section 4.1).

    `-k / sum_j log(d_i(j) / d_i(k))` over j = 1..k.  Levina and Bickel, and with them Anderberg
    et al., have k - 1 above the line.

    Args:
      distances: (N, C), C >= k.
      k: at least 1; with one neighbour there is no spread, and the value is 10000.

    Returns:
      (N,) in [0, 10000].

    Raises:
      UsageError: if k is below 1 or above C.

    >>> lid_mle(np.exp([[1.0, 2.0, 4.0]]), 3).round(9).tolist()
    [0.6]
    """
    kept, present = _first(distances, k)
    far = k_distance(distances, k)
    # Zero distances give LID 0 below; a 1 in their place keeps the logarithm quiet.
    positive = present & (kept != 0)
    share = np.ones_like(kept)
    np.divide(kept, far[:, None], out=share, where=positive)
    return _dimension(present.sum(axis=1), -np.log(share).sum(axis=1), far, present, positive)


def lid_mom(distances: np.ndarray, k: int = DEFAULT_LID_K) -> np.ndarray:
    """Local intrinsic dimensionality, method of moments (Amsaleg et al., KDD 2015, section 4.2).

    `m / (d_i(k) - m)` with m the mean of d_i(1)..d_i(k).  A single distance of 0 does not make
    it 0, as it does `lid_mle`; all k do.

    Args:
      distances: (N, C), C >= k.
      k: at least 1; with one neighbour the value is 10000.

    Returns:
      (N,) in [0, 10000].

    Raises:
      UsageError: if k is below 1 or above C.

    >>> lid_mom(np.array([[1.0, 2.0, 3.0]]), 3).tolist()
    [2.0]
    """
    kept, present = _first(distances, k)
    far = k_distance(distances, k)
    mean = _mean(kept, present)
    return _dimension(mean, far - mean, far, present, present & (far != 0)[:, None])


def slof(
    distances: np.ndarray, indices: np.ndarray, reference: ReferenceDensity, k: int = DEFAULT_K
) -> np.ndarray:
    """Simplified local outlier factor: mean of `d_i(k) / d_o(k)` over the k neighbours o.

    Schubert, Zimek and Kriegel, Data Mining and Knowledge Discovery 28, 2014, section 3.

    Args:
      distances: (N, C), C >= k.
      indices: (N, C), below R.
      reference: densities of the R reference rows, for the same k.
      k: at least 1.

    Returns:
      (N,), about 1 for a row as dense as its neighbours; free of scale.

    Raises:
      UsageError: if k is below 1 or above C, or the lists do not fit the reference.
    """
    present, near = _neighbours(distances, indices, reference.k_distance, k)
    return _mean(_ratio(k_distance(distances, k)[:, None], near), present)


def dao(
    distances: np.ndarray, indices: np.ndarray, reference: ReferenceDensity, k: int = DEFAULT_K
) -> np.ndarray:
    """Dimensionality-aware outlier score: mean of `(d_i(k) / d_o(k)) ** LID_o` over neighbours o.

    Anderberg et al., SDM 2024, arXiv:2401.05453.  The estimator of LID_o, and its
    neighbourhood, are those of `reference_density`.

    Args:
      distances: (N, C), C >= k.
      indices: (N, C), below R.
      reference: densities of the R reference rows, for the same k.
      k: at least 1.

    Returns:
      (N,) in [0, 3.4e38], spread over many orders of magnitude; free of scale.

    Raises:
      UsageError: if k is below 1 or above C, or the lists do not fit the reference.
    """
    present, near = _neighbours(distances, indices, reference.k_distance, k)
    _, lid = _neighbours(distances, indices, reference.lid, k)
    ratio = _ratio(k_distance(distances, k)[:, None], near)
    logarithm = np.zeros_like(ratio)
    np.log(ratio, out=logarithm, where=ratio != 0)
    # The exponent is bounded before the power is taken, which would overflow.
    power = np.exp(np.minimum(lid * logarithm, np.log(RATIO_MAX)))
    power[(ratio == 0) & (lid > 0)] = 0.0
    score: np.ndarray = np.minimum(_mean(np.where(near == 0, ratio, power), present), RATIO_MAX)
    return score


def lof(
    distances: np.ndarray, indices: np.ndarray, reference: ReferenceDensity, k: int = DEFAULT_K
) -> np.ndarray:
    """Local outlier factor: mean of `lrd(o) / lrd(i)` over the k neighbours o.

    Breunig et al., SIGMOD 2000, definitions 5 to 7, with exactly k neighbours even where the
    k-th and the next are equally far; scikit-learn does the same.

    Args:
      distances: (N, C), C >= k.
      indices: (N, C), below R.
      reference: densities of the R reference rows, for the same k.
      k: at least 1.

    Returns:
      (N,), about 1 for a row as dense as its neighbours; free of scale.

    Raises:
      UsageError: if k is below 1 or above C, the lists do not fit the reference, or it has no
        reachability.
    """
    if reference.reachability is None:
        raise UsageError("LOF needs the reachability of the reference; use reference_density")
    present, near = _neighbours(distances, indices, reference.reachability, k)
    own = _reachability(distances, indices, reference.k_distance, k)
    return _mean(_ratio(own[:, None], near), present)


def _first(distances: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """First k distances of each row, (N, k) float64 with 0 where there is none; which exist."""
    if k < 1:
        raise UsageError(f"k must be at least 1, got {k}")
    if distances.ndim != 2 or distances.shape[1] < k:
        raise UsageError(
            f"k = {k} needs neighbour lists of at least {k} columns, got distances of shape "
            f"{distances.shape}; search for {k} neighbours"
        )
    kept = distances[:, :k].astype(np.float64)
    present = kept != np.inf
    kept[~present] = 0.0
    return kept, present


def _neighbours(
    distances: np.ndarray, indices: np.ndarray, values: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which of the first k neighbours of each row exist, and their `values`, NaN where not."""
    _, present = _first(distances, k)
    _check_indices(distances, indices, len(values))
    return present, np.append(values, np.nan)[indices[:, :k]]


def _check_indices(distances: np.ndarray, indices: np.ndarray, rows: int) -> None:
    """Raise unless `indices` go with `distances` and name rows of a reference of `rows`."""
    if distances.shape != indices.shape:
        raise UsageError(
            f"distances of shape {distances.shape} and indices of shape {indices.shape} are not "
            "one set of neighbour lists; give both from the same search"
        )
    if indices.size and not -1 <= indices.min() <= indices.max() < rows:
        raise UsageError(
            f"neighbours {indices.min()} to {indices.max()} are not all in a reference of {rows} "
            "rows; search the reference the densities were made from"
        )


def _reachability(
    distances: np.ndarray, indices: np.ndarray, reference_k_distance: np.ndarray, k: int
) -> np.ndarray:
    """Mean over neighbours o of `max(d_o(k), distance to o)`."""
    present, near = _neighbours(distances, indices, reference_k_distance, k)
    kept, _ = _first(distances, k)
    return _mean(np.maximum(near, kept), present)


def _ratio(far: np.ndarray, near: np.ndarray) -> np.ndarray:
    """`far / near` in [0, RATIO_MAX], with values for x / 0 and 0 / 0; NaN if either is."""
    far, near = np.broadcast_arrays(far, near)
    ratio = np.full(far.shape, RATIO_MAX)
    np.divide(far, near, out=ratio, where=near > far / RATIO_MAX)
    ratio[near == 0] = RATIO_TO_ZERO
    ratio[(near == 0) & (far == 0)] = 1.0
    ratio[np.isnan(far) | np.isnan(near)] = np.nan
    return ratio


def _mean(terms: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Mean of the `present` terms of each row; NaN where there are none."""
    count = present.sum(axis=1)
    mean = np.full(len(terms), np.nan)
    np.divide(np.where(present, terms, 0.0).sum(axis=1), count, out=mean, where=count > 0)
    return mean


def _dimension(
    above: np.ndarray,
    below: np.ndarray,
    far: np.ndarray,
    present: np.ndarray,
    positive: np.ndarray,
) -> np.ndarray:
    """`above / below` in [0, LID_MAX]; 0 where a distance is not positive, NaN with `far`."""
    lid = np.full(len(far), LID_MAX)
    np.divide(above, below, out=lid, where=below > above / LID_MAX)
    lid[(present & ~positive).any(axis=1)] = 0.0
    return np.where(np.isnan(far), np.nan, lid)
