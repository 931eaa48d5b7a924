"""Views that describe: what score columns mean, and how shards ended."""

import dataclasses
import re

import duckdb
import numpy as np
import pyarrow as pa
import pytest

import clipsieve
from clipsieve.errors import UsageError
from clipsieve.scorers import registry
from clipsieve.scorers.clipscore import clip_score_scorer
from clipsieve.sql.connect import connect
from clipsieve.sql.create_views import named_views
from clipsieve.sql.views import views_sql
from clipsieve.store import names
from clipsieve.store.manifest import FamilyEntry, ScorerEntry
from clipsieve.store.records import (
    DONE,
    FAILED,
    SCORED,
    ShardRecord,
    add_record,
    gather_records,
    read_records,
)
from tests.store.folders import RUN_ID, compacted, make_folder, path_of, shard_of

REVISION = "b1" * 4
SHARDS = [shard_of("a", 4, seed=1), shard_of("b", 3, seed=2)]
HOSTILE = 'it\'s "quoted"; DROP VIEW scores; --\n--: samples\n{rows} {doc} {column} \\ \0 grün'
TYPES = [
    pa.float32(),
    pa.float64(),
    pa.int8(),
    pa.int16(),
    pa.int32(),
    pa.int64(),
    pa.uint8(),
    pa.uint16(),
    pa.uint32(),
    pa.uint64(),
    pa.bool_(),
    pa.string(),
]


def add_family(folder, manifest, fields, family="mine"):
    """Write a family whose columns are NULL; the manifest with it, saved."""
    for shard in folder.shards():
        uids = folder.read_table(names.samples(shard), ["uid"])["uid"]
        columns = [uids, *(pa.nulls(len(uids), field.type) for field in fields)]
        table = pa.Table.from_arrays(
            columns, schema=pa.schema([pa.field("uid", pa.string()), *fields])
        )
        footer = folder.read_footer(names.samples(shard))
        folder.write_table(names.scores(family, REVISION, shard), table, footer)
    entry = FamilyEntry(REVISION, {family: ScorerEntry(REVISION)})
    manifest = dataclasses.replace(manifest, families={**manifest.families, family: entry})
    folder.save_manifest(manifest)
    return manifest


def described(name, **metadata):
    return pa.field(name, pa.float32(), metadata=metadata)


def column_rows(folder):
    relation = connect(folder.root).sql("FROM score_columns")
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


@pytest.fixture
def made(tmp_path):
    """A folder of two shards with family `clip`, and its manifest."""
    return make_folder(tmp_path / "out", SHARDS)


def test_score_columns_say_what_the_scorer_says(made):
    folder, manifest = made
    expected = [
        {
            "column_name": field.name,
            "family": "clip",
            "scorer": "clip",
            "revision": manifest.scorers()["clip"].revision,
            "type": "float",
            **{key: field.metadata[key.encode()].decode() for key in ("doc", "direction")},
            **{key: field.metadata[key.encode()].decode() for key in ("range", "source")},
        }
        for field in clip_score_scorer().columns
    ]
    assert column_rows(folder) == expected
    assert list(expected[0]) == list(column_rows(folder)[0])
    assert all(row["doc"] and row["source"] for row in expected)


def test_texts_of_a_scorer_are_values_whatever_is_in_them(made):
    folder, manifest = made
    field = described(
        "mine",
        doc=HOSTILE,
        direction="'",
        range="''",
        source="NULL",
        scorer="mine'--",
        revision="{files}",
    )
    manifest = add_family(folder, manifest, [field])
    _, manifest = compacted(folder, manifest)
    folder.save_manifest(manifest)
    assert column_rows(folder)[-1] == {
        "column_name": "mine",
        "family": "mine",
        "scorer": "mine'--",
        "revision": "{files}",
        "type": "float",
        "doc": HOSTILE.replace("\0", "\ufffd"),
        "direction": "'",
        "range": "''",
        "source": "NULL",
    }
    assert connect(folder.root).sql("SELECT count(*) FROM scores").fetchall() == [(7,)]


def test_columns_that_no_scorer_describes_have_null(made):
    folder, manifest = made
    add_family(folder, manifest, [pa.field("bare", pa.float32())])
    *_, row = column_rows(folder)
    given = {"column_name": "bare", "family": "mine", "type": "float"}
    assert row == dict.fromkeys(row) | given


def test_a_text_that_is_not_utf8_is_shown_with_replacements(made):
    folder, manifest = made
    add_family(
        folder, manifest, [pa.field("x", pa.float32(), metadata={b"doc": b"a\xff", b"\xff": b""})]
    )
    assert column_rows(folder)[-1]["doc"] == "a\ufffd"


def test_types_are_named_as_arrow_names_them(made):
    folder, manifest = made
    add_family(folder, manifest, [pa.field(f"c{n}", type) for n, type in enumerate(TYPES)])
    types = [row["type"] for row in column_rows(folder) if row["family"] == "mine"]
    assert types == list(map(str, TYPES))


def test_comments_of_scores_are_the_docs(made):
    folder, manifest = made
    fields = [
        described('o"dd name', doc="it's\nodd"),
        described("none"),
        described("empty", doc=""),
    ]
    _, manifest = compacted(folder, add_family(folder, manifest, fields))
    folder.save_manifest(manifest)
    relation = connect(folder.root).sql(
        "SELECT column_name, comment FROM duckdb_columns() "
        "WHERE table_name = 'scores' AND comment IS NOT NULL"
    )
    docs = {f.name: f.metadata[b"doc"].decode() for f in clip_score_scorer().columns}
    assert dict(relation.fetchall()) == {**docs, 'o"dd name': "it's\nodd"}


