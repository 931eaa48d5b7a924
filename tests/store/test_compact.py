"""`wide/` is the join of ledger and families, part by part, or it is refused."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.errors import LedgerError
from clipsieve.schemas import footers
from clipsieve.store import names
from clipsieve.store.compact import drop_builds, plan_build, write_part
from tests.store.folders import (
    compacted,
    manifest_of,
    path_of,
    paths_of,
    shard_of,
    shard_writer,
)


@pytest.fixture
def files(tmp_path):
    """Two shards of 4 and 3 rows, not compacted: writer, folder, manifest."""
    writer = shard_writer(tmp_path)
    writer.commit(shard_of("a", 4, seed=1, no_image=[2]))
    writer.commit(shard_of("b", 3, seed=2, no_text=[0]))
    return writer, writer.folder, manifest_of(writer)


def part_path(folder, build, number=0):
    return path_of(folder, f"{names.wide_folder(build.id)}/{build.parts[number].file_name}")


def read_plain(path):
    return pq.read_table(path, partitioning=None)


def wide_rows(folder, build):
    paths = [part_path(folder, build, number) for number in range(len(build.parts))]
    return [row for path in paths for row in read_plain(path).to_pylist()]


def naive_join(writer, shards):
    """Ledger rows with the columns of every family, looked up by uid."""
    rows = []
    for shard in shards:
        found: dict[str, dict[str, object]] = {}
        for family in manifest_of(writer).families:
            for score in read_plain(paths_of(writer, shard)[family]).to_pylist():
                found.setdefault(score["uid"], {}).update(score)
        for row in read_plain(paths_of(writer, shard)["samples"]).to_pylist():
            rows.append({**row, **found[row["uid"]]})
    return rows


@pytest.mark.parametrize("part_rows", [1, 4, 5, 1_000_000])
def test_wide_equals_the_join(tmp_path, part_rows):
    writer = shard_writer(tmp_path)
    for name, rows in (("a", 4), ("b", 0), ("c", 3)):
        uids = pa.array([f"{name}{row}" for row in range(rows)], pa.string())
        writer.commit(shard_of(name, rows, seed=rows, uids=uids, no_image=range(0, rows, 3)))
    build, manifest = compacted(writer.folder, manifest_of(writer), part_rows)
    assert wide_rows(writer.folder, build) == naive_join(writer, "abc")
    assert manifest.wide is not None
    assert build.rows == manifest.wide.rows == 7
    assert [shard for part in build.parts for shard in part.shards] == ["a", "b", "c"]


def test_shards_from_before_the_ledger_had_hashes_are_joined_with_others(files):
    writer, folder, manifest = files
    hashes = ["image_sha256", "image_phash"]
    name = writer.names("a")["samples"]
    ledger, footer = folder.read_table(name), folder.read_footer(name)
    folder.write_table(name, ledger.drop_columns(hashes), footer)
    build, _ = compacted(folder, manifest)
    rows = wide_rows(folder, build)
    assert [[row[column] for column in hashes] for row in rows[:4]] == [[None, None]] * 4
    assert rows[4:] == naive_join(writer, "b")
    assert read_plain(part_path(folder, build)).schema.field("image_phash").type == pa.uint64()


def test_parts_say_what_is_in_them(files):
    _, folder, manifest = files
    build, _ = compacted(folder, manifest)
    (part,) = build.parts
    footer = folder.read_footer(f"{names.wide_folder(build.id)}/{part.file_name}")
    assert json.loads(footer[footers.MEMBERS]) == ["a", "b"]
    assert (footer[footers.FAMILY], footer[footers.ROWS]) == ("wide", "7")


def test_empty_folder_has_an_empty_build(tmp_path):
    writer = shard_writer(tmp_path)
    build = plan_build(writer.folder, {})
    assert (build.parts, build.rows) == ((), 0)


def test_missing_family_is_refused(files):
    writer, folder, manifest = files
    path = paths_of(writer, "b")["clip"]
    path.unlink()
    with pytest.raises(LedgerError, match=f"{re.escape(str(path))} is missing or damaged; run"):
        plan_build(folder, manifest.revisions())


def test_damaged_family_is_refused(files):
    writer, folder, manifest = files
    path = paths_of(writer, "b")["clip"]
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(LedgerError, match="is missing or damaged"):
        plan_build(folder, manifest.revisions())


def rewritten(folder, name, table, **footer):
    """Replace a table; its footer says what it said, or what is given."""
    keys = {getattr(footers, name): value for name, value in footer.items()}
    folder.write_table(name, table, {**folder.read_footer(name), **keys})


def test_footers_with_other_uids_are_refused(files):
    writer, folder, manifest = files
    name = writer.names("b")["clip"]
    rewritten(folder, name, folder.read_table(name), UID_HASH="0")
    with pytest.raises(LedgerError, match=r"differ in clipsieve\.uid_hash: 0 and .*; delete both"):
        plan_build(folder, manifest.revisions())


def test_footers_with_other_row_counts_are_refused(files):
    writer, folder, manifest = files
    name = writer.names("b")["clip"]
    rewritten(folder, name, folder.read_table(name).slice(1), ROWS="2")
    with pytest.raises(LedgerError, match=r"differ in clipsieve\.rows: 2 and 3"):
        plan_build(folder, manifest.revisions())


@pytest.mark.parametrize("change", ["order", "fewer"])
def test_rows_that_do_not_line_up_after_all_are_refused(files, change):
    writer, folder, manifest = files
    name = writer.names("b")["clip"]
    table = folder.read_table(name)
    rewritten(folder, name, table.take([1, 0, 2]) if change == "order" else table.slice(1))
    build = plan_build(folder, manifest.revisions())
    with pytest.raises(LedgerError, match="has other uids than"):
        write_part(folder, build, build.parts[0])
    assert not list(path_of(folder, "").glob("wide/*/*"))


def test_parts_that_have_not_changed_are_linked(files):
    writer, folder, manifest = files
    first, _ = compacted(folder, manifest, part_rows=1)
    writer.commit(shard_of("b", 3, seed=9, version="2"))
    writer.commit(shard_of("c", 2, seed=3))
    second, _ = compacted(folder, manifest, part_rows=1)
    assert first.id != second.id

    def inode(build, number):
        return part_path(folder, build, number).stat().st_ino

    assert inode(first, 0) == inode(second, 0)
    assert inode(first, 1) != inode(second, 1)
    assert wide_rows(folder, second) == naive_join(writer, "abc")


def test_a_finished_build_is_not_written_again(files):
    _, folder, manifest = files
    build, _ = compacted(folder, manifest)
    path = part_path(folder, build)
    before = path.stat()
    again, _ = compacted(folder, manifest)
    assert again.id == build.id
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_other_revision_of_a_family_is_another_build(files):
    writer, folder, manifest = files
    build, _ = compacted(folder, manifest)
    for shard in "ab":
        folder.files.copy(writer.names(shard)["clip"], names.scores("clip", "other", shard))
    assert plan_build(folder, {"clip": "other"}).id != build.id


def test_columns_that_differ_between_shards_are_unified(tmp_path):
    writer = shard_writer(tmp_path)
    columns = [
        pa.table({"n": pa.array([1, 2], pa.int32()), "only_a": ["x", "y"]}),
        pa.table({"n": pa.array([None, None], pa.null())}),
        pa.table({"n": pa.array([2**40], pa.int64()), "only_c": [0.5]}),
    ]
    for name, carried in zip("abc", columns, strict=True):
        writer.commit(shard_of(name, carried.num_rows, carried=carried))
    build, _ = compacted(writer.folder, manifest_of(writer))
    rows = wide_rows(writer.folder, build)
    assert [row["n"] for row in rows] == [1, 2, None, None, 2**40]
    assert [row["only_a"] for row in rows] == ["x", "y", None, None, None]
    assert [row["only_c"] for row in rows] == [None] * 4 + [0.5]


def test_source_column_with_the_name_of_a_score_is_kept_beside_it(tmp_path):
    writer = shard_writer(tmp_path)
    carried = pa.table({"clip_score": [7.0, 8.0], "source_clip_score": ["p", "q"]})
    writer.commit(shard_of("a", 2, carried=carried))
    folder = writer.folder
    build, _ = compacted(folder, manifest_of(writer))
    rows = wide_rows(folder, build)
    assert [row["source_clip_score"] for row in rows] == ["p", "q"]
    assert [row["source_source_clip_score"] for row in rows] == [7.0, 8.0]
    scores = folder.read_table(writer.names("a")["clip"])["clip_score"].to_pylist()
    assert [row["clip_score"] for row in rows] == scores


@pytest.mark.parametrize("name", ["clip_tiny_similarity_score", "CLIP_Score"])
def test_source_column_that_a_view_would_hide_is_renamed_whatever_its_case(tmp_path, name):
    writer = shard_writer(tmp_path)
    writer.commit(shard_of("a", 2, carried=pa.table({name: [7.0, 8.0]})))
    revisions = manifest_of(writer).revisions()
    build = plan_build(writer.folder, revisions, reserved=["Clip_tiny_similarity_score"])
    assert build.id != plan_build(writer.folder, revisions).id
    write_part(writer.folder, build, build.parts[0])
    rows = wide_rows(writer.folder, build)
    assert [row[f"source_{name}"] for row in rows] == [7.0, 8.0]
    assert name not in rows[0]


def test_two_families_with_one_column_are_refused(files):
    writer, folder, manifest = files
    for shard in "ab":
        folder.files.copy(writer.names(shard)["clip"], names.scores("twin", "0", shard))
    build = plan_build(folder, {**manifest.revisions(), "twin": "0"})
    with pytest.raises(LedgerError, match="'clip_similarity', as another family; rename"):
        write_part(folder, build, build.parts[0])


def test_old_builds_are_dropped_and_folders_of_other_names_are_not(files):
    _, folder, manifest = files
    build, _ = compacted(folder, manifest)
    for name in ("build=0a1b2c3d", "build=mine", "0a1b2c3d"):
        path_of(folder, f"wide/{name}").mkdir()
    drop_builds(folder, [build.id])
    assert set(folder.files.list_folders("wide")) == {f"build={build.id}", "build=mine", "0a1b2c3d"}


def test_scores_in_wide_keep_their_encoding(files):
    _, folder, manifest = files
    build, _ = compacted(folder, manifest)
    group = pq.read_metadata(part_path(folder, build)).row_group(0)
    columns = {group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)}
    assert "BYTE_STREAM_SPLIT" in columns["clip_score"].encodings
