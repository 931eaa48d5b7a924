"""What a predicate may consist of: kinds of nodes, functions, types; everything else is refused.

An allow-list: `repeat('x', 2000000000)` ran 26 s in DuckDB 2.0 past its limits of time and memory,
and the next release may bring another such function.  No function here makes a value that is much
longer than its arguments together, reads anything but them, or differs from call to call.
"""

from clipsieve.errors import UsageError
from clipsieve.sql.literals import did_you_mean
from clipsieve.sql.syntax import Node, print_node, walk

#: Functions of the whole dataset, which are replaced before anything runs.
TOP_FRACTION, QUANTILE_OF, RANK_IN = "top_fraction", "quantile_of", "rank_in"
KEEP_FIRST_OF = "keep_first_of"
GLOBAL_FUNCTIONS = (TOP_FRACTION, QUANTILE_OF, RANK_IN, KEEP_FIRST_OF)

OPERATORS = frozenset(["+", "-", "*", "/", "//", "%", "||", "~~", "!~~", "~~*", "!~~*"])
FUNCTIONS = frozenset(
    [
        *("abs", "ceil", "ceiling", "floor", "round", "trunc", "sign", "sqrt", "cbrt", "pow"),
        *("power", "exp", "ln", "log", "log2", "log10", "mod", "greatest", "least", "isfinite"),
        *("isinf", "isnan", "lower", "lcase", "upper", "ucase", "trim", "ltrim", "rtrim"),
        *("length", "len", "strlen", "char_length", "length_grapheme", "contains", "prefix"),
        *("suffix", "starts_with", "ends_with", "instr", "strpos", "position", "substring"),
        *("substr", "left", "right", "concat", "nullif", "ifnull", "like_escape"),
        *("not_like_escape", "ilike_escape", "not_ilike_escape", "regexp_matches"),
        *("regexp_full_match", "regexp_extract", "year", "month", "day", "date_part"),
        *("word_count", "letter_share", "fasttext_token_count"),
    ]
)
#: Functions that join texts, and how many columns they may join: 500 captions of 1 MB took 9 GB.
_JOINING = frozenset(["concat", "||"])
MAX_JOINED = 16
TYPES = frozenset(
    [
        *("BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT"),
        *("UINTEGER", "UBIGINT", "FLOAT", "DOUBLE", "VARCHAR", "DATE", "TIMESTAMP"),
    ]
)
_OPERATOR_NODES = frozenset(
    [
        *("OPERATOR_NOT", "OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL", "OPERATOR_COALESCE"),
        *("COMPARE_IN", "COMPARE_NOT_IN", "OPERATOR_NULLIF"),
    ]
)
_CLASSES = frozenset(
    [
        *("CONJUNCTION", "COMPARISON", "BETWEEN", "OPERATOR", "CASE", "CAST", "TYPE"),
        *("CONSTANT", "COLUMN_REF", "FUNCTION"),
    ]
)
_WORDS = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "STAR": "a list of columns",
    "PARAMETER": "a parameter",
    "LAMBDA": "a lambda",
    "COLLATE": "a collation",
    "POSITIONAL_REFERENCE": "a column by its position",
    "DEFAULT": "DEFAULT",
}


def check_allowed(where: Node) -> None:
    """Refuse a predicate with anything in it that is not on the list.

    Raises:
      UsageError: names the first such part.
    """
    for node in walk(where):
        kind = node["class"]
        if kind not in _CLASSES:
            raise UsageError(
                f"where has {_WORDS.get(kind, kind)} in it; it may compare columns and constants, "
                "with AND, OR, NOT, IN, BETWEEN, LIKE, CASE and simple functions"
            )
        if kind == "FUNCTION":
            _check_function(node)
        elif kind == "OPERATOR" and node["type"] not in _OPERATOR_NODES:
            raise UsageError(f"where has {node['type']} in it, which predicates may not use")
        elif kind == "TYPE" and (node["type_name"].upper() not in TYPES or node["children"]):
            raise UsageError(
                f"where casts to {node['type_name']}; it may cast to {', '.join(sorted(TYPES))}"
            )
        elif kind == "COLUMN_REF" and len(node["column_names"]) != 1:
            raise UsageError(
                f"where names {'.'.join(node['column_names'])}; name a column by its name alone"
            )


def _check_function(node: Node) -> None:
    name = node["function_name"].lower()
    known = OPERATORS if node["is_operator"] else FUNCTIONS | {*GLOBAL_FUNCTIONS}
    if name not in known | FUNCTIONS:
        close = did_you_mean(name, sorted(FUNCTIONS | {*GLOBAL_FUNCTIONS}))
        cure = close or "see docs/filters.md for the list"
        raise UsageError(f"where calls {name}, which predicates may not; {cure}")
    is_plain = not (node["filter"] or node["distinct"] or node["order_bys"]["orders"])
    if not is_plain or node["schema"] or node["catalog"]:
        raise UsageError(
            f"where calls {name} with FILTER, DISTINCT, ORDER BY or a schema; call it plainly"
        )
    if name in _JOINING:
        joined = sum(each["class"] == "COLUMN_REF" for each in walk(node))
        if joined > MAX_JOINED:
            raise UsageError(
                f"where joins {joined} columns by {name}; at most {MAX_JOINED} can be one text"
            )
    if any(argument["name"] for argument in node["arguments"]):
        raise UsageError(f"where calls {name} with a named argument; give it by position")


def arguments(node: Node) -> list[Node]:
    """Return the arguments of a function."""
    return [argument["expression"] for argument in node["arguments"]]


def is_global(node: Node) -> bool:
    """Whether a node is a function of the whole dataset."""
    return node["class"] == "FUNCTION" and node["function_name"].lower() in GLOBAL_FUNCTIONS


def constant_text(node: Node, what: str) -> str:
    """Return the number that a node is, as written.

    Raises:
      UsageError: if it is anything but a number.
    """
    if node["class"] != "CONSTANT" or node["literal"]["kind"] not in ("INTEGER", "NUMERIC"):
        raise UsageError(f"{what} must be a number, got {print_node(node)}")
    return str(node["literal"]["text"]).replace("_", "")
