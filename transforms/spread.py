"""Spread elements over workers with operations that every engine has."""

import zlib
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PCollection


@dataclass
class Spread(beam.PTransform):
    """Hand the same elements out again, grouped by a hash, so that workers share them.

    Input and output: elements of one type, any order.  `beam.Reshuffle` does nothing on Dask and
    fails on Spark; a grouping by key works everywhere.  For small elements only.
    """

    def expand(self, elements: PCollection[Any]) -> PCollection[Any]:
        """Key, group, values."""
        kind: Any = elements.element_type
        return (
            elements
            | "KeyByHash" >> beam.Map(_keyed).with_output_types(tuple[int, kind])
            | "GroupByHash" >> beam.GroupByKey()
            | "Values" >> beam.FlatMap(_values).with_output_types(kind)
        )


def _keyed(element: Any) -> tuple[int, Any]:
    return zlib.crc32(repr(element).encode()), element


def _values(pair: tuple[int, Any]) -> list[Any]:
    return list(pair[1])
