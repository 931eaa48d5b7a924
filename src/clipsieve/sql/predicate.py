"""A predicate: what to keep, as clauses that are tested one after the other.

    clip_score >= 0.7 AND top_fraction(clip_similarity, 0.3) AND keep_first_of(duplicate_group)

Four functions are of the whole dataset and are resolved before a row is tested:

- `top_fraction(x, f [, g])`: x is at least the value at 0-based place int(n f) in descending order,
  n values: DataComp's rule, so int(n f) + 1 rows pass, and those that tie with the last;
- `rank_in(x [, g]) <= k`: fewer than k rows have a greater x; rows that tie pass together;
- `quantile_of(x, p [, g])`: the value at place max(1, ceil(p n)), from 1, in ascending order, p as
  written in decimal: `numpy.quantile(method="inverted_cdf")` and SQL's `quantile_disc`;
- `keep_first_of(g)`: the row represents its group of duplicates, or is in none.

n counts rows where x is neither NULL nor NaN, of the row's group if `g` is given; NULL is a group.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from clipsieve.errors import UsageError
from clipsieve.sql.allowed import (
    KEEP_FIRST_OF,
    QUANTILE_OF,
    RANK_IN,
    TOP_FRACTION,
    arguments,
    check_allowed,
    constant_text,
    is_global,
)
from clipsieve.sql.conditions import Conditions
from clipsieve.sql.literals import did_you_mean
from clipsieve.sql.quantity import ORDERED_TYPES, THRESHOLD, Quantity, Rule, exact_number
from clipsieve.sql.syntax import Node, conjuncts, parse_where, print_node, quoted, replaced, walk

#: More than a person writes; states of rows are counted by their digits in base 3.
MAX_CLAUSES = 24
_FLOATS = ("FLOAT", "DOUBLE")
_FIRST, _GROUP = "_first", "_group"
_FLIPPED = {
    "COMPARE_LESSTHAN": "COMPARE_GREATERTHAN",
    "COMPARE_LESSTHANOREQUALTO": "COMPARE_GREATERTHANOREQUALTO",
    "COMPARE_GREATERTHAN": "COMPARE_LESSTHAN",
    "COMPARE_GREATERTHANOREQUALTO": "COMPARE_LESSTHANOREQUALTO",
}


@dataclass(frozen=True, slots=True)
class Clause:
    """One of the conditions that are joined by AND at the top.

    Attributes:
      text: canonical text, as the user wrote it otherwise; the reason of rows that fail it.
      sql: the same with columns named `__threshold_<i>` for thresholds.
    """

    text: str
    sql: str


@dataclass(frozen=True, slots=True)
class Predicate:
    """A predicate that may run.

    Attributes:
      clauses: in the order written.
      quantities: thresholds it needs; number i is the column `__threshold_<i>`.
      columns: columns of the table that it reads.
      group_columns: groups of duplicates of which it keeps the first.
    """

    clauses: tuple[Clause, ...]
    quantities: tuple[Quantity, ...]
    columns: tuple[str, ...]
    group_columns: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Canonical text of the whole."""
        if len(self.clauses) == 1:
            return self.clauses[0].text
        return " AND ".join(f"({clause.text})" for clause in self.clauses)

    def resolved(self, thresholds: Mapping[int, str]) -> tuple[Clause, ...]:
        """Return the clauses with thresholds in their `sql`.

        Args:
          thresholds: of the quantities without groups, by number, as text; those of groups stay
            columns.
        """

        def constant(match: re.Match[str]) -> str:
            number = int(match[1])
            if number not in thresholds:
                return match[0]
            return f"'{thresholds[number]}'::{self.quantities[number].type}"

        column = re.compile(rf"{THRESHOLD}(\d+)")
        return tuple(replace(c, sql=column.sub(constant, c.sql)) for c in self.clauses)


def read_predicate(
    text: str, schema: pa.Schema, makers: Mapping[str, str] | None = None
) -> Predicate:
    """Return the predicate that a text is, checked against the columns of a table.

    Args:
      text: a boolean SQL expression of DuckDB's dialect, with the functions above.
      schema: columns of the table.
      makers: for columns that the table lacks, by name, the command that makes them.

    Raises:
      UsageError: if it has a part that predicates may not have, an unknown column, a wrong type, a
        fraction out of range, or a clause that is always true or always false.
    """
    return _Reader(text, schema, makers or {}).read()


