"""Statistics merged in any split and order."""

from collections import Counter

import pytest
from apache_beam.testing.test_pipeline import TestPipeline as Pipeline
from apache_beam.testing.util import assert_that, equal_to

from clipsieve.pipelines.runners import beam
from clipsieve.statistics.counts import RowCounts
from clipsieve.transforms.merge import Merge
from tests.transforms.combining import combined_every_way

SHARDS = [["ok"] * 3, ["ok", "decode_error"], [], ["empty_caption"], ["ok", "ok", "decode_error"]]
BATCHES = [RowCounts.of(states) for states in SHARDS]
EXPECTED = (Counter(state for states in SHARDS for state in states), len(SHARDS))


def test_any_split_and_order_gives_the_counts_of_all_rows():
    results = list(combined_every_way(Merge(RowCounts()), BATCHES))
    assert len(results) == 12
    for result in results:
        assert (Counter(result.states), result.shards) == EXPECTED


@pytest.mark.parametrize("batches", [[], BATCHES[:1]], ids=len)
def test_fewer_than_two_batches_prove_nothing_and_are_refused(batches):
    with pytest.raises(ValueError, match="two batches or more"):
        list(combined_every_way(Merge(RowCounts()), batches))


def test_merging_changes_neither_zero_nor_inputs():
    zero = RowCounts()
    list(combined_every_way(Merge(zero), BATCHES))
    assert zero == RowCounts()
    assert [RowCounts.of(states) for states in SHARDS] == BATCHES


def test_a_pipeline_gives_the_same_counts():
    def seen(counts: RowCounts) -> tuple:
        return sorted(counts.states.items()), counts.shards

    with Pipeline(runner="FnApiRunner") as pipeline:
        merged = (
            pipeline
            | beam.Create(BATCHES).with_output_types(RowCounts)
            | beam.CombineGlobally(Merge(RowCounts())).without_defaults()
            | beam.Map(seen)
        )
        assert_that(merged, equal_to([(sorted(EXPECTED[0].items()), EXPECTED[1])]))
