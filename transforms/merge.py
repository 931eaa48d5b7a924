"""Add up states over a whole PCollection."""

from collections.abc import Iterable
from typing import Generic, TypeVar

import apache_beam as beam

from clipsieve.scorers.base import State

S = TypeVar("S", bound=State)


class Merge(beam.CombineFn, Generic[S]):
    """Adds states up; input, accumulator and output are one type.

    Any state can be merged: `+` is associative and commutative, and zero is given.
    """

    def __init__(self, zero: S) -> None:
        """Start from `zero`."""
        self._zero = zero

    def create_accumulator(self) -> S:
        """Return zero."""
        return self._zero

    def add_input(self, mutable_accumulator: S, element: S) -> S:
        """Return the sum of both."""
        return mutable_accumulator + element

    def merge_accumulators(self, accumulators: Iterable[S]) -> S:
        """Return the sum of all."""
        total = self._zero
        for accumulator in accumulators:
            total = total + accumulator
        return total

    def extract_output(self, accumulator: S) -> S:
        """Return the accumulator itself."""
        return accumulator
