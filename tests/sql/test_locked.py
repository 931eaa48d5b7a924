"""The locked connection: what it computes, and that it can do nothing else."""

import unicodedata

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.errors import UsageError
from clipsieve.sql.locked import LockedDuckDB, without_nan

#: In fastText, `Dictionary::readWord`: ends words; a line break is a token of its own.
FASTTEXT_SPACES = " \n\r\t\v\f\0"


@pytest.fixture(scope="module")
def database():
    return LockedDuckDB()


def values(database, texts, expression):
    (result,) = database.evaluate(pa.table({"t": pa.array(texts, pa.string())}), [expression])
    return result.to_pylist()


def samples(seed=0):
    """Texts of every white space character, letters of many scripts, digits and signs."""
    rng = np.random.default_rng(seed)
    spaces = [chr(code) for code in range(0x110000) if chr(code).isspace()]
    others = list("ab9_-.'é猫иß\u0301\u200b\u2060\u180e\ufeff\U0001f600\0")
    drawn = ["".join(rng.choice(spaces + others * 3, size=rng.integers(0, 12))) for _ in range(500)]
    return [*(f"a{space}b" for space in spaces), *spaces, *drawn, "", None]


def test_words_are_those_of_pythons_split(database):
    texts = samples()
    expected = [None if text is None else len(text.split()) for text in texts]
    assert values(database, texts, "word_count(t)") == expected


def fasttext_tokens(text):
    """Count tokens as fastText's tokenize() reads them, one character after the other."""
    count, inside = 0, False
    for char in text:
        if char not in FASTTEXT_SPACES:
            inside = True
            continue
        count += inside + (char == "\n")
        inside = False
    return count + inside


def test_tokens_are_those_of_fasttext(database):
    texts = [*samples(1), *map(repr, range(3)), "\n", "\n\n", "a\n", "\na", "a\r\nb", "a \n b"]
    expected = [None if text is None else fasttext_tokens(text) for text in texts]
    assert values(database, texts, "fasttext_token_count(t)") == expected


def test_the_share_of_letters_is_that_of_unicodes_letters(database):
    texts = samples(2)
    expected = [
        sum(unicodedata.category(char).startswith("L") for char in text) / len(text)
        if text
        else None
        for text in texts
    ]
    assert values(database, texts, "letter_share(t)") == expected


def test_lengths_are_code_points(database):
    texts = samples(3)
    expected = [None if text is None else len(text) for text in texts]
    assert values(database, texts, "length(t)") == expected


@pytest.mark.parametrize("text", ["0.3", "0.28", "0.1", "0.7", "0.25", "16777217"])
def test_a_float_column_is_compared_in_float32(database, text):
    cut = np.float32(text)
    scores = np.array([np.nextafter(cut, np.float32(-1)), cut, np.nextafter(cut, np.float32(1e9))])
    table = pa.table({"x": pa.array(scores, pa.float32())})
    at_least, above = database.evaluate(table, [f"x >= {text}", f"x > {text}"])
    assert at_least.to_pylist() == [False, True, True]
    assert above.to_pylist() == [False, False, True]


def test_nan_is_null_and_other_columns_stay_as_they_are(database):
    nan = float("nan")
    table = pa.table(
        {
            "x": pa.array([nan, 1.0, None], pa.float32(), from_pandas=False),
            "y": pa.array([nan, -nan, 2.0], pa.float64(), from_pandas=False),
            "t": ["nan", None, "x"],
        }
    )
    clean = without_nan(table)
    assert clean.schema == table.schema
    assert clean.to_pydict() == {
        "x": [None, 1.0, None],
        "y": [None, None, 2.0],
        "t": ["nan", None, "x"],
    }
    assert without_nan(clean) is clean
    expressions = ["x > 0", "x IS NULL", "y > 100"]
    result = [each.to_pylist() for each in database.evaluate(table, expressions)]
    assert result == [[None, True, None], [True, False, True], [None, None, False]]


def test_rows_stay_in_order_over_many_chunks(database):
    chunks = [pa.table({"k": list(range(at, at + 3000))}) for at in range(0, 30000, 3000)]
    doubled, small = database.evaluate(pa.concat_tables(chunks), ["k * 2", "k < 7"])
    assert doubled.to_pylist() == list(range(0, 60000, 2))
    assert small.to_pylist() == [True] * 7 + [False] * 29993


def test_no_expressions_and_no_rows(database):
    table = pa.table({"k": pa.array([], pa.int64())})
    assert database.evaluate(table, []) == []
    assert database.types(table.schema, []) == []
    assert database.evaluate(table, ["k > 1"])[0].to_pylist() == []


def test_types_are_duckdbs(database):
    schema = pa.schema([("x", pa.float32()), ("t", pa.string())])
    assert database.types(schema, ["x", "x > 1", "t", "x / 2"]) == [
        "FLOAT",
        "BOOLEAN",
        "VARCHAR",
        "FLOAT",
    ]
    with pytest.raises(UsageError, match="Binder Error"):
        database.types(schema, ["t - 1"])


def test_a_value_that_cannot_be_computed_is_an_error_and_the_next_table_goes_on(database):
    with pytest.raises(UsageError, match="Could not convert string 'x' to INT32"):
        values(database, ["1", "x"], "CAST(t AS INTEGER) > 0")
    assert values(database, ["1", "2"], "CAST(t AS INTEGER) > 1") == [False, True]


@pytest.mark.parametrize(
    "expression",
    [
        "(SELECT content FROM read_text('/etc/passwd'))",
        "(SELECT 1 FROM '/etc/passwd')",
        "(SELECT x FROM secret)",
        "(SELECT 1 FROM glob('/*'))",
        "1) AS a FROM shard; SET threads = 4; --",
        "1) AS a FROM shard; SET enable_external_access = true; --",
        "1) AS a FROM shard; COPY shard TO 'stolen.csv'; --",
        "1) AS a FROM shard; ATTACH 'stolen.db'; --",
        "1) AS a FROM shard; INSTALL httpfs; --",
        "1) AS a FROM shard; LOAD httpfs; --",
    ],
)
def test_even_what_no_predicate_may_have_reaches_nothing(
    database, expression, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    secret = pa.table({"x": [1]})
    with pytest.raises(UsageError):
        values(database, ["a"], expression)
    assert secret.num_rows == 1 and list(tmp_path.iterdir()) == []
