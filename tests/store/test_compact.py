"""`wide/` is the join of ledger and families, part by part, or it is refused."""

import dataclasses
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.errors import LedgerError
from clipsieve.schemas import footers
from clipsieve.store.compact import drop_builds, plan_build, write_part
from clipsieve.store.parquet import read_footer, write_table
from tests.store.folders import committer, compacted, dataset_of, shard_of


@pytest.fixture
def folder(tmp_path):
    """Two shards of 4 and 3 rows, not compacted: writer, layout, dataset."""
    writer = committer(tmp_path)
    writer.commit(shard_of("a", 4, seed=1, no_image=[2]))
    writer.commit(shard_of("b", 3, seed=2, no_text=[0]))
    return writer, writer.layout, dataset_of(writer)


def wide_rows(layout, build):
    return [
        row
        for part in build.parts
        for row in pq.read_table(layout.wide(build.id) / part.file_name).to_pylist()
    ]


def naive_join(writer, shards):
    """Ledger rows with the columns of every family, looked up by uid."""
    rows = []
    for shard in shards:
        found: dict[str, dict[str, object]] = {}
        for family in writer.revisions.families:
            for score in pq.read_table(writer.paths(shard)[family]).to_pylist():
                found.setdefault(score["uid"], {}).update(score)
        for row in pq.read_table(writer.paths(shard)["samples"]).to_pylist():
            rows.append({**row, **found[row["uid"]]})
    return rows


@pytest.mark.parametrize("part_rows", [1, 4, 5, 1_000_000])
def test_wide_equals_the_join(tmp_path, part_rows):
    writer = committer(tmp_path, ["clip"])
    for name, rows in (("a", 4), ("b", 0), ("c", 3)):
        uids = pa.array([f"{name}{row}" for row in range(rows)], pa.string())
        writer.commit(shard_of(name, rows, seed=rows, uids=uids, no_image=range(0, rows, 3)))
    build, dataset = compacted(writer.layout, dataset_of(writer), part_rows)
    assert wide_rows(writer.layout, build) == naive_join(writer, "abc")
    assert build.rows == dataset.wide["rows"] == 7
    assert [shard for part in build.parts for shard in part.shards] == ["a", "b", "c"]


def test_parts_say_what_is_in_them(folder):
    _, layout, dataset = folder
    build, _ = compacted(layout, dataset)
    (part,) = build.parts
    path = layout.wide(build.id) / part.file_name
    footer = read_footer(path)
    assert json.loads(footer[footers.MEMBERS]) == ["a", "b"]
    assert (footer[footers.FAMILY], footer[footers.ROWS]) == ("wide", "7")


def test_empty_folder_has_an_empty_build(tmp_path):
    writer = committer(tmp_path)
    build = plan_build(writer.layout, {})
    assert (build.parts, build.rows) == ((), 0)


def test_missing_family_is_refused(folder):
    writer, layout, dataset = folder
    path = writer.paths("b")["clip"]
    path.unlink()
    with pytest.raises(LedgerError, match=f"{re.escape(str(path))} is missing or damaged; run"):
        plan_build(layout, dataset.families)


def test_damaged_family_is_refused(folder):
    writer, layout, dataset = folder
    path = writer.paths("b")["clip"]
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(LedgerError, match="is missing or damaged"):
        plan_build(layout, dataset.families)


def rewritten(path, table, **footer):
    """Replace a file's rows; its footer says what it said, or what is given."""
    keys = {getattr(footers, name): value for name, value in footer.items()}
    write_table(path, table, {**read_footer(path), **keys})


def test_footers_with_other_uids_are_refused(folder):
    writer, layout, dataset = folder
    path = writer.paths("b")["clip"]
    rewritten(path, pq.read_table(path), UID_HASH="0")
    with pytest.raises(LedgerError, match=r"differ in clipsieve\.uid_hash: 0 and .*; delete both"):
        plan_build(layout, dataset.families)


def test_footers_with_other_row_counts_are_refused(folder):
    writer, layout, dataset = folder
    path = writer.paths("b")["clip"]
    rewritten(path, pq.read_table(path).slice(1), ROWS="2")
    with pytest.raises(LedgerError, match=r"differ in clipsieve\.rows: 2 and 3"):
        plan_build(layout, dataset.families)


