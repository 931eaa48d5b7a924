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

import numpy as np
import torch

from clipsieve.errors import UsageError
from clipsieve.scorers.brute_force import nearest
from clipsieve.scorers.density import DEFAULT_K, DEFAULT_LID_K

_OFFSET = 1e-4


def released_scores(
    images: np.ndarray,
    texts: np.ndarray | None = None,
    k: int = DEFAULT_K,
    lid_k: int = DEFAULT_LID_K,
) -> Mapping[str, np.ndarray]:
    """Scores of each image of a batch, as the authors' code gives them on one process.

    Distances are Euclidean, of the vectors as they are, without matrix products: the authors' own
    setting.  Memory grows with the square of B, not with its product with D.

    Args:
      images: (B, D), finite; computed in float32.
      texts: (B, D) captions of the images, finite.  If given, the reference of an image is the
        other images and the other captions; else the other images.
      k: the code's k for k-distance, SLOF and DAO.
      lid_k: the code's k for LID.

    Returns:
      `k_distance`, `slof`, `dao`, `lid_mle` and `lid_mom`, each (B,) float32, higher more
      suspicious; never inf, NaN where undefined.  B = 0: empty arrays.

    Raises:
      UsageError: if k or lid_k is below 1, shapes differ, or a component is not finite.
    """
    check_batch(images, texts, k, lid_k)
    for name, vectors in (("images", images), ("texts", texts)):
        if vectors is not None and not np.isfinite(vectors).all():
            row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise UsageError(f"{name} row {row} is not finite; leave such rows out of the batch")
    queries = images.astype(np.float32)
    own = np.arange(len(images))[:, None]
    reference = queries
    if texts is not None:
        reference = np.concatenate([queries, texts.astype(np.float32)])
        own = np.concatenate([own, own + len(images)], axis=1)

    deepest = max(k, lid_k)
    distances, columns = nearest(queries, reference, own, deepest + 1)
    ascending = torch.from_numpy(distances)
    slof, dao = _relative(ascending, columns, own, reference, k)
    scores = {
        "k_distance": ascending[:, k],
        "slof": torch.nan_to_num(slof, nan=1000.0, posinf=1000.0, neginf=0.0),
        "dao": torch.nan_to_num(dao, nan=1000.0, posinf=1000.0, neginf=0.0),
        "lid_mle": _lid_mle(ascending, lid_k),
        "lid_mom": _lid_mom(ascending, lid_k),
    }
    others = len(reference) - own.shape[1]
    return {
        name: _defined(value.numpy(), others > (lid_k if name.startswith("lid") else k))
        for name, value in scores.items()
    }


def check_batch(images: np.ndarray, texts: np.ndarray | None, k: int, lid_k: int) -> None:
    """Raise UsageError unless these are (B, D) vectors and numbers of neighbours."""
    if k < 1 or lid_k < 1:
        raise UsageError(f"k and lid_k must be at least 1, got {k} and {lid_k}")
    if images.ndim != 2:
        raise UsageError(f"images must have shape (B, D), got {images.shape}")
    if texts is not None and texts.shape != images.shape:
        raise UsageError(
            f"images of shape {images.shape} and texts of shape {texts.shape} are not pairs; "
            "give one caption vector per image"
        )


def _relative(
    ascending: torch.Tensor, columns: np.ndarray, own: np.ndarray, reference: np.ndarray, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """SLOF and DAO before their NaN and inf are replaced, (B,) each."""
    nobody = np.full((len(reference), 1), -1)
    full = torch.from_numpy(nearest(reference, reference, nobody, k + 1)[0])
    found = columns[:, :k]
    # The slip: numbers counted without the own rows are looked up among all rows.
    mistaken = torch.from_numpy(found - (found[:, :, None] > own[:, None]).sum(axis=2))
    ratio = ascending[:, k].unsqueeze(-1) / full[:, k][mistaken]
    powers = _lid_mle(full, k)[mistaken] * torch.log(ratio)
    return ratio.mean(dim=1), powers.mean(dim=1)


def _lid_mle(ascending: torch.Tensor, k: int) -> torch.Tensor:
    """Maximum likelihood with the offset of the code, (rows,)."""
    share = ascending[:, :k] / ascending[:, k].unsqueeze(-1)
    return -k / torch.sum(torch.log(share + _OFFSET), dim=1)


def _lid_mom(ascending: torch.Tensor, k: int) -> torch.Tensor:
    """Method of moments, (rows,)."""
    mean = torch.mean(ascending[:, :k], dim=1)
    return mean / (ascending[:, k] - mean)


def _defined(value: np.ndarray, enough: bool) -> np.ndarray:
    """`value`, with NaN for inf, and NaN throughout if the reference is too small."""
    return np.where(np.isfinite(value) & enough, value, np.float32(np.nan))
