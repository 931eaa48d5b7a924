"""Recipes of users: their TOML files, their parameters, and every way they can be wrong."""

import re
from decimal import Decimal

import pyarrow as pa
import pytest

from clipsieve.errors import UsageError
from clipsieve.select.recipe import read_recipe
from clipsieve.select.recipes import load_recipe
from clipsieve.sql.predicate import read_predicate

SCHEMA = pa.schema(
    [
        ("caption", pa.string()),
        ("clip_score", pa.float32()),
        ("Language", pa.string()),
        ('odd "name"', pa.float32()),
        ("a AND b", pa.float32()),
    ]
)
TEXT = """
description = "Scores of one language."
source = "mine"
where = "{score} >= {cut} AND {language} = {code}"

[parameters]
score = "clip_score"
cut = 0.7000000000000000001
language = "language"
code = "en"

[columns]
score = "number: a score"
language = "text: the language"
"""


def predicate(parameters, text=TEXT):
    return read_recipe("mine", text).predicate_text(parameters, SCHEMA)


def test_a_recipe_is_what_its_file_says():
    recipe = read_recipe("mine", TEXT)
    assert (recipe.name, recipe.description, recipe.source) == (
        "mine",
        "Scores of one language.",
        "mine",
    )
    assert recipe.parameters == {
        "score": "clip_score",
        "cut": Decimal("0.7000000000000000001"),
        "language": "language",
        "code": "en",
    }
    assert recipe.columns == {"score": "number: a score", "language": "text: the language"}
    assert recipe.notes == ""


def test_defaults_keep_their_digits_and_columns_are_named_as_in_the_table():
    text = "(clip_score >= 0.7000000000000000001) AND (\"Language\" = 'en')"
    assert predicate({}) == text
    assert read_predicate(text, SCHEMA).columns == ("clip_score", "Language")


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"cut": "0.5"}, "(clip_score >= 0.5) AND (\"Language\" = 'en')"),
        ({"cut": 1}, "(clip_score >= 1) AND (\"Language\" = 'en')"),
        ({"cut": 0.25}, "(clip_score >= 0.25) AND (\"Language\" = 'en')"),
        ({"cut": "-1e-3"}, "(clip_score >= -1e-3) AND (\"Language\" = 'en')"),
        ({"cut": ".5"}, "(clip_score >= .5) AND (\"Language\" = 'en')"),
        (
            {"score": "CLIP_SCORE"},
            "(clip_score >= 0.7000000000000000001) AND (\"Language\" = 'en')",
        ),
        ({"code": ""}, "(clip_score >= 0.7000000000000000001) AND (\"Language\" = '')"),
        ({"code": "1"}, "(clip_score >= 0.7000000000000000001) AND (\"Language\" = '1')"),
        ({"score": "a AND b", "cut": 1}, '("a AND b" >= 1) AND ("Language" = \'en\')'),
        ({"score": 'odd "name"', "cut": 1}, '("odd ""name""" >= 1) AND ("Language" = \'en\')'),
    ],
)
def test_parameters_take_the_place_of_defaults(parameters, text):
    assert predicate(parameters) == text


@pytest.mark.parametrize(
    "value",
    [
        "en' OR 'a' = 'a",
        "'); DROP TABLE shard; --",
        '"',
        "''",
        "{cut}",
        "{language}",
        "en -- comment",
        "/* en",
        "日本\n\t",
        "$$",
        "\\",
    ],
)
def test_a_text_is_one_value_whatever_is_in_it(value):
    text = predicate({"code": value})
    assert text.endswith(" = '" + value.replace("'", "''") + "')")
    clauses = read_predicate(text, SCHEMA).clauses
    assert len(clauses) == 2


@pytest.mark.parametrize(
    "value",
    [
        "0.5 OR true",
        "1; DROP TABLE shard",
        "'1'",
        "",
        " 1",
        "1 ",
        "nan",
        "inf",
        "0x10",
        "1_0",
        "1e9999",
        "x",
        "\u0661",
        True,
        "1--",
    ],
)
def test_a_number_must_be_one(value):
    message = f"recipe mine: cut must be a number, such as 0.7000000000000000001; got {value!r}"
    with pytest.raises(UsageError, match=re.escape(message)):
        predicate({"cut": value})


@pytest.mark.parametrize(
    ("value", "near"),
    [
        ("clip_scor", "did you mean clip_score"),
        ("clip_score OR true", "did you mean clip_score"),
        ('clip_score" OR "a', "which is not there"),
        ("", "which is not there"),
    ],
)
def test_a_column_must_be_one_of_the_table(value, near):
    with pytest.raises(UsageError) as error:
        predicate({"score": value})
    message = str(error.value)
    assert message.startswith(f"recipe mine reads column {value!r}, which is not there")
    assert near in message and "(number: a score): name another with --set score=COLUMN" in message


def test_an_unknown_parameter_names_the_nearest_and_all():
    message = (
        r"has no parameter 'languag' \(did you mean language\?\); it has score, cut, language, code"
    )
    with pytest.raises(UsageError, match=message):
        predicate({"languag": "x"})
    one = read_recipe(
        "one",
        'description = "d"\nsource = "s"\nwhere = "a > {fraction}"\n[parameters]\nfraction = 0.3',
    )
    with pytest.raises(UsageError, match=r"'fracton' \(did you mean fraction\?\)$"):
        one.predicate_text({"fracton": 1}, pa.schema([]))
    with pytest.raises(UsageError, match=r"'zzz'; it has fraction$"):
        one.predicate_text({"zzz": 1}, pa.schema([]))