@pytest.mark.parametrize("change", ["order", "fewer"])
def test_rows_that_do_not_line_up_after_all_are_refused(folder, change):
    writer, layout, dataset = folder
    path = writer.paths("b")["clip"]
    table = pq.read_table(path)
    rewritten(path, table.take([1, 0, 2]) if change == "order" else table.slice(1))
    build = plan_build(layout, dataset.families)
    with pytest.raises(LedgerError, match="has other uids than"):
        write_part(layout, build, build.parts[0])
    assert not list(layout.root.glob("wide/*/*"))


def test_parts_that_have_not_changed_are_linked(folder):
    writer, layout, dataset = folder
    first, _ = compacted(layout, dataset, part_rows=1)
    writer.commit(shard_of("b", 3, seed=9, version="2"))
    writer.commit(shard_of("c", 2, seed=3))
    second, _ = compacted(layout, dataset, part_rows=1)
    assert first.id != second.id

    def inode(build, number):
        return (layout.wide(build.id) / build.parts[number].file_name).stat().st_ino

    assert inode(first, 0) == inode(second, 0)
    assert inode(first, 1) != inode(second, 1)
    assert wide_rows(layout, second) == naive_join(writer, "abc")


def test_a_finished_build_is_not_written_again(folder):
    _, layout, dataset = folder
    build, _ = compacted(layout, dataset)
    path = layout.wide(build.id) / build.parts[0].file_name
    before = path.stat()
    again, _ = compacted(layout, dataset)
    assert again.id == build.id
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_other_revision_of_a_family_is_another_build(folder):
    writer, layout, dataset = folder
    build, _ = compacted(layout, dataset)
    for shard in "ab":
        path = layout.scores("clip", "other", shard)
        source = writer.paths(shard)["clip"]
        write_table(path, pq.read_table(source), read_footer(source))
    moved = dataclasses.replace(dataset, families={"clip": "other"})
    assert plan_build(layout, moved.families).id != build.id


def test_columns_that_differ_between_shards_are_unified(tmp_path):
    writer = committer(tmp_path)
    columns = [
        pa.table({"n": pa.array([1, 2], pa.int32()), "only_a": ["x", "y"]}),
        pa.table({"n": pa.array([None, None], pa.null())}),
        pa.table({"n": pa.array([2**40], pa.int64()), "only_c": [0.5]}),
    ]
    for name, carried in zip("abc", columns, strict=True):
        writer.commit(shard_of(name, carried.num_rows, carried=carried))
    build, _ = compacted(writer.layout, dataset_of(writer))
    rows = wide_rows(writer.layout, build)
    assert [row["n"] for row in rows] == [1, 2, None, None, 2**40]
    assert [row["only_a"] for row in rows] == ["x", "y", None, None, None]
    assert [row["only_c"] for row in rows] == [None] * 4 + [0.5]


def test_source_column_with_the_name_of_a_score_is_kept_beside_it(tmp_path):
    writer = committer(tmp_path)
    carried = pa.table({"clip_score": [7.0, 8.0], "source_clip_score": ["p", "q"]})
    writer.commit(shard_of("a", 2, carried=carried))
    build, _ = compacted(writer.layout, dataset_of(writer))
    rows = wide_rows(writer.layout, build)
    assert [row["source_clip_score"] for row in rows] == ["p", "q"]
    assert [row["source_source_clip_score"] for row in rows] == [7.0, 8.0]
    scores = pq.read_table(writer.paths("a")["clip"])["clip_score"].to_pylist()
    assert [row["clip_score"] for row in rows] == scores


def test_two_families_with_one_column_are_refused(folder):
    writer, layout, dataset = folder
    for shard in "ab":
        source = writer.paths(shard)["clip"]
        write_table(layout.scores("twin", "0", shard), pq.read_table(source), read_footer(source))
    build = plan_build(layout, {**dataset.families, "twin": "0"})
    with pytest.raises(LedgerError, match="'clip_similarity', as another family; rename"):
        write_part(layout, build, build.parts[0])


def test_old_builds_are_dropped(folder):
    _, layout, dataset = folder
    build, _ = compacted(layout, dataset)
    (layout.root / "wide" / "build=old").mkdir()
    drop_builds(layout, [build.id])
    assert [path.name for path in (layout.root / "wide").iterdir()] == [f"build={build.id}"]


def test_scores_in_wide_keep_their_encoding(folder):
    _, layout, dataset = folder
    build, _ = compacted(layout, dataset)
    group = pq.read_metadata(layout.wide(build.id) / build.parts[0].file_name).row_group(0)
    columns = {group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)}
    assert "BYTE_STREAM_SPLIT" in columns["clip_score"].encodings
