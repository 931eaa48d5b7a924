"""Values for the parameters of a recipe, checked against the columns and files of a folder."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from clipsieve.errors import UsageError
from clipsieve.scorers.registry import make_scorer, scorer_names
from clipsieve.sql.columns import score_columns, stored_columns, wide_columns
from clipsieve.sql.literals import close_names, identifier, literal
from clipsieve.sql.parameters import COLUMN, REVISION, SCORE, Parameter
from clipsieve.sql.recipes import Recipe, Value
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import Manifest

#: Words for a revision.
ACTIVE, PREVIOUS = "active", "previous"


def recipe_text(
    recipe: Recipe,
    folder: OutputFolder,
    manifest: Manifest,
    parameters: Mapping[str, Any],
    name_scorers: bool = True,
) -> str:
    """Return the statements of a recipe for a folder.

    Args:
      recipe: what to fill in.
      folder: whose `scores` it reads.
      manifest: its active revisions.
      parameters: values by name; the others are as declared.
      name_scorers: whether an error names the scorer that makes a column; that imports them all.

    Raises:
      UsageError: for an unknown parameter, a value of another kind or out of bounds, a column that
        is not in `scores` or holds no numbers, a revision that is not on disk.
    """
    columns = wide_columns(folder, manifest)
    if not columns:
        raise UsageError(
            f"{folder.root} has no view `scores`; make it: clipsieve compact {folder.root}"
        )
    known = {parameter.name: parameter for parameter in recipe.parameters}
    for name in parameters:
        if name not in known:
            raise UsageError(
                f"recipe {recipe.name} has no parameter {name!r} ({close_names(name, known)})"
            )
    values: dict[str, Value] = {}
    for parameter in recipe.parameters:
        given = parameters.get(parameter.name, parameter.default)
        if parameter.kind in (COLUMN, SCORE):
            choices = [given] if parameter.name in parameters else given.split(" | ")
            values[parameter.name] = _column(parameter, choices, columns, name_scorers)
        elif parameter.kind != REVISION:
            values[parameter.name] = Value(parameter.scalar(given))
    for parameter in recipe.parameters:
        if parameter.kind == REVISION:
            given = parameters.get(parameter.name, parameter.default)
            column = values["column"].column
            values[parameter.name] = Value(_revision(folder, manifest, column, str(given)))
    return recipe.filled(values)


def missing_column(name: str, columns: Iterable[str], name_scorer: bool = True) -> str:
    """Return what an error says of a column that `scores` lacks, and which scorer makes it."""
    scorer = _scorer_of(name) if name_scorer else None
    cure = close_names(name, columns)
    if scorer is not None:
        cure = f"made by: clipsieve score OUT --scorers {scorer}"
    return f"column {name!r} is not in scores ({cure})"


def is_number(type: pa.DataType) -> bool:
    """Whether a column of this type holds numbers."""
    return bool(pa.types.is_integer(type) or pa.types.is_floating(type))


def _column(
    parameter: Parameter,
    choices: Sequence[Any],
    columns: Mapping[str, pa.DataType],
    name_scorers: bool,
) -> Value:
    """Return the first of the columns that there is."""
    by_lower = {name.lower(): name for name in columns}
    name = next((by_lower[str(c).lower()] for c in choices if str(c).lower() in by_lower), None)
    if name is None:
        missing = [missing_column(str(each), columns, name_scorers) for each in choices]
        raise UsageError(
            f"parameter {parameter.name}: {', and '.join(missing)}; "
            f"or name another column: --set {parameter.name}=COLUMN"
        )
    if parameter.kind == SCORE and not is_number(columns[name]):
        raise UsageError(
            f"parameter {parameter.name} must be a {parameter.expected}, and {name!r} is "
            f"{columns[name]}"
        )
    return Value(identifier(name), name)


def _revision(folder: OutputFolder, manifest: Manifest, column: str, revision: str) -> str:
    """Return the files of a revision of the family of `column`, as SQL text."""
    families = {str(row[0]): str(row[1]) for row in score_columns(folder, manifest)}
    if column not in families:
        raise UsageError(f"column {column!r} is no score; only score families have revisions")
    family = families[column]
    active = manifest.revisions()[family]
    others = [each for each in _on_disk(folder, family) if each != active]
    if revision == ACTIVE:
        revision = active
    elif revision == PREVIOUS and len(others) == 1:
        (revision,) = others
    if revision != active and revision not in others:
        on_disk = ", ".join([f"{active} (active)", *others])
        problem, cure = f"has no revision {revision!r}", "name one of these"
        if revision == PREVIOUS and others:
            problem, cure = "has several revisions beside the active", "name one of these"
        elif revision == PREVIOUS:
            problem = "has no revision beside the active"
            cure = "the one before stays when a family is scored anew with other settings"
        raise UsageError(
            f"family {family!r}, that of {column}, {problem}; on disk: {on_disk}; "
            f"{cure}{_with_two(folder, manifest)}"
        )
    fields = stored_columns(folder, names.family_folder(family, revision))
    if column not in {field.name for field in fields}:
        raise UsageError(
            f"revision {revision} of family {family!r} has no column {column!r}; it has "
            f"{', '.join(field.name for field in fields if field.name != 'uid')}"
        )
    return literal(f"{names.family_folder(family, revision)}/[!.]*.parquet")


def _with_two(folder: OutputFolder, manifest: Manifest) -> str:
    """Return which families have two revisions, as the end of a sentence."""
    two = [family for family in manifest.families if len(_on_disk(folder, family)) > 1]
    return f"; with two here: {', '.join(two)} (--set column=...)" if two else ""


def _on_disk(folder: OutputFolder, family: str) -> list[str]:
    """Return the revisions of a family that have files."""
    folders = folder.files.list_folders(f"scores/{family}")
    revisions = filter(None, (names.marked_hash(name, "rev=") for name in folders))
    return [each for each in revisions if folder.tables(names.family_folder(family, each))]


def _scorer_of(column: str) -> str | None:
    """Return the scorer that makes a column; None if none does without options."""
    for name in scorer_names():
        try:
            if column in make_scorer(name, {}).columns.names:
                return name
        except Exception:  # a scorer that must have options, or a broken plug-in
            continue
    return None