class _Reader:
    def __init__(self, text: str, schema: pa.Schema, makers: Mapping[str, str]) -> None:
        self._text, self._schema, self._makers = text, schema, makers
        self._conditions = Conditions(pa.schema([]))
        self._quantities: list[Quantity] = []
        self._groups: list[str] = []

    def read(self) -> Predicate:
        if THRESHOLD in self._text.lower():
            raise UsageError(f"where has {THRESHOLD} in it, which names thresholds; rename it")
        tree = parse_where(self._text)
        check_allowed(tree)
        tree = self._with_columns(tree)
        # Only columns that are read: DuckDB refuses some types of others.
        self._conditions = Conditions(pa.schema([self._schema.field(n) for n in self._named(tree)]))
        parts = conjuncts(tree)
        if len(parts) > MAX_CLAUSES:
            raise UsageError(
                f"where joins {len(parts)} clauses by AND; at most {MAX_CLAUSES} are counted one "
                "by one: make one of several, NOT (a OR b), or filter twice, with --from"
            )
        clauses, trees = [], []
        for part in parts:
            resolved = self._without_globals(part)
            clauses.append(Clause(print_node(part), print_node(resolved)))
            trees.append(resolved)
        columns = self._columns_of(trees)
        quantities = tuple(self._quantities)
        for clause, part in zip(clauses, trees, strict=True):
            self._conditions.check(clause.text, part, quantities)
        return Predicate(tuple(clauses), quantities, columns, tuple(dict.fromkeys(self._groups)))

    # Columns

    def _with_columns(self, tree: Node) -> Node:
        """Return the tree with columns named as the table names them."""
        by_lower = {name.lower(): name for name in reversed(self._schema.names)}
        exact: dict[int, Node] = {}
        for node in walk(tree):
            if node["class"] == "COLUMN_REF":
                (name,) = node["column_names"]
                known = name if name in self._schema.names else by_lower.get(name.lower())
                if known is None:
                    raise self._unknown_column(name)
                exact[id(node)] = {**node, "column_names": [known]}
        renamed: Node = replaced(tree, exact)
        return renamed

    def _named(self, tree: Node) -> list[str]:
        """Return the columns that a tree names, and those that say which row is the first."""
        named = {n["column_names"][0] for n in walk(tree) if n["class"] == "COLUMN_REF"}
        named |= {n.removesuffix(_GROUP) + _FIRST for n in named if n.endswith(_GROUP)}
        return [name for name in self._schema.names if name in named]

    def _unknown_column(self, name: str) -> UsageError:
        close = did_you_mean(name, self._schema.names, cutoff=0.5)
        maker = self._makers.get(name.lower())
        cure = maker or close or "`FROM score_columns` lists the scores"
        return UsageError(f"where names column {name!r}, which is not there; {cure}")

    def _columns_of(self, trees: Iterable[Node]) -> tuple[str, ...]:
        """Return the columns that clauses and thresholds read, in the table's order."""
        texts = [q.value for q in self._quantities]
        texts += [q.group for q in self._quantities if q.group is not None]
        read = {
            name
            for tree in [*trees, *(parse_where(text) for text in texts)]
            for node in walk(tree)
            if node["class"] == "COLUMN_REF"
            for name in node["column_names"]
        }
        return tuple(name for name in self._schema.names if name in read)

    # Functions of the whole dataset

    def _without_globals(self, clause: Node) -> Node:
        """Return a clause in which thresholds are columns."""
        others: dict[int, Node] = {}
        for node in walk(clause):
            rank = self._compared_rank(node)
            if rank is not None:
                others[id(node)] = rank
        reached = [node for node in walk(replaced(clause, others)) if is_global(node)]
        for node in reached:
            name = node["function_name"].lower()
            if name == RANK_IN:
                raise UsageError(
                    f"{print_node(node)} must be compared with a whole number by <, <=, > or >=, "
                    "e.g. rank_in(clip_score) <= 1000"
                )
        clause = replaced(clause, others)
        others = {id(n): self._replacement(n) for n in walk(clause) if is_global(n)}
        result: Node = replaced(clause, others)
        return result

    def _replacement(self, node: Node) -> Node:
        name = node["function_name"].lower()
        if name == KEEP_FIRST_OF:
            return self._first_of(node)
        self._check_arguments(node, 2)
        value, number, *group = arguments(node)
        what = f"the second argument of {name}"
        argument = constant_text(number, what)
        low = "" if name == TOP_FRACTION else "at least "
        is_low = exact_number(argument) <= 0 if name == TOP_FRACTION else exact_number(argument) < 0
        if is_low or exact_number(argument) > 1:
            raise UsageError(
                f"{what} must be {low or 'above '}0 and at most 1, got {argument}; 0.3 is 30 %"
            )
        rule = Rule.TOP_FRACTION if name == TOP_FRACTION else Rule.QUANTILE
        quantity, column = self._quantity(node, rule, value, argument, group)
        if rule is Rule.QUANTILE:
            return parse_where(column)
        return parse_where(f"({quantity.value}) >= {column}")

    def _compared_rank(self, node: Node) -> Node | None:
        """Return what `rank_in(x) <= k` is over a threshold; None for any other node."""
        if node["class"] != "COMPARISON" or node["type"] not in _FLIPPED:
            return None
        left, right, kind = node["left"], node["right"], node["type"]
        if _is_rank(right):
            left, right, kind = right, left, _FLIPPED[kind]
        if not _is_rank(left) or _is_rank(right):
            return None
        self._check_arguments(left, 1)
        value, *group = arguments(left)
        text = constant_text(right, f"what {print_node(left)} is compared with")
        if exact_number(text).denominator != 1:
            raise UsageError(
                f"a rank is a whole number; {print_node(node)} never changes at {text}"
            )
        last = int(exact_number(text))
        if kind in ("COMPARE_LESSTHAN", "COMPARE_GREATERTHANOREQUALTO"):
            last -= 1
        if last < 1:
            raise UsageError(f"ranks begin with 1, so {print_node(node)} is the same for every row")
        quantity, column = self._quantity(node, Rule.RANK, value, str(last), group)
        sign = ">=" if kind.startswith("COMPARE_LESSTHAN") else "<"
        return parse_where(f"({quantity.value}) {sign} {column}")

    def _quantity(
        self, node: Node, rule: Rule, value: Node, argument: str, group: Sequence[Node]
    ) -> tuple[Quantity, str]:
        """Return a quantity, and the name of the column of its threshold."""
        for inner in [value, *group]:
            if any(is_global(each) for each in walk(inner)):
                raise UsageError(
                    f"{print_node(node)} has a function of the whole dataset in it; filter twice, "
                    "the second time with --from"
                )
        text, groups = print_node(value), [print_node(each) for each in group]
        for expression in (text, *groups):
            if not any(n["class"] == "COLUMN_REF" for n in walk(parse_where(expression))):
                raise UsageError(f"{print_node(node)} ranks the constant {expression}")
        (kind,) = self._conditions.types([text], print_node(node))
        if kind.startswith(("DECIMAL", "HUGEINT", "UHUGEINT")):
            text, kind = f"CAST({text} AS DOUBLE)", "DOUBLE"
        if kind not in ORDERED_TYPES:
            raise UsageError(f"{print_node(node)}: {text} is {kind}; only numbers can be ranked")
        by = groups[0] if groups else None
        if by is not None and self._conditions.types([by], print_node(node))[0] in _FLOATS:
            by = f"({by}) + 0.0"  # or -0.0 would be another group than 0.0
        quantity = Quantity(print_node(node), rule, text, argument, by, kind)
        if quantity not in self._quantities:
            self._quantities.append(quantity)
        return quantity, f"{THRESHOLD}{self._quantities.index(quantity)}"

    def _check_arguments(self, node: Node, least: int) -> None:
        count = len(node["arguments"])
        if not least <= count <= least + 1:
            forms = {
                TOP_FRACTION: "top_fraction(column, fraction [, group])",
                QUANTILE_OF: "quantile_of(column, share [, group])",
                RANK_IN: "rank_in(column [, group])",
            }
            form = forms[node["function_name"].lower()]
            raise UsageError(f"{print_node(node)} has {count} arguments; the form is {form}")

    def _first_of(self, node: Node) -> Node:
        """Return the column that says whether a row is the first of its group."""
        known = [
            name
            for name in self._schema.names
            if name.endswith(_GROUP) and name.removesuffix(_GROUP) + _FIRST in self._schema.names
        ]
        inner = arguments(node)
        name = inner[0]["column_names"][0] if len(inner) == 1 and "column_names" in inner[0] else ""
        if name not in known:
            listed = f"of {', '.join(known)}" if known else "that the scorer duplicates makes"
            raise UsageError(f"{print_node(node)} must name one group column {listed}")
        self._groups.append(name)
        return parse_where(quoted(name.removesuffix(_GROUP) + _FIRST))


def _is_rank(node: Node) -> bool:
    return is_global(node) and node["function_name"].lower() == RANK_IN
