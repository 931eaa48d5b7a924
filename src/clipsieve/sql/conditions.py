"""Whether a clause is a condition: true or false, of sound comparisons, and not of one value."""

from collections.abc import Sequence
from functools import cached_property

import pyarrow as pa

from clipsieve.errors import UsageError
from clipsieve.sql.locked import LockedDuckDB
from clipsieve.sql.quantity import ORDERED_TYPES, THRESHOLD, Quantity
from clipsieve.sql.syntax import Node, print_node, walk

#: Comparisons that take NULL for a value.
_DISTINCT = frozenset(["COMPARE_DISTINCT_FROM", "COMPARE_NOT_DISTINCT_FROM"])
_NULL_SENSITIVE = _DISTINCT | frozenset(
    ["OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL", "OPERATOR_COALESCE", "CASE_EXPR"]
)
_NULL_SENSITIVE_FUNCTIONS = frozenset(["concat", "greatest", "least", "ifnull", "nullif"])
_TEXT, _BOOLEAN, _NULL = "VARCHAR", "BOOLEAN", '"NULL"'


class Conditions:
    """Checks clauses over the columns of one table."""

    def __init__(self, schema: pa.Schema) -> None:
        """Check against columns of `schema`."""
        # DuckDB takes no table without columns.
        self._schema = schema if len(schema) else pa.schema([pa.field("_", pa.int8())])

    @cached_property
    def _database(self) -> LockedDuckDB:
        return LockedDuckDB()

    def types(
        self, expressions: Sequence[str], place: str, quantities: Sequence[Quantity] = ()
    ) -> list[str]:
        """Return DuckDB's type of each expression.

        Args:
          expressions: of the table's columns, and thresholds.
          place: what they are in, for messages.
          quantities: thresholds that there are.

        Raises:
          UsageError: if one does not bind.
        """
        try:
            return self._database.types(self._with_thresholds(quantities), expressions)
        except UsageError as error:
            raise UsageError(f"where: {place}: {error}") from error

    def check(self, text: str, clause: Node, quantities: Sequence[Quantity]) -> None:
        """Refuse a clause that is no condition, or has the same value for every row.

        Args:
          text: of the clause, for messages.
          clause: with thresholds as columns.
          quantities: thresholds that there are.

        Raises:
          UsageError: says what is wrong with it.
        """
        try:
            (kind,) = self.types([print_node(clause)], text, quantities)
        except UsageError:
            # The innermost comparison first: those around it do not bind either.
            for node in reversed([each for each in walk(clause) if _compared(each)]):
                self._check_comparison(text, node, quantities)
            raise
        if kind != _BOOLEAN:
            raise UsageError(
                f"where: {text} is {kind}, not true or false; compare it with something"
            )
        for node in walk(clause):
            if node["class"] == "CONJUNCTION" or node["type"] == "OPERATOR_NOT":
                self._check_logic(text, node, quantities)
            elif _compared(node):
                self._check_comparison(text, node, quantities)
        self._check_varies(text, clause, quantities)

    def _with_thresholds(self, quantities: Sequence[Quantity]) -> pa.Schema:
        schema = self._schema
        for number, quantity in enumerate(quantities):
            field = pa.field(f"{THRESHOLD}{number}", ORDERED_TYPES[quantity.type])
            schema = schema.append(field)
        return schema

    def _check_logic(self, text: str, node: Node, quantities: Sequence[Quantity]) -> None:
        """DuckDB would take a number for true unless it is 0."""
        parts = [print_node(child) for child in node["children"]]
        for part, kind in zip(parts, self.types(parts, text, quantities), strict=True):
            if kind != _BOOLEAN:
                raise UsageError(
                    f"where: {text}: {part} is {kind}, not true or false; compare it with something"
                )

    def _check_comparison(self, text: str, node: Node, quantities: Sequence[Quantity]) -> None:
        if node["type"] not in _DISTINCT and any(map(_is_null, _compared(node))):
            raise UsageError(
                f"where: {text} compares with NULL, which is never true; write x IS NULL, or leave "
                "NULL out"
            )
        # A text that stands there as a constant becomes a value of the other side's type; numbers
        # have the type of the first.
        typed_operands = {
            id(each) if each["class"] != "CONSTANT" else each["literal"]["kind"]: each
            for each in reversed(_compared(node))
            if not _is_text_constant(each)
        }
        operands = [print_node(each) for each in reversed(typed_operands.values())]
        kinds = self.types(operands, text, quantities)
        typed = [pair for pair in zip(operands, kinds, strict=True) if pair[1] != _NULL]
        if len({kind == _TEXT for _, kind in typed}) > 1:
            listed = ", ".join(f"{operand} is {kind}" for operand, kind in typed)
            raise UsageError(
                f"where: {text} compares text with something else: {listed}; quote text, and leave "
                "numbers bare"
            )

    def _check_varies(self, text: str, clause: Node, quantities: Sequence[Quantity]) -> None:
        """A clause that is not NULL when every column is, and looks at no NULL, is so always."""
        nodes = list(walk(clause))
        is_sensitive = any(
            node["type"] in _NULL_SENSITIVE
            or (node["class"] == "FUNCTION" and node["function_name"] in _NULL_SENSITIVE_FUNCTIONS)
            for node in nodes
        )
        has_columns = any(node["class"] == "COLUMN_REF" for node in nodes)
        if is_sensitive and has_columns:
            return
        schema = self._with_thresholds(quantities)
        nulls = pa.Table.from_arrays([pa.nulls(1, kind) for kind in schema.types], schema=schema)
        try:
            value = self._database.evaluate(nulls, [print_node(clause)])[0][0].as_py()
        except UsageError as error:
            raise UsageError(f"where: {text}: {error}") from error
        if value is not None or not has_columns:
            always = "NULL" if value is None else str(value).lower()
            raise UsageError(f"where: {text} is always {always}; leave it out, or name a column")


def _is_text_constant(node: Node) -> bool:
    return bool(node["class"] == "CONSTANT" and node["literal"]["kind"] == "STRING")


def _is_null(node: Node) -> bool:
    return bool(node["class"] == "CONSTANT" and node["literal"]["kind"] == "NULL_LITERAL")


def _compared(node: Node) -> list[Node]:
    """Return the operands of a comparison; none for any other node."""
    if node["class"] == "COMPARISON":
        return [node["left"], node["right"]]
    if node["class"] == "BETWEEN":
        return [node["input"], node["lower"], node["upper"]]
    if node["type"] in ("COMPARE_IN", "COMPARE_NOT_IN"):
        return list(node["children"])
    return []
