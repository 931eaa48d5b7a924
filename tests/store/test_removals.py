"""Removal lists of a folder: what they take out of each shard, and when that is looked for."""

import dataclasses

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.control import Control
from clipsieve.errors import LedgerError, UsageError
from clipsieve.job.compact import compact_folder
from clipsieve.sql.connect import connect
from clipsieve.stage import Report
from clipsieve.store import names
from clipsieve.store.compact import plan_build
from clipsieve.store.folder import OutputFolder
from clipsieve.store.id_values import IdKind
from clipsieve.store.ids import IdList
from clipsieve.store.removal_lists import (
    RemovalList,
    check_list_name,
    default_list_name,
    load_list,
    removal_lists,
    save_list,
    write_ids,
)
from clipsieve.store.removals import (
    RemovalCounts,
    count_removed,
    match_removals,
    read_removed,
    removals_id,
)
from tests.store.folders import make_folder, path_of, shard_of, shard_writer


@dataclasses.dataclass
class HereEngine:
    """Runs stages in this process, and counts their elements."""

    elements: list[str] = dataclasses.field(default_factory=list)
    is_local: bool = True

    def run(self, stage, elements, here=False):
        self.elements += [element.name for element in elements]
        reports = stage.open().work([element.text for element in elements])
        return stage.finish(sum(reports, Report()))


def urls(*texts):
    return pa.table({"url": pa.array(texts, pa.string()), "removed": pa.array(texts, pa.string())})


@pytest.fixture
def made(tmp_path):
    """Shards of 4 and 3 rows, with urls and a source column `removed`: folder, manifest."""
    shards = [
        shard_of("a", 4, seed=1, no_image=[2], carried=urls("u0", "u1", "u1", None)),
        shard_of("b", 3, seed=2, carried=urls("u3", "u1", "u5")),
    ]
    return make_folder(tmp_path / "out", shards)


def add(folder, name, kind, *ids, **others):
    """Add a list as `clipsieve remove` does, without looking for its rows."""
    listed = IdList.from_texts(IdKind(kind), pa.array(ids, pa.string()))
    entry = RemovalList.from_ids(name, listed, **others)
    write_ids(folder, entry, listed)
    save_list(folder, entry)
    return entry


def match(folder, engine=None):
    return match_removals(folder, engine or HereEngine(), Control("run", folder.root))


def rows_of(folder):
    tables = [read_removed(folder, shard) for shard in folder.shards()]
    return [tuple(row.values()) for table in tables for row in table.to_pylist()]


def test_without_lists_nothing_is_removed(made):
    folder, manifest = made
    engine = HereEngine()
    assert (removals_id(folder), match(folder, engine), engine.elements) == ("", "", [])
    table = read_removed(folder, "a")
    assert (table.num_rows, table.column_names) == (
        0,
        ["uid", "shard", "row", "list", "kind", "id"],
    )
    assert count_removed(folder, "") == RemovalCounts()
    assert not path_of(folder, names.REMOVALS).exists()
    before = plan_build(folder, manifest.revisions())
    assert before.id == manifest.wide.build


def test_rows_are_in_source_order_then_by_list(made):
    folder, _ = made
    add(folder, "web", "url", "u1", "u5", "u9")
    add(folder, "more", "uid", "a-1", "b-2")
    identifier = match(folder)
    assert rows_of(folder) == [
        ("a-1", "a", 1, "more", "uid", "a-1"),
        ("a-1", "a", 1, "web", "url", "u1"),
        ("a-2", "a", 2, "web", "url", "u1"),
        ("b-1", "b", 1, "web", "url", "u1"),
        ("b-2", "b", 2, "more", "uid", "b-2"),
        ("b-2", "b", 2, "web", "url", "u5"),
    ]
    assert count_removed(folder, identifier) == RemovalCounts(4, {"more": 2, "web": 4})


def test_the_id_follows_names_and_ids_alone(made):
    folder, _ = made
    add(folder, "web", "url", "u1", "u5", reason="asked for", created_at=1.0)
    first = removals_id(folder)
    add(folder, "web", "url", "u5", "u1", "u1", reason="again", created_at=2.0)
    assert removals_id(folder) == first
    add(folder, "web", "url", "u5")
    assert removals_id(folder) != first
    add(folder, "other", "url", "u1", "u5")
    assert len(first) == 8 and removals_id(folder) not in ("", first)


def test_only_shards_that_are_new_or_have_changed_are_looked_at(made):
    folder, _ = made
    add(folder, "web", "url", "u1", "u6")
    engine = HereEngine()
    match(folder, engine)
    match(folder, engine)
    assert engine.elements == ["a", "b"]
    writer = shard_writer(folder.root)
    writer.commit(shard_of("b", 3, seed=2, carried=urls("u3", "u6", "u1"), version="2"))
    writer.commit(shard_of("c", 1, seed=3, carried=urls("u6")))
    for shard in "bc":
        with pytest.raises(LedgerError, match=rf"{shard}\.parquet is missing, .* --refresh"):
            read_removed(folder, shard)
    match(folder, engine)
    assert engine.elements == ["a", "b", "b", "c"]
    assert [(row[0], row[5]) for row in rows_of(folder)] == [
        ("a-1", "u1"),
        ("a-2", "u1"),
        ("b-1", "u6"),
        ("b-2", "u1"),
        ("c-0", "u6"),
    ]


def test_damage_is_made_good(made):
    folder, _ = made
    add(folder, "web", "url", "u1")
    identifier = match(folder)
    path = path_of(folder, names.removed(identifier, "a"))
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(LedgerError, match="is missing"):
        read_removed(folder, "a")
    path_of(folder, names.removed(identifier, "gone")).write_bytes(whole)
    match(folder)
    assert path.read_bytes() == whole
    assert folder.tables(names.removals_folder(identifier)) == ["a", "b"]


