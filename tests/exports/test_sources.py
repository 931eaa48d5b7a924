"""Where pictures are read again."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.errors import UsageError
from clipsieve.exports.sources import picture_sources, pictures_alone
from clipsieve.formats.registry import plan_input, read_rows
from clipsieve.store.source import source_footer


def write(path, image, rows=6):
    columns = {"image": image, "caption": ["c"] * rows, "a.b": [1] * rows, "uid": ["u"] * rows}
    pq.write_table(pa.table(columns), path)


@pytest.fixture
def plan(tmp_path):
    images = [{"bytes": bytes([row]), "path": "x"} for row in range(6)]
    write(tmp_path / "a.parquet", images)
    write(tmp_path / "b.parquet", images)
    return plan_input(str(tmp_path))


def test_pictures_alone_are_those_of_all_columns(plan):
    for item in plan.items:
        whole, alone = (
            [image for batch in read_rows(item, source) for image in batch.images]
            for source in (plan.source, pictures_alone(plan.source))
        )
        assert alone == whole == [bytes([row]) for row in range(6)]


def test_of_several_items_of_one_name_the_one_that_was_scored_is_taken(plan):
    a, b = plan.items
    ledgers = {"a": source_footer(a, None)}
    changed = replace(a, fingerprint=replace(a.fingerprint, version="1"))
    plans = [replace(plan, items=(changed, b)), replace(plan, items=(a,))]
    sources, items = picture_sources(ledgers, plans)
    assert (len(sources), items) == (2, {"a": (a, 1)})
    with pytest.raises(
        UsageError, match=r"shard a .* has changed since it was scored \(modification time\)"
    ):
        picture_sources(ledgers, plans[:1])
    cut = replace(a, row_groups=(0, 1))
    with pytest.raises(UsageError, match="the rows it is cut into"):
        picture_sources(ledgers, [replace(plan, items=(cut,))])
    with pytest.raises(UsageError, match=r"is not where it was.*--reprocess.*--shard-prefix"):
        picture_sources(ledgers, [replace(plan, items=(b,))])


def test_a_source_that_has_moved_unchanged_is_the_same(plan):
    a, _ = plan.items
    moved = replace(a, uri="/elsewhere/a.parquet")
    _, items = picture_sources({"a": source_footer(a, None)}, [replace(plan, items=(moved,))])
    assert items == {"a": (moved, 0)}
