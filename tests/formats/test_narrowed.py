"""Items of a few rows: no row of theirs is missing, and of Parquet few others are read."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.errors import ShardError
from clipsieve.formats.base import ReadOptions
from clipsieve.formats.registry import narrowed, plan_input, read_rows

ROWS, GROUP = 23, 5


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("narrowed")
    columns = {"jpg": [bytes([row]) for row in range(ROWS)], "caption": ["c"] * ROWS}
    pq.write_table(pa.table(columns), folder / "a.parquet", row_group_size=GROUP)
    return folder / "a.parquet"


def read(item, source):
    batches = list(read_rows(item, source))
    assert [batch.start for batch in batches][:1] == [item.start]
    return [image[0] for batch in batches for image in batch.images if image]


@pytest.mark.parametrize("rows_per_item", [100, 10])
def test_a_narrowed_item_has_its_rows_and_no_other_row_group(source, rows_per_item):
    plan = plan_input(str(source), ReadOptions(rows_per_item=rows_per_item))
    for item in plan.items:
        rows = read(item, plan.source)
        for first in rows:
            for stop in range(first + 1, rows[-1] + 2):
                part = narrowed(item, first, stop)
                expected = [r for r in rows if first // GROUP <= r // GROUP <= (stop - 1) // GROUP]
                assert read(part, plan.source) == expected
                assert part.start == expected[0]


def test_other_formats_are_read_whole_and_a_missing_file_is_named(source, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff")
    (item,) = plan_input(str(tmp_path)).items
    assert narrowed(item, 0, 1) == item
    (item,) = plan_input(str(source)).items
    moved = source.rename(source.with_suffix(".away"))
    with pytest.raises(ShardError, match="does not exist any more"):
        narrowed(item, 0, 1)
    moved.rename(source)
