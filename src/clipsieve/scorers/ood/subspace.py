"""Residual and ViM: how far a unit vector is from the principal subspace of all (CVPR 2022).

Wang et al., "ViM: Out-Of-Distribution with Virtual-logit Matching", arXiv:2203.10807.  The
classifier is zero-shot, W = s T without bias, so the origin of the feature space, -pinv(W) b, is
0: principal axes are those of the second moment E[x x^T], which is not centred, and its first is
about the mean direction.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.errors import UsageError
from clipsieve.scorers.base import (
    Arrays,
    Context,
    Input,
    PairBatch,
    PromptSet,
    Statistic,
)
from clipsieve.scorers.ood.family import ood_column
from clipsieve.scorers.ood.learnt import MOMENTS, MomentsScorer, image_of
from clipsieve.scorers.options import check_ints
from clipsieve.statistics.hashed_array import HashedArray
from clipsieve.statistics.moments import BATCH_ROWS, ClassMoments, label_classes
from clipsieve.statistics.row_totals import RowTotals

_PAPER = "arXiv:2203.10807"
#: A mean residual below it is rounding.
_SMALLEST_RESIDUAL = 1e-9


def principal_dim(dim: int) -> int:
    """Return the dimension of the principal subspace, as the authors choose it (`benchmark.py`).

    >>> [principal_dim(dim) for dim in (2, 512, 640, 768, 2048)]
    [1, 256, 320, 512, 1000]
    """
    if dim >= 2048:
        return 1000
    return 512 if dim >= 768 else dim // 2


def residual_basis(second_moment: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an orthonormal basis of what is orthogonal to the principal subspace.

    Args:
      second_moment: (D, D) float64, symmetric.
      dim: of the principal subspace, from 1 to D - 1.

    Returns:
      (D, D - dim) eigenvectors of all but the `dim` largest eigenvalues, and the (D,) eigenvalues,
      falling.  The subspace is not unique if the eigenvalue number `dim` equals the next.
    """
    values, vectors = np.linalg.eigh(second_moment)
    falling = vectors[:, ::-1]
    return np.ascontiguousarray(falling[:, dim:]), np.ascontiguousarray(values[::-1])


