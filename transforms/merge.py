"""Merge statistics over a whole PCollection."""

from collections.abc import Iterable
from typing import Generic, TypeVar

import apache_beam as beam

from clipsieve.statistics.base import Statistic

S = TypeVar("S", bound=Statistic)


class MergeStatistics(beam.CombineFn, Generic[S]):
    """Adds statistics up; input, accumulator and output are one type.

    Any statistic can be merged: they are associative and commutative, and their zero is given.
    """

    def __init__(self, zero: S) -> None:
        """A merge that starts from `zero`."""
        self._zero = zero

    def create_accumulator(self) -> S:
        """Zero."""
        return self._zero

    def add_input(self, mutable_accumulator: S, element: S) -> S:
        """The sum of both."""
        return mutable_accumulator + element

    def merge_accumulators(self, accumulators: Iterable[S]) -> S:
        """The sum of all."""
        total = self._zero
        for accumulator in accumulators:
            total = total + accumulator
        return total

    def extract_output(self, accumulator: S) -> S:
        """The accumulator itself."""
        return accumulator
