"""Density scores of a batch as the authors' code computes them, its slips included.

HanxunH/Detect-CLIP-Backdoor-Samples at ff2399a, the code of Huang et al., ICLR 2025
(arXiv:2502.01385); their tables were presumably made with it.  The reference of a row is the rest
of its batch.  The code differs from the published scores, in `clipsieve.scorers.density`, thus:

* The k-distance of a row is the distance to its neighbour k + 1; that of a neighbour counts the
  neighbour itself, at distance 0, and so is the one to its neighbour k.
* The neighbours of row i are counted with row i left out, and looked up with it counted: whoever
  comes after row i is mistaken for the row before.  With captions, whoever comes after the
  own caption is mistaken for the row two before.
* LID is `-k / sum_j log(d_i(j) / d_i(k + 1) + 0.0001)`.  LID of a neighbour, within DAO, counts
  the neighbour itself, whose term is log(0.0001).  DAO uses one k for distances and LID.
* DAO is the mean of `LID_o * log(ratio)`, the logarithm of the published power, and may be
  negative.
* SLOF and DAO are 1000 where they would be NaN or inf, and 0 where they would be -inf: a row with
  a neighbour (as looked up) of k-distance 0 scores 1000.

Defined here, where the code raises, is not finite or leaves it open: a score is NaN if the
reference has no more than k rows (lid_k for LID); LID is NaN where the code gives inf or NaN;
of neighbours at equal distance, the one with the lower number is first.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from clipsieve.errors import UsageError
from clipsieve.scorers.base import Input, PairBatch, Scorer, score_column
from clipsieve.scorers.density import DEFAULT_K, DEFAULT_LID_K
from clipsieve.scorers.options import check_flag, check_ints
from clipsieve.store.pairs import BATCH_ROWS

if TYPE_CHECKING:
    import torch

_OFFSET = 1e-4
_SOURCE = "HanxunH/Detect-CLIP-Backdoor-Samples at ff2399a"
#: End of a column's name, name of the score, and what it is.
_COLUMNS = (
    ("kdist", "k_distance", "distance to neighbour k + 1"),
    ("slof", "slof", "SLOF"),
    ("dao", "dao", "mean logarithm of DAO's terms"),
    ("lid", "lid_mle", "LID, maximum likelihood"),
    ("lid_mom", "lid_mom", "LID, method of moments"),
)

#: Distances held at a time, besides the result.
_BLOCK = 1 << 22


def released_scores(
    images: np.ndarray,
    texts: np.ndarray | None = None,
    k: int = DEFAULT_K,
    lid_k: int = DEFAULT_LID_K,
    *,
    valid: np.ndarray | None = None,
) -> Mapping[str, np.ndarray]:
    """Score each image of a batch as the authors' code does on one process.

    Distances are Euclidean, of the vectors as they are, without matrix products: the authors' own
    setting.  All is computed in float32, as there.  Time grows with B * B * D.

    Args:
      images: (B, D), finite where valid; computed in float32.
      texts: (B, D) captions of the images, finite where valid.  If given, the reference of an image
        is the other images and the other captions; else the other images.
      k: the code's k for k-distance, SLOF and DAO.
      lid_k: the code's k for LID.
      valid: (B,) bool, which images (with texts, whole pairs) there are; all if None.  The others
        score NaN and are in no reference.

    Returns:
      `k_distance`, `slof`, `dao`, `lid_mle` and `lid_mom`, each (B,) float32, higher more
      suspicious; never inf, NaN where undefined.  B = 0: empty arrays.

    Raises:
      UsageError: if k or lid_k is below 1, shapes differ, or a valid component is not finite.
    """
    import torch  # takes seconds

    valid = _check_batch(images, texts, k, lid_k, valid)
    count = int(valid.sum())
    reference = images[valid].astype(np.float32)
    own = np.arange(count)[:, None]
    if texts is not None:
        reference = np.concatenate([reference, texts[valid].astype(np.float32)])
        own = np.concatenate([own, own + count], axis=1)

    distances, indices = nearest(reference[:count], reference, own, max(k, lid_k) + 1)
    ascending = torch.from_numpy(distances)
    # The code counts each reference row among its own neighbours.
    nobody = np.empty((len(reference), 0), np.int64)
    self_counting = torch.from_numpy(nearest(reference, reference, nobody, k + 1)[0])
    slof, dao = _relative_scores(ascending, indices, own, self_counting, k)
    scores = {
        "k_distance": ascending[:, k],
        "slof": slof.nan_to_num(nan=1000.0, posinf=1000.0, neginf=0.0),
        "dao": dao.nan_to_num(nan=1000.0, posinf=1000.0, neginf=0.0),
        "lid_mle": _lid_mle(ascending, lid_k),
        "lid_mom": _lid_mom(ascending, lid_k),
    }
    others = len(reference) - own.shape[1]
    filled = {name: np.full(len(images), np.nan, np.float32) for name in scores}
    for name, score in scores.items():
        if others > (lid_k if name.startswith("lid") else k):
            filled[name][valid] = score.where(score.isfinite(), torch.nan).numpy()
    return filled


class ReleasedDensity(Scorer):
    """The scores of the authors' code, batch after batch of consecutive rows of a shard.

    As there, a row's scores depend on the rows of its batch and on their order: they are for
    comparison with the paper.  With captions, a row without one has no score.
    """

    name, family = "density.released", "density"
    columns = pa.schema(
        [
            score_column(
                f"density_released_{end}",
                f"{doc}, as the authors' code computes it",
                "higher is more suspicious",
                "(-inf, inf)",
                _SOURCE,
            )
            for end, _, doc in _COLUMNS
        ]
    )

    def __init__(
        self,
        batch: int = 2048,
        k: int = DEFAULT_K,
        lid_k: int = DEFAULT_LID_K,
        texts: bool = False,
    ) -> None:
        """Make a scorer over batches of `batch` rows; the last of a shard may be smaller.

        Args:
          batch: rows of a batch, a power of two up to 16,384.
          k: the code's k for k-distance, SLOF and DAO.
          lid_k: the code's k for LID.
          texts: whether captions are in the reference beside images.

        Raises:
          UsageError: for a value out of range.
        """
        check_ints(self.name, {"batch": (batch, 1), "k": (k, 1), "lid_k": (lid_k, 1)})
        if BATCH_ROWS % batch:
            raise UsageError(
                f"option batch of scorer {self.name} must be a power of two up to {BATCH_ROWS}, "
                f"got {batch}"
            )
        check_flag(self.name, "texts", texts)
        self._batch, self._k, self._lid_k, self._texts = batch, k, lid_k, texts
        sides = {Input.IMAGE_EMBEDDING, Input.TEXT_EMBEDDING} if texts else {Input.IMAGE_EMBEDDING}
        self.needs = frozenset(sides)

    def parameters(self) -> Mapping[str, Any]:
        """All options."""
        return {"batch": self._batch, "k": self._k, "lid_k": self._lid_k, "texts": self._texts}

    def score(self, batch: PairBatch, loaded: Any) -> Mapping[str, np.ndarray]:
        """Five columns; NaN where image, or caption with `texts`, has no embedding."""
        assert batch.image is not None
        valid, captions = batch.image.valid, None
        if self._texts:
            captions = batch.texts[""].vectors
            valid = valid & batch.texts[""].valid
        columns = {f"density_released_{end}": np.empty(len(batch)) for end, _, _ in _COLUMNS}
        for first in range(0, len(batch), self._batch):
            rows = slice(first, first + self._batch)
            texts = None if captions is None else captions[rows]
            scores = released_scores(
                batch.image.vectors[rows], texts, self._k, self._lid_k, valid=valid[rows]
            )
            for end, name, _ in _COLUMNS:
                columns[f"density_released_{end}"][rows] = scores[name]
        return columns


def nearest(
    queries: np.ndarray, reference: np.ndarray, own: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k reference rows nearest to each query by comparing all with all, as the code does.

    Distances are float32 or float64 sums of squared differences, not products, so that equal rows
    are at distance 0.  `ExactIndex` does not serve: its distances are rounded once, and differ
    from float32 sums in the last digit, which the logarithms of LID and DAO magnify.

    Args:
      queries: (N, D) float32 or float64, finite.
      reference: (R, D) of the same type, finite.
      own: (N, E) int64 numbers of reference rows that are no neighbours of the query; -1 for
        none.
      k: columns of the result, at least 1.

    Returns:
      Distances, (N, k) of the type given, ascending, inf where there are fewer than k; numbers
      of reference rows, (N, k) int64, -1 where there are fewer.  Equal distances: lower first.
    """
    import torch  # takes seconds

    distances = np.full((len(queries), k), np.inf, queries.dtype)
    indices = np.full((len(queries), k), -1, np.int64)
    if not len(reference):
        return distances, indices
    kept, step = min(k, len(reference)), max(1, _BLOCK // len(reference))
    rows = torch.from_numpy(np.ascontiguousarray(reference))
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        near = torch.cdist(
            torch.from_numpy(np.ascontiguousarray(queries[block])),
            rows,
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        query, slot = np.nonzero(own[block] >= 0)
        near[query, own[block][query, slot]] = torch.inf
        ascending, columns = torch.sort(near, dim=1, stable=True)
        distances[block, :kept] = ascending[:, :kept].numpy()
        indices[block, :kept] = columns[:, :kept].numpy()
    indices[np.isposinf(distances)] = -1
    return distances, indices


def _check_batch(
    images: np.ndarray, texts: np.ndarray | None, k: int, lid_k: int, valid: np.ndarray | None
) -> np.ndarray:
    """Refuse wrong shapes, numbers and components; return which rows are valid, (B,) bool."""
    if k < 1 or lid_k < 1:
        raise UsageError(f"k and lid_k must be at least 1, got {k} and {lid_k}")
    if images.ndim != 2:
        raise UsageError(f"images must have shape (B, D), got {images.shape}")
    if texts is not None and texts.shape != images.shape:
        raise UsageError(
            f"images of shape {images.shape} and texts of shape {texts.shape} are not pairs; "
            "give one caption vector per image"
        )
    if valid is None:
        valid = np.ones(len(images), bool)
    if valid.shape != images.shape[:1]:
        raise UsageError(
            f"valid of shape {valid.shape} does not go with vectors of shape {images.shape}; "
            "give one flag per row"
        )
    for name, vectors in (("images", images), ("texts", texts)):
        if vectors is not None:
            infinite = np.flatnonzero(valid & ~np.isfinite(vectors).all(axis=1))
            if len(infinite):
                raise UsageError(
                    f"{name} row {infinite[0]} is not finite; leave such rows out of the batch"
                )
    return valid


def _relative_scores(
    ascending: "torch.Tensor",
    indices: np.ndarray,
    own: np.ndarray,
    self_counting: "torch.Tensor",
    k: int,
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Compute SLOF and DAO before their NaN and inf are replaced, (B,) each."""
    import torch

    # The slip: numbers counted without the own rows are looked up among all rows.
    kept = indices[:, :k]
    mistaken = torch.from_numpy(kept - (kept[:, :, None] > own[:, None]).sum(axis=2))
    ratio = ascending[:, k, None] / self_counting[:, k][mistaken]
    powers = _lid_mle(self_counting, k)[mistaken] * ratio.log()
    return ratio.mean(dim=1), powers.mean(dim=1)


def _lid_mle(ascending: "torch.Tensor", k: int) -> "torch.Tensor":
    """Estimate dimensions by maximum likelihood with the offset of the code, (rows,)."""
    share = ascending[:, :k] / ascending[:, k, None]
    return -k / (share + _OFFSET).log().sum(dim=1)


def _lid_mom(ascending: "torch.Tensor", k: int) -> "torch.Tensor":
    """Estimate dimensions by the method of moments, (rows,)."""
    mean = ascending[:, :k].mean(dim=1)
    return mean / (ascending[:, k] - mean)