def changed(old, new):
    assert old in TEXT
    return TEXT.replace(old, new)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("where = ", "recipe mine is no TOML: Invalid value (at end of document)"),
        ("a = 1\na = 2", "is no TOML: Cannot overwrite a value"),
        ("x = " + "[" * 5000, "is no TOML"),
        ("", "has no description; a recipe is a TOML file as in docs/filters.md"),
        (changed('description = "Scores of one language."', ""), "has no description"),
        (changed('"Scores of one language."', '" "'), "description is empty"),
        (changed('source = "mine"', ""), "has no source"),
        (changed('source = "mine"', "source = 3"), "source must be a text, got 3"),
        (changed('source = "mine"', 'source = "mine"\nnotes = []'), "notes must be a text, got []"),
        (
            changed('source = "mine"', 'source = "mine"\nwhre = ""'),
            "has a key 'whre' (did you mean where?); it may have",
        ),
        (changed("[columns]", "[colums]"), "has a key 'colums' (did you mean columns"),
        (re.sub("where = .*", "", TEXT), "has no where"),
        (re.sub("where = .*", "where = ['a']", TEXT), "where must be a text"),
        (re.sub("where = .*", "where = ''", TEXT), "parameter 'code' does not stand in where"),
        (
            re.sub("where = .*", "where = 'a >'", 'description="d"\nsource="s"\nwhere = ""'),
            "where cannot be read",
        ),
        (changed("{cut}", "{cutt}"), "parameter 'cut' does not stand in where; write {cut} there"),
        (
            changed("{cut}", "{cut} + {Cutt}"),
            "where names {Cutt}, which is no parameter (did you mean cut",
        ),
        (changed("{code}", "'{code}'"), "a parameter stands inside quotes"),
        (changed("{code}", "{code} -- {code}"), "a parameter stands inside quotes, a comment"),
        (
            changed("{language} =", "x.{language} ="),
            "a parameter stands inside quotes, a comment or a longer name",
        ),
        (changed("{code}", "{code}; DROP TABLE shard"), "where cannot be read"),
        (
            changed("cut = 0.7000000000000000001", "cut = true"),
            "parameters.cut must be a text or a number, got True",
        ),
        (
            changed("cut = 0.7000000000000000001", "cut = [1]"),
            "parameters.cut must be a text or a number, got [1]",
        ),
        (
            changed("cut = 0.7000000000000000001", "cut = nan"),
            "parameters.cut must be a finite number",
        ),
        (
            changed("cut = 0.7000000000000000001", "cut = 1e99999"),
            "parameters.cut must be a finite number",
        ),
        (
            changed("cut = 0.7000000000000000001", "cut = 2024-01-01"),
            "parameters.cut must be a text or a number",
        ),
        (
            changed("cut = 0.7", '"Cut off" = 0.7'),
            "parameters.Cut off must be named by a-z, 0-9 and _",
        ),
        (changed("[parameters]", "[[parameters]]"), "parameters must be a table, [parameters]"),
        (
            changed('score = "clip_score"', "score = 3"),
            "columns.score is a column, so parameters.score must be the name of one, got 3",
        ),
        (
            changed('score = "number: a score"', "score = 3"),
            "columns.score must be a text that says what the column is, got 3",
        ),
        (
            changed('score = "number: a score"', 'scor = "number: a score"'),
            "columns.scor is no parameter (did you mean score",
        ),
    ],
)
def test_a_wrong_file_is_refused_by_key(text, reason):
    with pytest.raises(UsageError) as error:
        read_recipe("mine", text)
    assert reason in str(error.value)
    assert str(error.value).startswith("recipe mine")


def test_braces_that_are_no_parameters_stay_where_sql_has_them():
    text = (
        'description="d"\nsource="s"\n'
        + r"""where = '''regexp_matches(caption, '^\p{Lu}[a-z]{2,3}{x}')'''"""
    )
    assert predicate({}, text) == r"regexp_matches(caption, '^\p{Lu}[a-z]{2,3}{x}')"


def test_a_recipe_may_have_no_parameters():
    assert predicate({}, 'description="d"\nsource="s"\nwhere="clip_score > 1"') == "clip_score > 1"
    with pytest.raises(UsageError, match="has no parameter 'x'; it has none"):
        predicate({"x": 1}, 'description="d"\nsource="s"\nwhere="clip_score > 1"')


def test_a_users_file_is_named_by_its_path(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TEXT, encoding="utf-8")
    recipe = load_recipe(str(path))
    assert recipe.name == str(path)
    assert recipe.predicate_text({}, SCHEMA) == predicate({})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\xff\xfe", "cannot be read: it is not UTF-8"),
        (b"where = ", "is no TOML"),
        (
            b'description="d"\nsource="s"\nwhere=" "',
            "where is empty; say what to keep, or take datacomp.no_filter",
        ),
    ],
)
def test_a_users_file_that_cannot_be_used_is_named(tmp_path, content, reason):
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as error:
        load_recipe(str(path))
    assert f"recipe {path}" in str(error.value) and reason in str(error.value)


def test_a_folder_is_no_recipe(tmp_path):
    (tmp_path / "mine.toml").mkdir()
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        load_recipe(str(tmp_path / "mine.toml"))
