"""The catalog opens anywhere and shows what `connect` shows."""

import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import duckdb
import pytest

from clipsieve.errors import UsageError
from clipsieve.schemas import __name__ as SCHEMAS
from clipsieve.sql.catalog import write_catalog
from clipsieve.sql.connect import connect
from clipsieve.store.file_system import temporary_name
from clipsieve.store.folder import OutputFolder
from tests.sql.folders import make_scored_folder
from tests.store.folders import path_of

#: Characters that mean something to DuckDB's patterns, to SQL, and to our template.
HOSTILE = "it's [a] {rev} {root} b*"
OTHER_PROCESS = """
import duckdb, sys
with duckdb.connect(sys.argv[1], read_only=True) as connection:
    print(connection.sql("SELECT count(*), sum(row), count(clip_score) FROM scores").fetchall())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made, _ = make_scored_folder(tmp_path_factory.mktemp("catalog") / HOSTILE)
    return made


def test_another_process_elsewhere_opens_it(folder, tmp_path):
    path = write_catalog(folder.root)
    assert Path(path) == path_of(folder, "catalog.duckdb")
    command = [sys.executable, "-c", OTHER_PROCESS, path]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    query = "SELECT count(*), sum(row), count(clip_score) FROM scores"
    assert done.stdout.strip() == str(connect(folder.root).sql(query).fetchall())


def test_every_view_and_macro_is_there(folder, tmp_path, monkeypatch):
    path = write_catalog(folder.root, tmp_path / "new" / "mine.db")
    monkeypatch.chdir(tmp_path)
    ours = connect(folder.root)
    names = [name for (name,) in ours.sql("SHOW TABLES").fetchall()]
    assert {"scores", "samples", "embeddings", "ood", "runs", "shards"} <= set(names)
    with duckdb.connect(path, read_only=True) as connection:
        assert connection.sql("SHOW TABLES").fetchall() == [(name,) for name in names]
        for query in (*names, "score_histogram('scores', 'ood_msp', n := 7)"):
            rows = f"FROM {query} ORDER BY ALL"
            assert connection.sql(rows).fetchall() == ours.sql(rows).fetchall(), query


def test_every_path_of_the_template_can_be_made_absolute():
    text = (files(SCHEMAS) / "sql" / "views.sql").read_text(encoding="utf-8")
    reads = re.findall(r"\bread_\w+\((.{8})", text)
    assert len(reads) > 8
    assert set(reads) <= {"'{root}" + letter for letter in "seawmr_"} | {"[{files}"}


def test_the_format_is_one_that_earlier_versions_read(folder, tmp_path):
    path = write_catalog(folder.root, tmp_path / "mine.db")
    header = Path(path).read_bytes()[:20]
    assert header[8:12] == b"DUCK" and int.from_bytes(header[12:20], "little") == 64


def test_it_is_replaced_and_leaves_nothing_beside_it(folder, tmp_path):
    path = tmp_path / "mine.db"
    write_catalog(folder.root, path)
    inode = path.stat().st_ino
    write_catalog(folder.root, path)
    assert path.stat().st_ino != inode
    assert [each.name for each in tmp_path.iterdir()] == ["mine.db"]


def test_what_a_kill_leaves_is_swept(folder):
    left = path_of(folder, temporary_name("catalog.duckdb"))
    left.write_bytes(b"half")
    with folder.lock():
        assert folder.sweep() == [left.name]


def test_what_is_no_catalog_is_not_replaced(folder, tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    with duckdb.connect(str(tmp_path / "data.db")) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS x")
    (tmp_path / "half.db").write_bytes((tmp_path / "data.db").read_bytes()[:100])
    for path, message in (
        (notes, "is there, and no database of clipsieve's; choose another path"),
        (tmp_path, "is there, and no database of clipsieve's"),
        (tmp_path / "half.db", "is a DuckDB database that cannot be opened"),
        (tmp_path / "data.db", "database with tables"),
        (notes / "below.db", "cannot be written"),
    ):
        with pytest.raises(UsageError, match=message):
            write_catalog(folder.root, path)
    assert notes.read_text() == "mine"
    with pytest.raises(UsageError, match="holds no clipsieve dataset"):
        write_catalog(OutputFolder.open(tmp_path / "none").root)
