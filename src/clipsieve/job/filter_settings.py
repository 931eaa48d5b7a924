"""What a user says of a filter: what to keep, under which name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from clipsieve.errors import UsageError

#: How thresholds are computed: by DuckDB on this machine, by the stage, or as fits.
WAYS = ("auto", "driver", "stage")


@dataclass(frozen=True, slots=True)
class FilterSettings:
    """What to keep.

    Kept is what is in `base` and in every set of `intersect`, and where `where` is true; or is in
    a set of `union`; and is in no set of `subtract`.  With none of the first three: what is in a
    set of `union`.

    Attributes:
      name: of the subset.
      where: predicate; None keeps what the sets say.
      recipe: name of a recipe, or path of its file, in place of `where`.
      parameters: of the recipe.
      base: a subset to filter in place of all rows.
      intersect: subsets or files of ids.
      union: likewise.
      subtract: likewise.
      by: kind of the ids in files; None is by the look of them.
      dry_run: count only.
      replace: take the name of a subset that another definition has.
      thresholds: one of `WAYS`.
    """

    name: str | None = None
    where: str | None = None
    recipe: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    base: str | None = None
    intersect: tuple[str, ...] = ()
    union: tuple[str, ...] = ()
    subtract: tuple[str, ...] = ()
    by: str | None = None
    dry_run: bool = False
    replace: bool = False
    thresholds: str = "auto"

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
          UsageError: says what.
        """
        if self.where is not None and self.recipe is not None:
            raise UsageError("where and recipe are both given; a recipe brings its own predicate")
        if self.parameters and self.recipe is None:
            raise UsageError("parameters are of a recipe; name it with --recipe")
        sets = (self.base, *self.intersect, *self.union, *self.subtract)
        if self.where is None and self.recipe is None and not any(sets):
            raise UsageError(
                "nothing says what to keep; give --where, --recipe, --from, --and, --or or --minus"
            )
        if self.thresholds not in WAYS:
            raise UsageError(
                f"thresholds must be one of {', '.join(WAYS)}, got {self.thresholds!r}"
            )


def parse_parameters(parameters: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    """Return parameters of a recipe by name, from texts `NAME=VALUE` too.

    Raises:
      UsageError: for a text of another form, or a name that comes twice.

    >>> parse_parameters(["fraction=0.2"])
    {'fraction': '0.2'}
    """
    if isinstance(parameters, Mapping):
        return {name: str(value) for name, value in parameters.items()}
    parsed: dict[str, str] = {}
    for text in parameters:
        name, equals, value = text.partition("=")
        if not equals or not name or name in parsed:
            raise UsageError(f"--set {text!r} is not NAME=VALUE, each name once")
        parsed[name] = value
    return parsed
