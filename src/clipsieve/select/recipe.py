"""A recipe: a predicate with parameters, in a TOML file.

    description = "The pairs with the highest cosine."
    source = "DataComp (Gadre et al. 2023, arXiv 2304.14108, section 3.3)"
    where = "top_fraction({similarity}, {fraction})"
    notes = "n + 1 rows pass."

    [parameters]
    similarity = "clip_l14_similarity_score"
    fraction = 0.3

    [columns]
    similarity = "number: cosine of image and caption by OpenAI's ViT-L-14"

A parameter that stands under `[columns]` is the name of a column; of the others, a number is a
number and a text a text.  They are put into the parse tree of the predicate, never into its text.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa

from clipsieve.errors import UsageError
from clipsieve.sql.literals import did_you_mean
from clipsieve.sql.syntax import Node, literal, parse_where, print_node, quoted, replaced, walk

Value = str | int | float | Decimal
"""A column's name, a number, or a text."""

_KEYS = ("description", "source", "where", "notes", "parameters", "columns")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_FORM = "a recipe is a TOML file as in docs/filters.md"


@dataclass(frozen=True, slots=True)
class Recipe:
    """A predicate with parameters.

    Attributes:
      name: of one that comes with clipsieve, or path of its file.
      description: what it keeps, in a sentence.
      source: the paper or code that defines it.
      where: predicate with `{parameter}` in place of columns and constants; empty: every row.
      parameters: default of each.
      columns: for each parameter that is a column, what the column must be and what makes it.
      notes: what of the source is not reproduced.
    """

    name: str
    description: str
    source: str
    where: str
    parameters: Mapping[str, Value]
    columns: Mapping[str, str]
    notes: str = ""

    def predicate_text(self, parameters: Mapping[str, Value], schema: pa.Schema) -> str:
        """Return the predicate, in canonical text; empty if it keeps every row.

        Args:
          parameters: values other than the defaults, numbers as texts too.
          schema: columns of the table.

        Raises:
          UsageError: for a parameter that the recipe does not have, a number that is none, and a
            column that the table does not have.
        """
        for name in parameters:
            if name not in self.parameters:
                close = _close(name, self.parameters)
                only = bool(close) and len(self.parameters) == 1  # which `close` names
                listed = "" if only else f"; it has {_listed(self.parameters)}"
                raise UsageError(f"recipe {self.name} has no parameter {name!r}{close}{listed}")
        values = {**self.parameters, **parameters}
        nodes = {name: self._node(name, value, schema) for name, value in values.items()}
        return "" if not self.where else print_node(self._filled(nodes))

    def check(self) -> None:
        """Refuse a predicate that is no expression, or has other parameters than the recipe.

        Raises:
          UsageError: says which.
        """
        if self.where or self.parameters:
            self._filled({name: parse_where("0") for name in self.parameters})

    def _filled(self, nodes: Mapping[str, Node]) -> Node:
        """Return the tree of the predicate with a node for each parameter."""
        names = [name for name in _PLACEHOLDER.findall(self.where) if name in nodes]
        unused = sorted(set(nodes) - set(names))
        if unused:
            raise UsageError(
                f"recipe {self.name}: parameter {unused[0]!r} does not stand in where; write "
                f"{{{unused[0]}}} there, or leave the parameter out"
            )
        marked = _PLACEHOLDER.sub(lambda m: quoted(m[0]) if m[1] in nodes else m[0], self.where)
        try:
            tree = parse_where(marked)
        except UsageError as error:
            unknown = [name for name in _PLACEHOLDER.findall(self.where) if name not in nodes]
            if unknown:
                raise UsageError(
                    f"recipe {self.name}: where names {{{unknown[0]}}}, which is no parameter"
                    f"{_close(unknown[0], self.parameters)}; write it under [parameters]"
                ) from error
            raise UsageError(f"recipe {self.name}: {error}") from error
        marks = {f"{{{name}}}": node for name, node in nodes.items()}
        places = {
            id(node): marks[node["column_names"][0]]
            for node in walk(tree)
            if node["class"] == "COLUMN_REF" and node["column_names"][0] in marks
        }
        if len(places) != len(names):
            raise UsageError(
                f"recipe {self.name}: a parameter stands inside quotes, a comment or a longer name "
                "in where; write it bare, e.g. language = {english}"
            )
        filled: Node = replaced(tree, places)
        return filled

    def _node(self, name: str, value: Value, schema: pa.Schema) -> Node:
        if name in self.columns:
            return parse_where(quoted(self._column(name, str(value), schema)))
        if isinstance(self.parameters[name], str):
            return parse_where(literal(str(value)))
        if not _NUMBER.fullmatch(str(value)):
            raise UsageError(
                f"recipe {self.name}: {name} must be a number, such as {self.parameters[name]}; "
                f"got {value!r}"
            )
        return parse_where(str(value))

    def _column(self, parameter: str, name: str, schema: pa.Schema) -> str:
        """Return a column's name as the table has it."""
        by_lower = {each.lower(): each for each in reversed(schema.names)}
        known = name if name in schema.names else by_lower.get(name.lower())
        if known is None:
            raise UsageError(
                f"recipe {self.name} reads column {name!r}, which is not there"
                f"{_close(name, schema.names)}; it is its parameter {parameter} ("
                f"{self.columns[parameter]}): name another with --set {parameter}=COLUMN"
            )
        return known


