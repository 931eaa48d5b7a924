"""The seam of everything that is global: states that can be added up in any order."""

from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from clipsieve.scorers.base import PairBatch


class Statistic(Protocol):
    """A mergeable state: its default is zero, `+` is associative and commutative.

    However rows are split over batches, shards and workers, and in whatever order the parts are
    added, the sum is the same.  Values are small: they cross pipeline steps.
    """

    def __add__(self, other: Self) -> Self:
        """The state of the rows of both."""
        ...


class PairStatistic(Statistic, Protocol):
    """A statistic of image-text pairs."""

    def of(self, batch: "PairBatch") -> Self:
        """The state of the rows of `batch` alone, with the parameters of this one."""
        ...
