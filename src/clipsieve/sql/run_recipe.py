"""Recipes run over an output folder."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import duckdb

from clipsieve.errors import QueryError, UsageError
from clipsieve.sql.connect import connect
from clipsieve.sql.recipe_values import recipe_text
from clipsieve.sql.recipes import find_recipe
from clipsieve.store.folder import OutputFolder


def recipe_sql(out: str | Path, name: str, parameters: Mapping[str, Any]) -> str:
    """Return the statements of the recipe `name` for the output folder `out`.

    Raises:
      UsageError: for an unknown recipe, and see `recipe_text`.
    """
    recipe = find_recipe(name)
    folder = OutputFolder.open(out)
    return recipe_text(recipe, folder, folder.require_manifest(), parameters)


def run_recipe(
    out: str | Path, name: str, parameters: Mapping[str, Any]
) -> duckdb.DuckDBPyRelation:
    """Return the answer of the recipe `name` over the output folder `out`, as a relation.

    Raises:
      UsageError: see `recipe_sql`; or if the recipe fails on the data.
    """
    statements = recipe_sql(out, name, parameters)
    try:
        return connect(out).sql(statements)
    except duckdb.Error as error:
        raise QueryError(f"recipe {name} failed: {error}") from error


def parse_assignments(words: Iterable[str]) -> dict[str, str]:
    """Return parameters by name from words such as `keep=0.3`.

    Raises:
      UsageError: if a word has another form, or a name comes twice.

    >>> parse_assignments(["keep=0.3", "status=a=b"])
    {'keep': '0.3', 'status': 'a=b'}
    """
    parameters: dict[str, str] = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not separator or not name:
            raise UsageError(f"--set {word!r} is not NAME=VALUE, such as --set keep=0.3")
        if name in parameters:
            raise UsageError(f"--set gives {name!r} twice; give it once")
        parameters[name] = value
    return parameters
