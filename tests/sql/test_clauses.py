"""What a predicate is made of: clauses, columns, thresholds in place of global functions."""

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.sql.locked import LockedDuckDB
from clipsieve.sql.predicate import read_predicate
from clipsieve.sql.quantity import Quantity, Rule

SCHEMA = pa.schema(
    [
        ("caption", pa.string()),
        ("clip_score", pa.float32()),
        ("k", pa.int64()),
        ("small", pa.uint8()),
        ("price", pa.decimal128(10, 2)),
        ("ok", pa.bool_()),
        ("language", pa.string()),
        ("duplicate_group", pa.string()),
        ("duplicate_first", pa.bool_()),
        ("duplicate_bytes_group", pa.string()),
        ("duplicate_bytes_first", pa.bool_()),
    ]
)


def sql_of(text):
    return [clause.sql for clause in read_predicate(text, SCHEMA).clauses]


def test_clauses_are_what_AND_joins_at_the_top_in_the_order_written():
    predicate = read_predicate("k > 1 AND (ok AND (clip_score > 0.5 OR k > 9)) AND NOT ok", SCHEMA)
    texts = ["k > 1", "ok", "(clip_score > 0.5) OR (k > 9)", "NOT ok"]
    assert [clause.text for clause in predicate.clauses] == texts
    assert [clause.sql for clause in predicate.clauses] == texts
    assert predicate.text == "(k > 1) AND (ok) AND ((clip_score > 0.5) OR (k > 9)) AND (NOT ok)"


def test_columns_are_in_the_order_of_the_table_with_those_of_thresholds():
    predicate = read_predicate(
        "K > 1 AND top_fraction(clip_score, 0.3, lower(LANGUAGE))"
        " AND keep_first_of(DUPLICATE_GROUP)",
        SCHEMA,
    )
    assert predicate.columns == ("clip_score", "k", "language", "duplicate_first")
    assert predicate.group_columns == ("duplicate_group",)


def test_a_top_fraction_becomes_a_comparison_with_a_threshold():
    predicate = read_predicate("top_fraction(clip_score, 0.30)", SCHEMA)
    assert predicate.text == "top_fraction(clip_score, 0.30)"
    assert predicate.clauses[0].sql == "clip_score >= __threshold_0"
    assert predicate.quantities == (
        Quantity(predicate.text, Rule.TOP_FRACTION, "clip_score", "0.30", None, "FLOAT"),
    )


@pytest.mark.parametrize(
    ("text", "sql", "last"),
    [
        ("rank_in(k) <= 5", "k >= __threshold_0", "5"),
        ("rank_in(k) < 5", "k >= __threshold_0", "4"),
        ("rank_in(k) > 5", "k < __threshold_0", "5"),
        ("rank_in(k) >= 5", "k < __threshold_0", "4"),
        ("5 >= rank_in(k)", "k >= __threshold_0", "5"),
        ("5 < rank_in(k)", "k < __threshold_0", "5"),
        ("rank_in(k) <= 5.0", "k >= __threshold_0", "5"),
        ("rank_in(k) <= 1e3", "k >= __threshold_0", "1000"),
    ],
)
def test_a_rank_becomes_a_comparison_with_the_value_at_it(text, sql, last):
    predicate = read_predicate(text, SCHEMA)
    assert [clause.sql for clause in predicate.clauses] == [sql]
    assert [(q.rule, q.argument) for q in predicate.quantities] == [(Rule.RANK, last)]


def test_thresholds_are_numbered_and_equal_ones_are_one():
    text = "k > quantile_of(k, 0.5) AND k < quantile_of(k, 0.9) AND (ok OR k = quantile_of(k, 0.5))"
    assert sql_of(text) == [
        "k > __threshold_0",
        "k < __threshold_1",
        "ok OR (k = __threshold_0)",
    ]


def test_expressions_and_groups_can_be_ranked():
    predicate = read_predicate("top_fraction(k * 2 - small, 0.3, lower(language))", SCHEMA)
    assert [(q.value, q.group, q.type) for q in predicate.quantities] == [
        ("(k * 2) - small", 'lower("language")', "BIGINT")
    ]
    assert predicate.clauses[0].sql == "((k * 2) - small) >= __threshold_0"


@pytest.mark.parametrize(
    ("value", "kind"),
    [("small", "UTINYINT"), ("clip_score / 2", "FLOAT"), ("price", "DOUBLE"), ("k / 2", "DOUBLE")],
)
def test_values_are_ranked_as_the_type_that_they_have(value, kind):
    (quantity,) = read_predicate(f"top_fraction({value}, 0.3)", SCHEMA).quantities
    assert quantity.type == kind


def test_the_first_of_a_group_is_its_column():
    text = "keep_first_of(duplicate_bytes_group) AND NOT keep_first_of(duplicate_group)"
    assert sql_of(text) == ["duplicate_bytes_first", "NOT duplicate_first"]


def test_resolved_clauses_have_numbers_for_thresholds_without_groups():
    terms = " OR ".join(f"k = quantile_of(k, 0.{number:02})" for number in range(11))
    predicate = read_predicate(f"top_fraction(k, 0.5, language) AND ({terms})", SCHEMA)
    assert len(predicate.quantities) == 12
    thresholds = {number: str(100 + number) for number in range(1, 12)}
    first, second = predicate.resolved(thresholds)
    assert first.sql == "k >= __threshold_0"
    assert second.sql == " OR ".join(f"(k = '{100 + n}'::BIGINT)" for n in range(1, 12))
    assert second.text == predicate.clauses[1].text


@pytest.mark.parametrize("last", [1, 2, 7, 39, 40, 41, 1000])
def test_fewer_rows_than_the_rank_have_a_greater_value(last):
    drawn = np.random.default_rng(last).integers(0, 9, 50).astype(float).tolist()
    values = [None if value == 8 else value for value in drawn]
    known = [value for value in values if value is not None]
    table = pa.table({"x": pa.array(values, pa.float64())})
    predicate = read_predicate(f"rank_in(x) <= {last} AND NOT rank_in(x) > {last}", table.schema)
    descending = sorted(known, reverse=True)
    thresholds = {
        number: repr(descending[quantity.rank(len(known)) - 1])
        for number, quantity in enumerate(predicate.quantities)
    }
    sql = [clause.sql for clause in predicate.resolved(thresholds)]
    expected = [
        None if value is None else sum(other > value for other in known) < last for value in values
    ]
    for mask in LockedDuckDB().evaluate(table, sql):
        assert mask.to_pylist() == expected
