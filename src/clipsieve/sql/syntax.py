"""The parse tree of a predicate, as DuckDB's own parser gives it, and back to text.

`json_serialize_sql` and `json_deserialize_sql` of DuckDB 2: what is printed is made from the tree,
so comments vanish and parentheses are explicit.
"""

import json
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import duckdb

from clipsieve.errors import UsageError

Node = dict[str, Any]
"""A node of the tree; `class` and `type` say of which kind."""

#: Longer predicates are refused: nothing that a person writes, and the parser recurses.
MAX_CHARACTERS = 20_000
#: Deeper trees are refused: they are worked on by recursion.  `a OR b OR c` has depth 2.
MAX_DEPTH = 60
_QUERY = "SELECT 1 FROM shard WHERE "


def parse_where(text: str) -> Node:
    """Return the tree of one boolean expression.

    Raises:
      UsageError: if it is not one: a syntax error, several statements, a clause after it, or more
        than `MAX_CHARACTERS` or `MAX_DEPTH`.
    """
    if not text.strip():
        raise UsageError("where is empty; say what to keep, e.g. clip_score >= 0.7")
    if len(text) > MAX_CHARACTERS or "\0" in text:
        raise UsageError(
            f"where has {len(text):,} characters, or a NUL; at most {MAX_CHARACTERS:,} are allowed"
        )
    answer = _serialized(_QUERY + text)
    if answer.get("error"):
        reason = answer.get("error_message", "no statement")
        if "expression depth" in reason:
            raise _too_deep("more than 1,000")
        if "Only SELECT statements" in reason:
            raise UsageError(
                "where cannot be read: it holds another statement; it must be one expression, "
                "without ';'"
            )
        raise UsageError(
            f"where cannot be read: {reason}; it is one SQL expression, such as "
            "clip_score >= 0.7 AND status = 'ok'"
        )
    statements = answer["statements"]
    if len(statements) != 1:
        raise UsageError(
            f"where holds {len(statements)} statements; it must be one expression, without ';'"
        )
    select = statements[0]["node"]
    # The tree has no trace of a WINDOW clause or a last ';', which no parentheses can hold.
    is_alone = not _serialized(f"{_QUERY}({text}\n)").get("error")
    if select.get("type") != "SELECT_NODE" or _rest(select) != _rest(_template()) or not is_alone:
        raise UsageError(
            "where goes on after its expression (UNION, GROUP BY, ORDER BY, LIMIT, WINDOW, ';', "
            "...); it must be the expression alone"
        )
    where: Node = select["where_clause"]
    if _depth(where) > MAX_DEPTH:
        raise _too_deep(str(_depth(where)))
    return where


def print_node(node: Node) -> str:
    """Return a tree as text, without the parentheses around the whole."""
    statement = {"node": {**_template(), "where_clause": node}, "named_param_map": []}
    content = json.dumps({"error": False, "statements": [statement]})
    answer = _parser().execute("SELECT json_deserialize_sql(?)", [content]).fetchone()
    assert answer is not None
    text = str(answer[0]).removeprefix(_QUERY)
    return text[1:-1] if _is_wrapped(text) else text


def walk(node: Any) -> Iterator[Node]:
    """Yield every node of a tree, a parent before its children; without recursion."""
    waiting = [node]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            if "class" in each:
                yield each
            waiting.extend(reversed(list(each.values())))
        elif isinstance(each, list):
            waiting.extend(reversed(each))


def _depth(tree: Node) -> int:
    """Return how many nodes stand one in the other at most; without recursion."""
    deepest = 0
    waiting: list[tuple[Any, int]] = [(tree, 0)]
    while waiting:
        each, depth = waiting.pop()
        inner: Iterable[Any] = each
        if isinstance(each, dict):
            depth += "class" in each
            deepest, inner = max(deepest, depth), each.values()
        waiting.extend((part, depth) for part in inner if isinstance(part, dict | list))
    return deepest


def conjuncts(node: Node) -> list[Node]:
    """Return what `AND` joins at the top of a tree, in the order written."""
    if node["class"] == "CONJUNCTION" and node["type"] == "CONJUNCTION_AND":
        return [part for child in node["children"] for part in conjuncts(child)]
    return [node]


def replaced(node: Any, replacements: dict[int, Node]) -> Any:
    """Return a copy of a tree in which nodes, by their `id`, are others."""
    if isinstance(node, dict):
        if id(node) in replacements:
            return replacements[id(node)]
        return {key: replaced(value, replacements) for key, value in node.items()}
    if isinstance(node, list):
        return [replaced(value, replacements) for value in node]
    return node


def quoted(name: str) -> str:
    """Return a name as SQL writes it.

    >>> quoted('a"b')
    '"a""b"'
    """
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as a value in SQL.

    >>> literal("it's")
    "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"


def _serialized(query: str) -> Node:
    try:
        query.encode()
        answer = _parser().execute("SELECT json_serialize_sql(?)", [query]).fetchone()
        assert answer is not None
        tree: Node = json.loads(answer[0])
    except UnicodeEncodeError as error:
        raise UsageError(
            f"where has {query[error.start]!a} in it, half a character; write it in UTF-8"
        ) from error
    except RecursionError as error:
        raise _too_deep("too") from error
    except duckdb.Error as error:
        raise UsageError(f"where cannot be read: {str(error).splitlines()[0][:200]}") from error
    return tree


def _too_deep(depth: str) -> UsageError:
    return UsageError(
        f"where is nested {depth} deep; at most {MAX_DEPTH} is allowed: nest it less deeply"
    )


@cache
def _parser() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET enable_external_access = false; SET lock_configuration = true")
    return connection


@cache
def _template() -> Node:
    """Return the SELECT around a predicate."""
    node: Node = _serialized(_QUERY + "true")["statements"][0]["node"]
    return node


def _rest(select: Node) -> Any:
    """Return everything of a SELECT but its predicate, without positions in the text."""

    def plain(node: Any) -> Any:
        if isinstance(node, dict):
            return {k: plain(v) for k, v in node.items() if not k.startswith("query_location")}
        return [plain(part) for part in node] if isinstance(node, list) else node

    return plain({key: value for key, value in select.items() if key != "where_clause"})


def _is_wrapped(text: str) -> bool:
    """Whether the first parenthesis of a text closes at its end."""
    depth, quote = 0, ""
    if not text.startswith("("):
        return False
    for at, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in "()":
            depth += 1 if char == "(" else -1
            if depth == 0:
                return at == len(text) - 1
    return False