def read_recipe(name: str, text: str) -> Recipe:
    """Return the recipe that the text of a TOML file is.

    Args:
      name: of the recipe, or path of its file.
      text: of the file.

    Raises:
      UsageError: names the key that is wrong, and what it should be.
    """
    try:
        table = tomllib.loads(text, parse_float=Decimal)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"recipe {name} is no TOML: {error}; {_FORM}") from error
    for key in table:
        if key not in _KEYS:
            raise UsageError(
                f"recipe {name} has a key {key!r}{_close(key, _KEYS)}; it may have {_listed(_KEYS)}"
            )
    texts = {key: _text(name, table, key) for key in ("description", "source", "where")}
    if not texts["description"].strip():
        raise UsageError(f"recipe {name}: description is empty; say what the recipe keeps")
    recipe = Recipe(
        name=name,
        description=texts["description"].strip(),
        source=texts["source"].strip(),
        where=texts["where"].strip(),
        notes=_text(name, table, "notes") if "notes" in table else "",
        parameters=_entries(name, table, "parameters"),
        columns=_entries(name, table, "columns"),
    )
    _check_parameters(recipe)
    recipe.check()
    return recipe


def _check_parameters(recipe: Recipe) -> None:
    for name, value in recipe.parameters.items():
        place = f"recipe {recipe.name}: parameters.{name}"
        if not _NAME.fullmatch(name):
            raise UsageError(f"{place} must be named by a-z, 0-9 and _, a letter first")
        is_number = isinstance(value, int | Decimal) and not isinstance(value, bool)
        if not isinstance(value, str) and not is_number:
            raise UsageError(f"{place} must be a text or a number, got {value!r}")
        if is_number and not _NUMBER.fullmatch(str(value)):
            raise UsageError(f"{place} must be a finite number, got {value}")
    for name, description in recipe.columns.items():
        place = f"recipe {recipe.name}: columns.{name}"
        if name not in recipe.parameters:
            raise UsageError(
                f"{place} is no parameter{_close(name, recipe.parameters)}; give the column's "
                f'default name under [parameters], e.g. {name} = "{name}"'
            )
        if not isinstance(recipe.parameters[name], str):
            raise UsageError(
                f"{place} is a column, so parameters.{name} must be the name of one, got "
                f"{recipe.parameters[name]}"
            )
        if not isinstance(description, str):
            raise UsageError(
                f"{place} must be a text that says what the column is, got {description!r}"
            )


def _text(name: str, table: Mapping[str, Any], key: str) -> str:
    if key not in table:
        raise UsageError(f"recipe {name} has no {key}; {_FORM}")
    value = table[key]
    if not isinstance(value, str):
        raise UsageError(f"recipe {name}: {key} must be a text, got {value!r}")
    return value


def _entries(name: str, table: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise UsageError(f"recipe {name}: {key} must be a table, [{key}], got {value!r}")
    return dict(value)


def _close(name: str, names: Any) -> str:
    question = did_you_mean(name, names, cutoff=0.5)
    return f" ({question})" if question else ""


def _listed(names: Any) -> str:
    return ", ".join(names) or "none"
