"""Spreading hands out the same elements, evenly."""

from collections import Counter
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.dask.dask_runner import DaskRunner
from apache_beam.runners.dask.overrides import dask_overrides
from apache_beam.testing.test_pipeline import TestPipeline as Pipeline
from apache_beam.testing.util import assert_that, equal_to

from clipsieve.control import Control
from clipsieve.pipelines.runners import beam
from clipsieve.pipelines.stage import build
from clipsieve.transforms.spread import Spread
from tests.pipelines.test_engine import Repeating

ELEMENTS = {
    "none": [],
    "one": ["only"],
    "equal ones": ["same"] * 5,
    "texts": [f"shard-{at:05d}" for at in range(200)],
    "groups": [[f"{at}", f"{at + 1}"] for at in range(7)],
}


@pytest.mark.parametrize("elements", ELEMENTS.values(), ids=ELEMENTS)
def test_every_element_comes_out_as_often_as_it_went_in(elements):
    kind = list[str] if elements and isinstance(elements[0], list) else str
    with Pipeline(runner="FnApiRunner") as pipeline:
        pairs = beam.Create(list(enumerate(elements)))
        pairs = pairs.with_output_types(tuple[int, kind])  # type: ignore[valid-type]
        spread = pipeline | pairs | Spread()
        assert_that(spread, equal_to(elements))


class Bundled(beam.DoFn):
    """Gives the bundle in which an element is worked on: what one worker is handed at once."""

    def start_bundle(self) -> None:
        self._bundle = uuid4().hex

    def process(self, _element: list[str]) -> Iterator[str]:
        yield self._bundle


def test_eight_groups_are_four_each_for_two_workers():
    groups = [[f"shard-{at}"] for at in range(8)]
    words = ["--direct_num_workers=2", "--direct_running_mode=multi_threading"]
    with Pipeline(runner="FnApiRunner", options=PipelineOptions(words)) as pipeline:
        pairs = beam.Create(list(enumerate(groups))).with_output_types(tuple[int, list[str]])
        bundles = pipeline | pairs | Spread() | beam.ParDo(Bundled()).with_output_types(str)

        def check(found: list[str]) -> None:
            assert sorted(Counter(found).values()) == [4, 4]

        assert_that(bundles, check)


def test_dask_deals_groups_to_partitions_when_it_creates_them():
    pipeline = beam.Pipeline(runner=DaskRunner())
    stage = Repeating("out", "r", Control("r", "out"))
    build(pipeline, stage, [[f"shard-{at}"] for at in range(8)], "report", spread=False)
    pipeline.replace_all(dask_overrides())
    visitor: Any = DaskRunner.to_dask_bag_visitor({"npartitions": 8})
    pipeline.visit(visitor)
    created = next(bag for applied, bag in visitor.bags.items() if "Groups" in applied.full_label)
    sizes = created.map_partitions(lambda part: [len(list(part))]).compute(scheduler="sync")
    assert sizes == [1] * 8