def test_a_family_that_the_scores_do_not_show_yet_is_described(made):
    folder, manifest = made
    add_family(folder, manifest, [described("later", doc="not compacted")])
    assert column_rows(folder)[-1]["column_name"] == "later"
    assert "later" not in connect(folder.root).sql("FROM scores").columns


def test_a_damaged_file_does_not_hide_what_another_says(made):
    folder, manifest = made
    rows = column_rows(folder)
    name = names.scores("clip", manifest.revisions()["clip"], "a")
    path_of(folder, name).write_bytes(b"damaged")
    text = views_sql(folder, manifest)
    assert all(row["doc"].replace("'", "''") in text for row in rows)


def test_no_readable_file_of_a_family_is_no_error(made):
    folder, manifest = made
    for shard in "ab":
        name = names.scores("clip", manifest.revisions()["clip"], shard)
        path_of(folder, name).write_bytes(b"damaged")
    assert "score_columns" not in views_sql(folder, manifest)


def test_no_family_may_take_the_name_of_the_view(monkeypatch):
    monkeypatch.setitem(registry._SHIPPED, "score_columns", "clipscore:clip_score_scorer")
    with pytest.raises(UsageError, match="'score_columns' cannot name a folder and a view"):
        registry.make_scorer("score_columns", {})


def shard_states(folder):
    relation = connect(folder.root).sql(
        "SELECT run_id, shard, state, states FROM shards ORDER BY ALL"
    )
    return relation.fetchall()


ENDED = [(RUN_ID, "a", DONE, {"ok": 4}), (RUN_ID, "b", DONE, {"ok": 3})]


def test_records_of_a_run_at_work_are_seen_beside_those_of_one_that_ended(made):
    folder, _ = made
    assert shard_states(folder) == ENDED
    add_record(folder, ShardRecord("r2", "c", "/in/c", FAILED, error="it's\nbad"))
    assert shard_states(folder) == [*ENDED, ("r2", "c", FAILED, {})]
    error = connect(folder.root).sql("SELECT error FROM shards WHERE run_id = 'r2'")
    assert error.fetchall() == [("it's\nbad",)]
    gather_records(folder, "r2")
    assert shard_states(folder) == [*ENDED, ("r2", "c", FAILED, {})]


def test_records_are_seen_where_no_run_has_ended(made):
    folder, _ = made
    folder.files.delete_folder("_runs")
    assert "VIEW shards" not in views_sql(folder, folder.require_manifest())
    (path_of(folder, "_runs") / "r1.shards").mkdir(parents=True)
    assert "VIEW shards" not in views_sql(folder, folder.require_manifest())
    add_record(folder, ShardRecord("r1", "a", "/in/a", DONE, 2, {"ok": 2}))
    assert shard_states(folder) == [("r1", "a", DONE, {"ok": 2})]


def test_a_record_that_is_still_beside_its_gathered_line_is_one_row(made):
    folder, _ = made
    record = ShardRecord(RUN_ID, "c", "/in/c", DONE, 1, {"ok": 1})
    add_record(folder, record)
    gather_records(folder, RUN_ID)
    add_record(folder, record)
    assert shard_states(folder) == [*ENDED, (RUN_ID, "c", DONE, {"ok": 1})]


@pytest.mark.parametrize("content", [b"", bytes(200), b'{"run_id": "r2", "shard'])
def test_a_record_that_a_power_failure_tore_is_left_out(made, content):
    folder, _ = made
    add_record(folder, ShardRecord("r2", "c", "/in/c", DONE))
    (path_of(folder, "_runs") / "r2.shards" / "torn.json").write_bytes(content)
    assert shard_states(folder) == [*ENDED, ("r2", "c", DONE, {})]
    assert {record.shard for record in read_records(folder)} == {"a", "b", "c"}


def test_a_run_that_ends_while_a_connection_opens_is_no_error(made, monkeypatch):
    folder, _ = made
    add_record(folder, ShardRecord("r2", "c", "/in/c", DONE))

    def then_gather(folder, manifest, root, only):
        text = views_sql(folder, manifest, root, only)
        gather_records(folder, "r2")
        return text

    monkeypatch.setattr("clipsieve.sql.connect.views_sql", then_gather)
    assert shard_states(folder) == [*ENDED, ("r2", "c", DONE, {})]


def test_files_in_the_folder_follow_the_records_to_where_they_are_gathered(made, monkeypatch):
    folder, _ = made
    clipsieve.score(folder.root, ["density"], device="cpu")
    monkeypatch.chdir(folder.root)
    connection = duckdb.connect()
    connection.execute(folder.files.read("sql/views.sql").decode())
    found = connection.sql("SELECT shard, state FROM shards WHERE state = 'scored' ORDER BY ALL")
    assert found.fetchall() == [("a", SCORED), ("b", SCORED)]
    assert connection.sql("SELECT count(*) FROM runs").fetchall() == [(2,)]
    assert not np.isnan(
        connection.sql("SELECT density_kdist FROM scores").fetchnumpy()["density_kdist"]
    ).any()


@pytest.mark.parametrize("query", ["FROM scores", "SELECT * FROM Samples, runs", "FROM shards"])
def test_only_what_a_query_names_is_in_its_text(made, query):
    folder, manifest = made
    only = named_views(query)
    assert only is not None
    view = re.compile(r"CREATE OR REPLACE (?:VIEW|MACRO) \"?(\w+)")
    every = set(view.findall(views_sql(folder, manifest)))
    assert set(view.findall(views_sql(folder, manifest, only=only))) == every & only
    assert named_views("SHOW TABLES") is None is named_views(None)
