"""Trees of predicates: read, walked, changed and printed."""

import pytest

from clipsieve.errors import UsageError
from clipsieve.sql.syntax import (
    MAX_CHARACTERS,
    MAX_DEPTH,
    conjuncts,
    literal,
    parse_where,
    print_node,
    quoted,
    replaced,
    walk,
)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("a", "a"),
        ("(a)", "a"),
        ("a AND b OR c", "(a AND b) OR c"),
        ("a OR b OR c", "a OR b OR c"),
        ("a + b * c - d", "(a + (b * c)) - d"),
        ("(a + b) * (c - d)", "(a + b) * (c - d)"),
        ("'(' || a || ')'", "('(' || a) || ')'"),
        ("'it''s (' = \"a)\"", "'it''s (' = \"a)\""),
        ('"a""(b" = 1', '"a""(b" = 1'),
        ("a -- comment", "a"),
        ("a /* b */ + /* c */ d", "a + d"),
        ("\n a\n=\t1 \n", "a = 1"),
        ("CASE WHEN a THEN 1 ELSE 2 END", "CASE  WHEN (a) THEN (1) ELSE 2 END"),
    ],
)
def test_what_is_printed_comes_from_the_tree_and_reads_the_same(text, printed):
    assert print_node(parse_where(text)) == printed
    assert print_node(parse_where(printed)) == printed


def test_a_tree_is_walked_parents_first_in_the_order_written():
    nodes = walk(parse_where("a = 1 AND lower(b) IN ('x', c)"))
    names = [node["column_names"][0] for node in nodes if node["class"] == "COLUMN_REF"]
    assert names == ["a", "b", "c"]
    kinds = [node["class"] for node in walk(parse_where("NOT a = 1"))]
    assert kinds == ["OPERATOR", "COMPARISON", "COLUMN_REF", "CONSTANT"]


def test_conjuncts_are_flat_and_end_at_other_nodes():
    tree = parse_where("a AND (b AND (c OR (d AND e))) AND NOT (f AND g)")
    assert [print_node(part) for part in conjuncts(tree)] == [
        "a",
        "b",
        "c OR (d AND e)",
        "NOT (f AND g)",
    ]


def test_replacing_leaves_the_old_tree_as_it_was():
    tree = parse_where("a = 1 AND a = 2")
    first = next(node for node in walk(tree) if node["class"] == "COLUMN_REF")
    assert (
        print_node(replaced(tree, {id(first): parse_where("b + c")})) == "((b + c) = 1) AND (a = 2)"
    )
    assert print_node(tree) == "(a = 1) AND (a = 2)"


def test_names_and_texts_survive_any_character():
    for text in ["a", 'a"b', "a'b", "", "日本\n(", "--", "/*", ";", "\\", "$$"]:
        if text:
            tree = parse_where(f"{quoted(text)} IS NULL")
            assert [n["column_names"] for n in walk(tree) if n["class"] == "COLUMN_REF"] == [[text]]
        tree = parse_where(f"a = {literal(text)}")
        assert [n["literal"]["text"] for n in walk(tree) if n["class"] == "CONSTANT"] == [text]


def test_the_longest_and_the_deepest_that_are_read():
    text = "a = '" + "x" * (MAX_CHARACTERS - 6) + "'"
    assert print_node(parse_where(text)) == text
    with pytest.raises(UsageError, match="20,001 characters"):
        parse_where(text + " ")
    deep = "NOT " * (MAX_DEPTH - 1) + "a"
    assert sum(1 for _ in walk(parse_where(deep))) == MAX_DEPTH
    with pytest.raises(UsageError, match=f"nested {MAX_DEPTH + 1} deep; at most {MAX_DEPTH}"):
        parse_where("NOT " + deep)


def test_wide_is_not_deep():
    tree = parse_where(" OR ".join(["a"] * 2000))
    assert print_node(replaced(tree, {})) == " OR ".join(["a"] * 2000)
