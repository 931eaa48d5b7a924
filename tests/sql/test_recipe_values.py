"""Values of recipes' parameters: what is refused, what is quoted; recipes as files."""

import re
from pathlib import Path

import duckdb
import pytest

import clipsieve
from clipsieve.errors import UsageError
from clipsieve.sql.connect import run_query
from clipsieve.sql.recipe_values import recipe_text
from clipsieve.sql.recipes import Recipe, find_recipe, recipe_lines, recipes
from clipsieve.sql.run_recipe import parse_assignments
from clipsieve.sql.views import write_sql
from tests.store.folders import make_folder, path_of, shard_of

REFUSALS = [
    ("treshold_for_keep", {}, "not known .did you mean threshold_for_keep"),
    ("funnel", {"clip_kep": 1}, "no parameter 'clip_kep' .did you mean clip_keep"),
    ("threshold_for_keep", {"keep": 1.01}, "number from 0 to 1, got 1.01"),
    ("threshold_for_keep", {"keep": "0.3; DROP VIEW scores"}, "keep must be a number"),
    ("threshold_for_keep", {"keep": "nan"}, "keep must be a number"),
    ("keep_rate", {"threshold": "1_0"}, "threshold must be a number, got '1_0'"),
    ("threshold_for_keep", {"keep": "null"}, "keep must be a number"),
    ("threshold_for_keep", {"keep": True}, "keep must be a number"),
    ("score_distribution", {"bins": "2.5"}, "integer from 1 to 10000, got '2.5'"),
    ("by_domain", {"top": 0}, "integer of at least 1, got 0"),
    ("keep_rate", {"column": "clip_scor"}, "'clip_scor' is not in scores .did you mean clip_score"),
    ("keep_rate", {"column": "density_lof"}, "clipsieve score OUT --scorers density.lof"),
    ("keep_rate", {"column": 'clip_score" FROM scores; --'}, "is not in scores"),
    ("keep_rate", {"column": "caption"}, "column of numbers, and 'caption' is string"),
]


@pytest.mark.parametrize(("name", "parameters", "message"), REFUSALS)
def test_what_is_refused(answer, name, parameters, message):
    with pytest.raises(UsageError, match=message):
        answer(name, **parameters)


def test_text_is_a_value_whatever_is_in_it(answer):
    hostile = "it's'; DROP VIEW scores; -- {clip} {'clip'} \0"
    rows = answer("funnel", status=hostile)
    assert [row["kept"] for row in rows] == [125, 0, 0, 0, 0]
    assert rows[1]["filter"] == "status = " + hostile.replace("\0", "\ufffd")


def test_a_missing_family_says_which_scorer_makes_it(tmp_path):
    folder, _ = make_folder(tmp_path / "out", [shard_of("a", 4)])
    with pytest.raises(UsageError, match=r"'density_kdist'.*--scorers density\)"):
        clipsieve.sql_recipe(folder.root, "funnel")
    with pytest.raises(UsageError, match=r"'ood_msp'.*score OUT --scorers ood\.msp"):
        clipsieve.sql_recipe(folder.root, "funnel", density="clip_score")
    written = {path.name for path in path_of(folder, "sql").iterdir()}
    assert "keep_rate.sql" in written and "funnel.sql" not in written


def test_a_folder_without_the_wide_table_is_refused(tmp_path):
    folder, _ = make_folder(tmp_path / "out", [shard_of("a", 4)], wide=False)
    with pytest.raises(UsageError, match="no view `scores`; make it: clipsieve compact"):
        clipsieve.sql_recipe(folder.root, "keep_rate")


def test_files_of_recipes_run_in_plain_duckdb_with_their_defaults(made, answer, monkeypatch):
    folder, manifest = made
    monkeypatch.chdir(folder.root)
    files = {path.stem: path for path in path_of(folder, "sql").iterdir()}
    assert set(files) == {"views", "macros", *recipes()} - {"drift"}  # clip has one revision
    connection = duckdb.connect()
    for name in ("views", "macros"):
        connection.execute(files.pop(name).read_text())
    for name, path in files.items():
        relation = connection.sql(path.read_text())
        rows = [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
        assert rows == answer(name), name
    assert f"-- {find_recipe('funnel').doc}\n" in files["funnel"].read_text()
    path_of(folder, "sql/drift.sql").write_text("of a revision that is gone")
    write_sql(folder, manifest)
    assert not path_of(folder, "sql/drift.sql").exists()


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        "-- A line.\n-- set keep = 0.3\nSELECT {keep}",
        "-- A line.\n-- set keep: nonsense = 0.3  -- share\nSELECT {keep}",
        "-- A line.\nSELECT {keep}",
    ],
)
def test_a_recipe_of_another_form_is_an_error(text):
    with pytest.raises(ValueError):
        Recipe.parse("mine", text)


def test_the_last_statement_is_the_answer(made):
    text = (
        "-- Two.\n-- set x: number = -1  -- any\nCREATE TEMP TABLE t AS SELECT -{x} AS v;\nFROM t;"
    )
    folder, manifest = made
    query = recipe_text(Recipe.parse("two", text), folder, manifest, {})
    answer = run_query(folder.root, query)
    assert answer is not None and answer.rows == [(1,)]


def test_the_list_has_every_recipe_and_parameter():
    lines = recipe_lines()
    for recipe in recipes().values():
        assert f"{recipe.name}: {recipe.doc}" in lines
    assert any(
        line.startswith("  --set keep=0.3 ") and "number from 0 to 1" in line for line in lines
    )


def test_the_page_of_recipes_has_them_all():
    page = (Path(__file__).resolve().parents[2] / "docs" / "sql.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE) == sorted(
        recipes(), key=lambda name: page.index(f"`{name}` |")
    )


@pytest.mark.parametrize("words", [["keep"], ["=3"], ["keep=1", "keep=2"]])
def test_words_that_are_no_assignments(words):
    with pytest.raises(UsageError, match="--set"):
        parse_assignments(words)
