"""The seam of everything that is global: states that can be added up in any order."""

from typing import Protocol, Self, TypeVar


class Statistic(Protocol):
    """A mergeable state: its default is zero, `+` is associative and commutative.

    However rows are split over batches, shards and workers, and in whatever order the parts are
    added, the sum is the same.  Values are small: they cross pipeline steps.
    """

    def __add__(self, other: Self) -> Self:
        """The state of the rows of both."""
        ...

    def to_json(self) -> dict[str, object]:
        """The state as JSON, from which `from_json` makes it again."""
        ...


S = TypeVar("S", bound=Statistic)
