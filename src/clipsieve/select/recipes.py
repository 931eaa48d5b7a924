"""Recipes by name: those that come with clipsieve, and the user's own files."""

from importlib.resources import files
from pathlib import Path

from clipsieve.errors import UsageError
from clipsieve.select.recipe import Recipe, read_recipe
from clipsieve.sql.literals import did_you_mean

#: The only recipe whose predicate may be empty.
KEEPS_EVERY_ROW = "datacomp.no_filter"
_SUFFIX = ".toml"


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with clipsieve, sorted."""
    folder = files("clipsieve.select") / "recipes"
    names = (each.name for each in folder.iterdir())
    return sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))


def recipe_lines() -> list[str]:
    """Return a line on each recipe: name, what it keeps, parameters with their defaults."""
    lines = []
    for recipe in map(load_recipe, recipe_names()):
        parameters = ", ".join(f"{name}={value}" for name, value in recipe.parameters.items())
        lines.append(f"{recipe.name:34} {recipe.description}")
        if parameters:
            lines.append(f"{'':34} --set {parameters}")
    return lines


def load_recipe(name_or_path: str) -> Recipe:
    """Return a recipe.

    Args:
      name_or_path: name of one that comes with clipsieve, or path of a file that ends in `.toml`.

    Raises:
      UsageError: if there is none, or its file is wrong.
    """
    if name_or_path.endswith(_SUFFIX):
        return _user_recipe(Path(name_or_path))
    names = recipe_names()
    if name_or_path not in names:
        question = did_you_mean(name_or_path, names, cutoff=0.4)
        close = f" ({question})" if question else ""
        raise UsageError(
            f"recipe {name_or_path!r} is not known{close}; `clipsieve filter --recipes` lists "
            "them, and a file of your own ends in .toml"
        )
    resource = files("clipsieve.select") / "recipes" / f"{name_or_path}{_SUFFIX}"
    return read_recipe(name_or_path, resource.read_text(encoding="utf-8"))


def _user_recipe(path: Path) -> Recipe:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        is_encoding = isinstance(error, UnicodeDecodeError)
        reason = "it is not UTF-8" if is_encoding else getattr(error, "strerror", None) or error
        raise UsageError(f"recipe {path} cannot be read: {reason}") from error
    recipe = read_recipe(str(path), text)
    if not recipe.where:
        raise UsageError(
            f"recipe {path}: where is empty; say what to keep, or take {KEEPS_EVERY_ROW}, which "
            "keeps every row"
        )
    return recipe
