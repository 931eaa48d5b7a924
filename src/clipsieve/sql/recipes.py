"""Recipes: analyses in SQL, one file each, with parameters.

A file's first comment line says what the recipe gives, the next ones declare its parameters (see
`clipsieve.sql.parameters`), the statements follow; the result of the last is the answer.  In them
`{name}` is a parameter's value, and `{'name'}` the name of a column as text.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from clipsieve.errors import UsageError
from clipsieve.schemas import __name__ as SCHEMAS
from clipsieve.sql.literals import close_names, literal
from clipsieve.sql.parameters import Parameter

_PLACE = re.compile(r"\{(?P<quote>'?)(?P<name>[a-z]\w*)(?P=quote)\}")


@dataclass(frozen=True, slots=True)
class Value:
    """What stands for a parameter: SQL, and of a column its name."""

    sql: str
    column: str = ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One recipe.

    Attributes:
      name: of its file, without `.sql`.
      doc: what it gives, in one line.
      parameters: in order.
      declarations: the lines that declare them.
      body: the statements, with places for values.
    """

    name: str
    doc: str
    parameters: tuple[Parameter, ...]
    declarations: tuple[str, ...]
    body: str

    @classmethod
    def parse(cls, name: str, text: str) -> "Recipe":
        """Read the text of a recipe.

        Raises:
          ValueError: if its head has another form, or a place has no parameter.
        """
        first, *rest = text.splitlines()
        at = next((n for n, line in enumerate(rest) if not line.startswith("-- set ")), len(rest))
        parameters = tuple(Parameter.parse(line) for line in rest[:at])
        body = "\n".join(rest[at:]).strip() + "\n"
        names = {parameter.name for parameter in parameters}
        unknown = {place["name"] for place in _PLACE.finditer(body)} - names
        if not first.startswith("-- ") or unknown:
            raise ValueError(f"recipe {name} has no first line, or no parameters {unknown}")
        return cls(name, first.removeprefix("-- "), parameters, tuple(rest[:at]), body)

    def head(self) -> str:
        """Return comment lines for a file of the statements with defaults filled in."""
        lines = [
            f"-- {self.doc}",
            "-- Run after views.sql and macros.sql, in the output folder.  With other values:",
            f"--   clipsieve sql OUT --recipe {self.name} --set NAME=VALUE",
            *self.declarations,
        ]
        return "\n".join(lines) + "\n\n"

    def filled(self, values: Mapping[str, Value]) -> str:
        """Return the statements with `values`, one for each parameter."""

        def value(place: re.Match[str]) -> str:
            of = values[place["name"]]
            return literal(of.column) if place["quote"] else of.sql

        return _PLACE.sub(value, self.body)


@cache
def recipes() -> Mapping[str, Recipe]:
    """Return all recipes by name, sorted."""
    folder = files(SCHEMAS) / "sql" / "recipes"
    texts = {
        file.name.removesuffix(".sql"): file.read_text(encoding="utf-8")
        for file in folder.iterdir()
        if file.name.endswith(".sql")
    }
    return {name: Recipe.parse(name, texts[name]) for name in sorted(texts)}


def find_recipe(name: str) -> Recipe:
    """Return the recipe of this name.

    Raises:
      UsageError: if there is none; the message names the closest.
    """
    known = recipes()
    if name not in known:
        raise UsageError(f"recipe {name!r} is not known ({close_names(name, known)})")
    return known[name]


def recipe_lines() -> list[str]:
    """Return what there is, a line a recipe and a line a parameter."""
    lines = []
    for recipe in recipes().values():
        lines.append(f"{recipe.name}: {recipe.doc}")
        for parameter in recipe.parameters:
            word = f"{parameter.name}={parameter.default.replace(' | ', '|')}"
            lines.append(f"  --set {word:<28} {parameter.expected}: {parameter.doc}")
    return lines
