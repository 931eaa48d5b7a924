"""No text in an output folder that was shared is ever run, whoever opens it and how."""

import dataclasses
import shutil
from pathlib import Path

import duckdb
import pytest

import clipsieve
from clipsieve.errors import ClipsieveError
from clipsieve.job.status import status_lines
from clipsieve.schemas.subsets import dropped_schema, kept_schema
from clipsieve.sql.catalog import write_catalog
from clipsieve.sql.connect import open_views, run_query
from clipsieve.sql.literals import identifier
from clipsieve.store import names
from clipsieve.store.subsets import Subset
from tests.sql.folders import add_scores
from tests.sql.hostile import PLACES, TEXTS
from tests.store.folders import compacted, make_folder, shard_of

SUBSET = Subset("keep", "5b" * 4, {"where": "ok"}, (), 4, 4, 0, shards=("a",))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A small folder with scores of two families, a subset, records and SQL files."""
    folder, manifest = make_folder(tmp_path_factory.mktemp("base") / "out", [shard_of("a", 4)])
    columns = {"ood_msp": [0.1, 0.2, 0.3, 0.4]}
    manifest = add_scores(folder, manifest, "ood", columns)
    _, manifest = compacted(folder, dataclasses.replace(manifest, wide=None))
    folder.save_manifest(manifest)
    uids = folder.read_table(names.samples("a"), ["uid", "shard", "row"])
    for table, schema in ((names.kept, kept_schema), (names.dropped, dropped_schema)):
        made = schema(uids.schema.field("uid").type)
        rows = uids if table is names.kept else made.empty_table()
        folder.write_table(table("keep", SUBSET.revision, "a"), rows, {"clipsieve.rows": "4"})
    folder.write_json(names.subset_manifest("keep"), SUBSET.to_json())
    return Path(folder.root)


@pytest.fixture
def hostile(base, tmp_path, monkeypatch):
    """Return a copy of the folder, from an empty current folder, where statements would write."""
    shutil.copytree(base, tmp_path / "out")
    (tmp_path / "current").mkdir()
    monkeypatch.chdir(tmp_path / "current")
    return tmp_path / "out"


def open_in_every_way(root: Path, closely: bool = True, recipes: bool = False) -> None:
    """Open a folder as commands do; what is wrong in it may be refused in one line."""

    def views():
        with open_views(root)[0] as connection:
            for (view,) in connection.sql("SHOW TABLES").fetchall():
                connection.execute(f"SELECT * FROM {identifier(view)} LIMIT 3").fetchall()

    ways = [views]
    if closely:
        ways += [
            lambda: write_catalog(root, root.parent / "current.duckdb"),
            lambda: list(status_lines(str(root))),
        ]
    if closely and recipes:
        ways += [
            lambda: clipsieve.sql_recipe(root, "score_summary").fetchall(),
            lambda: clipsieve.sql_recipe(root, "drift", column="ood_msp").fetchall(),
        ]
    for way in ways:
        try:
            way()
        except (ClipsieveError, duckdb.Error) as error:
            assert len(str(error)) < 4000


#: Places that recipes read.
RECIPES = ("score column", "commented", "revision folder", "recipe")


@pytest.mark.parametrize("place", PLACES)
def test_a_text_is_never_a_statement(hostile, place):
    for number, text in enumerate(TEXTS.values()):
        copy = hostile.with_name(f"out{number}")
        shutil.copytree(hostile, copy)
        PLACES[place](copy, text)
        open_in_every_way(copy, closely=number == 0, recipes=place in RECIPES)
        assert list(hostile.with_name("current").iterdir()) == []
        assert list(hostile.parent.rglob("stolen*")) == []


def test_there_are_enough_attacks():
    assert len(PLACES) * len(TEXTS) >= 100


def test_a_sound_folder_opens_in_every_way(hostile, capsys):
    open_in_every_way(hostile, recipes=True)
    assert "left out" not in capsys.readouterr().err
    answer = run_query(hostile, "SELECT count(*) FROM kept")
    assert answer is not None and answer.rows == [(4,)]
