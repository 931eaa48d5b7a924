"""Spreading hands out the same elements."""

import pytest
from apache_beam.testing.test_pipeline import TestPipeline as Pipeline
from apache_beam.testing.util import assert_that, equal_to

from clipsieve.pipelines.runners import beam
from clipsieve.transforms.spread import Spread

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
        spread = pipeline | beam.Create(elements).with_output_types(kind) | Spread()
        assert_that(spread, equal_to(elements))