def residual_norms(unit: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Return the (N,) norms of the parts of unit vectors in a subspace, in [0, 1].

    Args:
      unit: (N, D) float64.
      basis: (D, M) orthonormal columns.
    """
    parts = unit @ basis
    return np.asarray(np.sqrt(np.einsum("nd,nd->n", parts, parts)))


@dataclass(frozen=True)
class ResidualTotals:
    """Statistic: sums of the largest cosine and of the residual norm.

    Over the rows that `UnitMoments` with the same labels observes.

    Attributes:
      prompts: the classes.
      basis: (D, M), see `residual_basis`.
      labels: source column with the class of each row; None is all rows with an image.
    """

    prompts: PromptSet
    basis: HashedArray
    labels: str | None = None
    needs = frozenset({Input.IMAGE_EMBEDDING})
    batch_rows = BATCH_ROWS

    def observe(self, batch: PairBatch, context: Context) -> RowTotals:
        """Return the sums over the rows of `batch` alone."""
        image = image_of(batch)
        rows = image.valid
        if self.labels is not None:
            rows = rows & (label_classes(batch.columns[self.labels], self.prompts.names) >= 0)
        largest = batch.image_cosines(self.prompts)[rows].max(axis=1)
        norms = residual_norms(image.unit()[rows], self.basis.values)
        return RowTotals.from_rows(largest, norms)

    @property
    def source_columns(self) -> tuple[str, ...]:
        """Return the column of labels, if there is one."""
        return () if self.labels is None else (self.labels,)


class Residual(MomentsScorer):
    """Norm of the part of the unit vector outside of the principal subspace.

    A row whose image has no embedding has no score.
    """

    name = "ood.residual"
    columns = pa.schema(
        [
            ood_column(
                "ood_residual",
                "norm of the unit vector's part outside of the principal subspace",
                "[0, 1]",
                f"{_PAPER}, section 4.1",
            )
        ]
    )

    def __init__(self, dim: int | None = None, **classes: Any) -> None:
        """Make a scorer.

        Args:
          dim: of the principal subspace, below that of an embedding; None is `principal_dim`.
          **classes: see `MomentsScorer`.

        Raises:
          UsageError: for a value out of range.
        """
        super().__init__(**classes)
        if dim is not None:
            check_ints(self.name, {"dim": (dim, 1)})
        self._dim = dim

    def parameters(self) -> Mapping[str, Any]:
        """All options."""
        return {**super().parameters(), "dim": self._dim}

    def statistics(self, known: Arrays, context: Context) -> Mapping[str, Statistic]:
        """Return the moments."""
        self._principal_dim(context)
        return {} if "basis" in known else {MOMENTS: self.moments()}

    def learn(self, sums: Mapping[str, Any], known: Arrays, context: Context) -> Arrays:
        """Return the basis (D, D - dim) with the eigenvalues, and how many rows they are of.

        Raises:
          UsageError: for fewer rows than components.
        """
        moments: ClassMoments = sums[MOMENTS]
        counts = self.recorded_counts(moments)
        dim = self._principal_dim(context)
        basis, values = residual_basis(moments.second_moment(), dim)
        return {**counts, "basis": basis, "eigenvalues": values, "dim": np.array(dim)}

    def load(self, known: Arrays, context: Context) -> Any:
        """Return the basis."""
        return HashedArray(known["basis"])

    def score(self, batch: PairBatch, loaded: Any) -> Mapping[str, np.ndarray]:
        """One column; NaN without image."""
        return {"ood_residual": _shared_norms(batch, loaded)}

    def _principal_dim(self, context: Context) -> int:
        dim = principal_dim(context.dim) if self._dim is None else self._dim
        if not 1 <= dim < context.dim:
            raise UsageError(
                f"option dim of scorer {self.name} is {dim}, and embeddings of {context.dim} "
                f"components leave no residual; choose 1 to {context.dim - 1}"
                if context.dim > 1
                else f"scorer {self.name} needs embeddings of 2 components at least, and the "
                f"model's have {context.dim}; use another scorer"
            )
        return dim


class VirtualLogitMatching(Residual):
    """ViM: the residual as the logit of one more class, scaled to be as large as the others.

    alpha r - logsumexp(z), where r is the residual, z = s c the logits, and alpha = mean(max z) /
    mean(r) over all rows, for which a second pass is made.
    """

    name = "ood.vim"
    columns = pa.schema(
        [
            ood_column(
                "ood_vim",
                "residual times alpha, minus logsumexp of the logits",
                "(-inf, inf)",
                f"{_PAPER}, section 4.2",
            )
        ]
    )

    def statistics(self, known: Arrays, context: Context) -> Mapping[str, Statistic]:
        """Return the moments, then the sums that alpha is made of."""
        if "alpha" in known:
            return {}
        if "basis" in known:
            basis = HashedArray(known["basis"])
            return {"totals": ResidualTotals(self.prompt_set, basis, self._labels)}
        return super().statistics(known, context)

    def learn(self, sums: Mapping[str, Any], known: Arrays, context: Context) -> Arrays:
        """Return what `Residual` learns, then alpha with it.

        Raises:
          UsageError: for fewer rows than components, and if all rows lie in the principal subspace.
        """
        if "totals" not in sums:
            return super().learn(sums, known, context)
        cosine, residual = sums["totals"].means().tolist()
        if residual < _SMALLEST_RESIDUAL:
            raise UsageError(
                f"scorer {self.name}: the mean residual outside of {int(known['dim'])} dimensions "
                f"is {residual:.3g}, so the rows span no more; set option dim to fewer"
            )
        alpha = context.logit_scale * cosine / residual
        return {**known, "alpha": np.array(alpha), "mean_residual": np.array(residual)}

    def load(self, known: Arrays, context: Context) -> Any:
        """Return the basis, alpha and the logit scale."""
        return HashedArray(known["basis"]), float(known["alpha"]), context.logit_scale

    def score(self, batch: PairBatch, loaded: Any) -> Mapping[str, np.ndarray]:
        """One column; NaN without image."""
        basis, alpha, scale = loaded
        rows = self.rows(batch)
        logsumexp = scale * rows.top_two().largest + rows.softmax(scale).logsumexp_above_largest()
        return {"ood_vim": alpha * _shared_norms(batch, basis) - logsumexp}


def _shared_norms(batch: PairBatch, basis: HashedArray) -> np.ndarray:
    """Return (N,) residual norms, NaN without image; computed once for all who ask."""
    image = image_of(batch)

    def make() -> np.ndarray:
        return np.where(image.valid, residual_norms(image.unit(), basis.values), np.nan)

    return batch.shared(("residual norms", basis), make)
