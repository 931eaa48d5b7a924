"""Counts, means and second moments of unit vectors by class: what six methods learn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from clipsieve.scorers.base import Context, Input, PairBatch, PromptSet
from clipsieve.statistics.exact_sum import ExactSum
from clipsieve.statistics.labels import Labels

#: Rows that are observed at once.
BATCH_ROWS = 4096


@dataclass(frozen=True, eq=False)
class ClassMoments:
    """State: counts, sums and the second moment of N vectors of D components in K classes.

    The sums are of the float64 sums of each batch, exact (`ExactSum`): the same batches give the
    same bits however they are grouped, which the pairwise update of means and scatters (Chan et
    al. 1979) does up to rounding only.  Another division into batches agrees to about 1e-12.

    Attributes:
      counts: (K,) int64 rows of each class.
      class_sums: (K, D), sum of each class's vectors.
      products: (D, D), sum of x x^T over all vectors, about the origin.
      unlabelled: rows with an image and no known class; they are in none of the others.
    """

    counts: np.ndarray
    class_sums: ExactSum
    products: ExactSum
    unlabelled: int = 0

    @classmethod
    def from_rows(
        cls, unit: np.ndarray, classes: np.ndarray, count: int, unlabelled: int = 0
    ) -> "ClassMoments":
        """Sum some rows.

        Args:
          unit: (N, D) float64.
          classes: (N,) ints from 0 to count - 1.
          count: K.
          unlabelled: rows that were left out.
        """
        counts, sums = sums_by_class(unit, classes, count)
        products = ExactSum.from_values(unit.T @ unit)
        return cls(counts, ExactSum.from_values(sums), products, unlabelled)

    def __add__(self, other: "ClassMoments") -> "ClassMoments":
        """Return the moments of the rows of both."""
        return ClassMoments(
            self.counts + other.counts,
            self.class_sums + other.class_sums,
            self.products + other.products,
            self.unlabelled + other.unlabelled,
        )

    @property
    def rows(self) -> int:
        """N, rows with a class."""
        return int(self.counts.sum())

    @property
    def present(self) -> np.ndarray:
        """(K,) bool, whether a class has rows."""
        return np.asarray(self.counts > 0)

    def class_means(self) -> np.ndarray:
        """Return (K, D) float64 means; zeros where a class has no rows, see `present`."""
        return np.asarray(self._sums / np.maximum(self.counts, 1)[:, None])

    def mean(self) -> np.ndarray:
        """Return the (D,) float64 mean of all rows; zeros without rows."""
        return np.asarray(self._sums.sum(axis=0) / max(self.rows, 1))

    def within_scatter(self) -> np.ndarray:
        """Return sum over rows of (x - m_k)(x - m_k)^T, m_k the mean of the row's class.

        (D, D) float64, symmetric: the scatter within classes, not divided by N.
        """
        sums = self._sums[self.present]
        weighted = sums / np.sqrt(self.counts[self.present])[:, None]
        return _symmetric(self._products - weighted.T @ weighted)

    def total_scatter(self) -> np.ndarray:
        """Return sum over rows of (x - m)(x - m)^T, m the mean of all: (D, D), symmetric."""
        mean = self.mean()
        return _symmetric(self._products - self.rows * np.outer(mean, mean))

    def second_moment(self, about: np.ndarray | None = None) -> np.ndarray:
        """Return the mean of (x - u)(x - u)^T: (D, D) float64, symmetric; zeros without rows.

        Args:
          about: (D,) u; None is the origin.
        """
        total = self._products
        if about is not None:
            cross = np.outer(self._sums.sum(axis=0), about)
            total = total - cross - cross.T + self.rows * np.outer(about, about)
        return _symmetric(total / max(self.rows, 1))

    @cached_property
    def _sums(self) -> np.ndarray:
        return self.class_sums.value()

    @cached_property
    def _products(self) -> np.ndarray:
        return self.products.value()


@dataclass(frozen=True)
class UnitMoments:
    """Statistic: the moments of the unit vectors of valid images, by class.

    A row's class is its label, if a column of labels is named: the text of a class's name (of
    equal names the first), or its number from 0 to K - 1; rows with neither are left out and
    counted.  Else it is the class with the greatest cosine (of equal ones the first).

    Attributes:
      prompts: the K classes.
      labels: the source column of labels; None for zero-shot classes.
    """

    prompts: PromptSet
    labels: str | None = None
    needs = frozenset({Input.IMAGE_EMBEDDING})
    batch_rows = BATCH_ROWS

    @property
    def source_columns(self) -> tuple[str, ...]:
        """The column of labels, if there is one."""
        return () if self.labels is None else (self.labels,)

    def observe(self, batch: PairBatch, context: Context) -> ClassMoments:
        """Return the moments of the rows of `batch` alone."""
        assert batch.image is not None
        unit, count = batch.image.unit(), len(self.prompts.names)
        if self.labels is None:
            rows, classes = predicted_classes(batch, self.prompts)
            return ClassMoments.from_rows(unit[rows], classes, count)
        values = label_classes(batch.columns[self.labels], self.prompts.names)
        rows = np.flatnonzero(batch.image.valid & (values >= 0))
        unlabelled = int(batch.image.valid.sum()) - len(rows)
        return ClassMoments.from_rows(unit[rows], values[rows], count, unlabelled)


def predicted_classes(batch: PairBatch, prompts: PromptSet) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the M rows with an image, and the class of greatest cosine of each.

    Two (M,) int64 arrays, computed once for all who ask; of equal cosines the first class.
    """
    assert batch.image is not None
    valid = batch.image.valid

    def make() -> tuple[np.ndarray, np.ndarray]:
        rows = np.flatnonzero(valid)
        return rows, batch.image_cosines(prompts)[rows].argmax(axis=1)

    return batch.shared(("predicted classes", prompts), make)


def label_classes(values: Sequence[Any], names: Sequence[str]) -> np.ndarray:
    """Return the number of the class that each label names, (N,) int64; negative for none.

    Args:
      values: N labels, see `Labels`.
      names: of K classes.

    >>> label_classes(["dog", 0, None, True, 2, "cow"], ["cat", "dog", "dog"]).tolist()
    [1, 0, -1, -2, 2, -2]
    """
    labels = Labels(names)
    return np.array([labels.class_of(value) for value in values], np.int64)


def sums_by_class(
    values: np.ndarray, classes: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Count rows and sum them by class.

    Args:
      values: (N, D) float64.
      classes: (N,) ints from 0 to count - 1.
      count: K.

    Returns:
      (K,) int64 counts and (K, D) float64 sums; rows of a class are added in their order.
    """
    counts = np.bincount(classes, minlength=count).astype(np.int64)
    sums = np.zeros((count, values.shape[1]))
    if len(values):
        filled = np.flatnonzero(counts)
        starts = np.cumsum(counts[filled]) - counts[filled]
        sums[filled] = np.add.reduceat(values[np.argsort(classes, kind="stable")], starts, axis=0)
    return counts, sums


def _symmetric(matrix: np.ndarray) -> np.ndarray:
    return np.asarray((matrix + matrix.T) / 2)
