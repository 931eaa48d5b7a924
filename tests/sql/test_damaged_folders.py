"""One damaged or odd file costs the views that read it, and no others."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.cli import main
from clipsieve.errors import UsageError
from clipsieve.sql.catalog import write_catalog
from clipsieve.sql.connect import connect, run_query
from tests.sql.hostile import change_table, first
from tests.store.folders import make_folder, shard_of

SHARDS = [shard_of("a", 4, seed=1), shard_of("b", 3, seed=2)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder, _ = make_folder(tmp_path_factory.mktemp("base") / "out", SHARDS)
    return Path(folder.root)


@pytest.fixture
def out(base, tmp_path):
    return Path(shutil.copytree(base, tmp_path / "out"))


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


def views_of(out):
    return {name for (name,) in connect(out).sql("SHOW TABLES").fetchall()}


ALL = {"scores", "score_columns", "samples", "embeddings", "clip", "runs", "shards"}

#: What is done to a folder, the view that it costs, and words of the line that says so.
DAMAGED = {
    "footer": (
        lambda out: flip(first(out, "wide/*/*.parquet"), -20),
        "scores",
        "clipsieve compact",
    ),
    "mark": (lambda out: flip(first(out, "wide/*/*.parquet"), -1), "scores", "clipsieve compact"),
    "empty": (lambda out: first(out, "samples/a.parquet").write_bytes(b""), "samples", "a.parquet"),
    "second": (lambda out: flip(out / "samples" / "b.parquet", -20), "samples", "b.parquet"),
    "run": (lambda out: first(out, "_runs/*.json").write_text("{"), "runs", "moves it aside"),
    "not UTF-8": (
        lambda out: first(out, "_runs/*.json").write_bytes(b'{"a": "\xff"}'),
        "runs",
        "moves it aside",
    ),
    "other columns": (
        lambda out: pq.write_table(pa.table({"x": [1]}), first(out, "embeddings/*/*/a.parquet")),
        "embeddings",
        "'uid' is missing",
    ),
}

#: What is done to a folder without an effect on any view.
ODD = {
    "hidden table": lambda out: (out / "samples" / "._a.parquet").write_bytes(b"junk"),
    "hidden scores": lambda out: (
        first(out, "scores/clip/*/a.parquet").with_name(".x.parquet").write_bytes(b"junk")
    ),
    "hidden part": lambda out: (
        first(out, "wide/*/*.parquet").with_name("._part.parquet").write_bytes(b"junk")
    ),
    "hidden run": lambda out: (out / "_runs" / "._x.json").write_bytes(b"\0\5\x16\7"),
    "hidden records": lambda out: (out / "_runs" / "._x.shards.jsonl").write_bytes(b"\0\5\n"),
    "folder": lambda out: (out / "samples" / "x.parquet").mkdir(),
    "footer that is no UTF-8": lambda out: change_table(
        first(out, "samples/a.parquet"),
        lambda table: table.replace_schema_metadata({b"\xff": b"\xff", b"clipsieve.x": b"\xff"}),
    ),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_costs_its_view_and_is_named(out, capsys, kind):
    damage, view, words = DAMAGED[kind]
    damage(out)
    assert views_of(out) == ALL - {view}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"clipsieve: view {view} is left out: ") and words in line
    with pytest.raises(UsageError, match=f"query failed: .*view {view} is left out: ") as error:
        run_query(out, f"SELECT count(*) FROM {view}")
    assert words in str(error.value)
    assert run_query(out, "SELECT 1") is not None
    write_catalog(out)
    with pytest.raises(SystemExit) as ended:
        main(["sql", str(out), "SELECT 1"])
    assert ended.value.code == 0


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("command", ["status", "reconcile"])
def test_files_of_other_programs_change_nothing(out, capsys, kind, command):
    ODD[kind](out)
    assert views_of(out) == ALL
    assert capsys.readouterr().err == ""
    with pytest.raises(SystemExit) as ended:
        main([command, str(out)])
    assert ended.value.code in (0, 1)  # the sources of this folder are nowhere
    assert "._" not in capsys.readouterr().out


def test_a_variable_is_not_taken_for_a_view_that_is_left_out(out):
    flip(first(out, "wide/*/*.parquet"), -20)
    scores = pa.table({"uid": ["stranger"]})
    with pytest.raises(UsageError, match="view scores is left out"):
        run_query(out, "FROM scores")
    del scores


def test_a_query_that_is_no_utf8_is_a_usage_error(out):
    with pytest.raises(UsageError, match="query failed: "):
        run_query(out, "SELECT '\ud800'")