def test_a_shard_without_the_column_is_refused(made):
    folder, _ = made
    shard_writer(folder.root).commit(shard_of("c", 2, seed=3))
    add(folder, "web", "url", "u1")
    message = r"shard c of .*, for list 'web', lacks a column url of the source, .*; run again"
    with pytest.raises(UsageError, match=message):
        match(folder)


def compacted(folder):
    return compact_folder(
        folder, folder.require_manifest(), HereEngine(), Control("run", folder.root)
    )


def scores(folder, columns="uid"):
    return connect(folder.root).sql(f"SELECT {columns} FROM scores ORDER BY uid").fetchall()


def test_scores_leave_removed_rows_out(made):
    folder, _ = made
    before = scores(folder, "*")
    add(folder, "web", "url", "u1")
    manifest = compacted(folder)
    left = [uid for (uid,) in scores(folder)]
    assert left == ["a-0", "a-3", "b-0", "b-2"]
    # All its values are one or NULL: without a dictionary DuckDB 2.0.0 counts every row.
    relation = connect(folder.root)
    assert relation.sql("SELECT count(*) FROM scores").fetchall() == [(4,)]
    assert relation.sql("SELECT count(*) FROM samples").fetchall() == [(7,)]
    columns = relation.sql("FROM scores").columns
    assert "removed" not in columns and "source_removed" in columns
    assert (manifest.wide.rows, manifest.wide.removed) == (7, 3)
    audit = relation.sql('SELECT uid, shard, "row", list, kind, id FROM removals').fetchall()
    assert sorted(audit) == rows_of(folder)
    folder.files.delete(names.removal_list("web"))
    assert compacted(folder).wide.removals == ""
    assert scores(folder, "*") == before
    assert "removals" not in [row[0] for row in connect(folder.root).sql("SHOW TABLES").fetchall()]


def test_the_wide_table_names_the_first_list_by_name(made):
    folder, _ = made
    add(folder, "web", "url", "u1")
    add(folder, "more", "uid", "b-2", "a-1")
    manifest = compacted(folder)
    (part,) = folder.tables(names.wide_folder(manifest.wide.build))
    path = path_of(folder, f"{names.wide_folder(manifest.wide.build)}/{part}.parquet")
    table = pq.read_table(path, columns=["uid", "removed", "source_removed"], partitioning=None)
    assert table["removed"].to_pylist() == [None, "more", "web", None, None, "web", "more"]
    assert table["source_removed"].to_pylist() == ["u0", "u1", "u1", None, "u3", "u1", "u5"]


def test_builds_change_exactly_when_the_removed_rows_do(made):
    folder, manifest = made

    def build():
        return plan_build(folder, manifest.revisions(), 1, removals=match(folder))

    none = build()
    add(folder, "web", "url", "u5")
    one = build()
    add(folder, "web", "url", "u5", "u9", reason="another id that names no row")
    same = build()
    assert (one.id, [part.key for part in one.parts]) == (same.id, [p.key for p in same.parts])
    assert none.id != one.id
    add(folder, "web", "url", "u0", "u5")
    two = build()
    assert two.parts[0] != one.parts[0] and two.parts[1] == one.parts[1]


def test_a_build_of_rows_not_looked_for_is_refused(made):
    folder, manifest = made
    add(folder, "web", "url", "u1")
    with pytest.raises(LedgerError, match=r"run `clipsieve remove .* --refresh`"):
        plan_build(folder, manifest.revisions(), removals=removals_id(folder))


@pytest.mark.parametrize("name", ["", "1st", "a/b", "..", "rev=0a", "x" * 65, "a b", "ü"])
def test_names_that_no_folder_can_have_are_refused(name):
    with pytest.raises(UsageError, match=r"list name .* becomes a folder; begin with a letter"):
        check_list_name(name)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("bad-urls.txt", "bad-urls"),
        ("list.csv.gz", "list"),
        ("Take down (2024).parquet", "Take-down-2024"),
        ("2024_re.laion.npy", "re-laion"),
        ("ü.txt", "list"),
        (".gz", "list"),
        ("a" * 80, "a" * 64),
    ],
)
def test_a_list_is_named_for_its_file(source, name):
    assert check_list_name(default_list_name(source)) == name


def test_damaged_lists_are_refused(made):
    folder, _ = made
    entry = add(folder, "web", "url", "u1")
    assert removal_lists(folder) == (entry,)
    write_ids(
        folder,
        dataclasses.replace(entry, ids_sha256="0"),
        IdList.from_texts(IdKind.URL, pa.array(["u2"])),
    )
    with pytest.raises(LedgerError, match=r"ids\.parquet is missing, damaged, or of another list"):
        match(folder)
    with pytest.raises(UsageError, match="has no removal list 'wab'; it has web"):
        load_list(folder, "wab")
    folder.write_json(names.removal_list("other"), {"name": "web"})
    with pytest.raises(LedgerError, match=r"list\.json is no description of a removal list"):
        removals_id(folder)
    folder.write_json(names.removal_list("other"), dataclasses.asdict(entry))
    with pytest.raises(LedgerError, match="it describes 'web', of kind 'url'"):
        removals_id(folder)


def test_interrupted_writes_are_swept(made):
    folder, _ = made
    add(folder, "web", "url", "u1")
    left = path_of(folder, f"removals/web/ids.parquet.tmp-{'0' * 32}")
    left.write_bytes(b"")
    assert OutputFolder.open(folder.root).sweep() == [f"removals/web/{left.name}"]
