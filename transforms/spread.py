"""Spread elements over workers with operations that every engine has."""

from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PCollection
from apache_beam.typehints.typehints import TupleConstraint


@dataclass
class Spread(beam.PTransform):
    """Hand numbered elements out again without their numbers, so that workers share them.

    Input: pairs of a number of its own and an element.  Output: the elements, any order.  Engines
    deal keys to workers by their hashes or by their order, and consecutive numbers come out even:
    hashes of elements put up to twice the fair share on one worker.  `beam.Reshuffle` does nothing
    on Dask and fails on Spark; a grouping by key works everywhere.  For small elements only.
    """

    def expand(self, pairs: PCollection[Any]) -> PCollection[Any]:
        """Group, values."""
        hint: Any = pairs.element_type
        kind = hint.tuple_types[1] if isinstance(hint, TupleConstraint) else Any
        return (
            pairs
            | "GroupByNumber" >> beam.GroupByKey()
            | "Values" >> beam.FlatMap(_values).with_output_types(kind)
        )


def _values(pair: tuple[int, Any]) -> list[Any]:
    return list(pair[1])
