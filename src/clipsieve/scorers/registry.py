"""Scorers by name: the ones shipped here, and those of other installed packages."""

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import Parameter, signature
from typing import Any

import pyarrow as pa

from clipsieve.errors import UsageError
from clipsieve.schemas.removals import REMOVED
from clipsieve.schemas.views import VIEWS, is_view
from clipsieve.scorers.base import Scorer

ENTRY_POINTS = "clipsieve.scorers"
#: The family that the embed stage writes with the embeddings; all others come from storage.
EMBEDDED = "clip"

_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)?")

#: Module and factory of each scorer; modules are imported when their scorer is asked for.
_SHIPPED = {
    "clip": "clipscore:clip_score_scorer",
    "clip_depicts": "clipscore:depicts_scorer",
    "clip_ref": "clipscore:RefClipScore",
    "density": "density_scorer:Density",
    "density.lof": "density_scorer:LocalOutlierFactor",
    "density.isolation_forest": "isolation:IsolationForestScore",
    "density.released": "density_released:ReleasedDensity",
    "duplicates.semdedup": "semdedup:SemDeDup",
    "datacomp.image_cluster": "datacomp.image_cluster:ImageCluster",
    "datacomp.text_words": "datacomp.text_words:TextWords",
    "duplicates.bytes": "duplicates.image_bytes:BytesDuplicates",
    "duplicates.caption": "duplicates.caption:CaptionDuplicates",
    "duplicates.phash": "duplicates.phash:PerceptualDuplicates",
    "duplicates.embedding": "duplicates.embedding:EmbeddingDuplicates",
    "ood.msp": "ood.zero_shot:MaxSoftmax",
    "ood.max_logit": "ood.zero_shot:MaxLogit",
    "ood.margin": "ood.zero_shot:Margin",
    "ood.energy": "ood.zero_shot:Energy",
    "ood.entropy": "ood.zero_shot:Entropy",
    "ood.variance": "ood.zero_shot:Variance",
    "ood.mcm": "ood.zero_shot:MaximumConceptMatching",
    "ood.gen": "ood.zero_shot:GeneralizedEntropy",
    "ood.pnorm": "ood.zero_shot:MaxLogitPNorm",
    "ood.class": "ood.zero_shot:ZeroShotClass",
    "ood.anomaly": "ood.anomaly:TwoPromptAnomaly",
    "ood.neglabel": "ood.neglabel:NegLabel",
    "ood.clipn": "ood.clipn:ClipN",
    "ood.residual": "ood.subspace:Residual",
    "ood.vim": "ood.subspace:VirtualLogitMatching",
    "ood.mahalanobis": "ood.gaussian:Mahalanobis",
    "ood.relative_mahalanobis": "ood.gaussian:RelativeMahalanobis",
    "ood.gda": "ood.discriminant:GaussianDiscriminant",
    "ood.kl_matching": "ood.kl_matching:KLMatching",
    "ood.knn": "ood.knn:NearestNeighbourDistance",
}

#: Names that stand for several scorers.
_GROUPS = {
    "duplicates": ("duplicates.bytes", "duplicates.caption", "duplicates.phash"),
    "ood.zero_shot": (
        "ood.class",
        "ood.msp",
        "ood.max_logit",
        "ood.margin",
        "ood.energy",
        "ood.entropy",
        "ood.variance",
        "ood.mcm",
        "ood.gen",
        "ood.pnorm",
        "ood.anomaly",
    ),
    "ood.learned": (
        "ood.residual",
        "ood.vim",
        "ood.mahalanobis",
        "ood.relative_mahalanobis",
        "ood.gda",
        "ood.kl_matching",
        "ood.knn",
    ),
}
#: All that need nothing but a list of classes.
_GROUPS["ood"] = _GROUPS["ood.zero_shot"] + _GROUPS["ood.learned"]

Options = Mapping[str, Mapping[str, Any]]
"""Options of scorers, by the scorer's name; under the name of a family, those of all its scorers
that have them, if no scorer has that name."""


def scorer_names() -> list[str]:
    """Names of all scorers, sorted."""
    return sorted({*_SHIPPED, *_plugins()})


def resolve_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of scorers, each once, in order.

    A group such as `ood` or `ood.zero_shot` stands for its scorers, and the family of a plug-in
    that is no scorer's own name for all its scorers.

    Raises:
      UsageError: for an unknown name, or one that is given twice.
    """
    known = scorer_names()
    resolved: list[str] = []
    for name in names:
        if name in known:
            members = [name]
        elif name in _GROUPS:
            others = [n for n in known if n.startswith(f"{name}.") and n not in _SHIPPED]
            members = [*_GROUPS[name], *others]
        else:
            members = [n for n in known if n.startswith(f"{name}.")]
        if not members:
            raise _unknown(name)
        if set(members) & set(resolved):
            raise UsageError(f"scorer {name!r} is named more than once; name it once")
        resolved += members
    return tuple(resolved)


def make_scorers(names: Iterable[str], options: Options | None = None) -> tuple[Scorer, ...]:
    """Make one scorer for each of `names`, in their order.

    Args:
      names: of scorers, see `resolve_names`.
      options: what each is made with, by name; other names' options are ignored.

    Raises:
      UsageError: for a name that is not registered, given twice or that no family can have, for
        an option that the scorer does not have, and for a column that two of them add.
    """
    resolved = resolve_names(names)
    _check_family_options(resolved, options or {})
    scorers = tuple(make_scorer(name, own_options(name, options or {})) for name in resolved)
    owners: dict[str, str] = {}
    for scorer in scorers:
        for column in scorer.columns.names:
            if column.lower() == REMOVED:
                raise UsageError(
                    f"scorer {scorer.name} adds column {column!r}, which says of each row which "
                    "removal list names it; rename it"
                )
            owner = owners.setdefault(column.lower(), scorer.name)
            if owner != scorer.name:
                raise UsageError(
                    f"scorers {owner} and {scorer.name} both add column {column!r}; rename one"
                )
    return scorers


def make_scorer(name: str, options: Mapping[str, Any]) -> Scorer:
    """Make the scorer registered as `name` with `options`, the keyword arguments of its factory.

    Raises:
      UsageError: see `make_scorers`.
    """
    factory = scorer_factory(name)
    family = name.partition(".")[0]
    if not _NAME.fullmatch(name) or is_view(family):
        raise UsageError(
            f"scorer {name!r} cannot name a folder and a view; register it under a name of "
            "a-z, 0-9 and _, or two with a dot between, that does not begin with "
            f"{', '.join(sorted(VIEWS))} and does not end in _groups"
        )
    _check_options(name, factory, options)
    scorer = factory(**options)
    if not isinstance(scorer, Scorer):
        raise UsageError(
            f"scorer {name!r} is a {type(scorer).__name__}; let its class inherit from "
            "clipsieve.Scorer"
        )
    if (scorer.name, scorer.family) != (name, family):
        raise UsageError(
            f"scorer {name!r} has name {scorer.name!r} and family {scorer.family!r}; its name "
            "must be the one it is registered by, its family what stands before the dot"
        )
    if family == EMBEDDED and name not in _SHIPPED:
        raise UsageError(
            f"scorer {name!r}: family {EMBEDDED!r} is written with the embeddings; use another"
        )
    return scorer


def own_options(name: str, options: Options) -> dict[str, Any]:
    """Return the options of one scorer: its own, and those of its family that it has."""
    family = name.partition(".")[0]
    own = dict(options.get(name, {}))
    if not is_family_only(family) or family not in options:
        return own
    known = option_names(scorer_factory(name))
    return {k: v for k, v in options[family].items() if k in known} | own


def scorers_of_column(column: str) -> list[str]:
    """Return the names of the scorers that add a column, sorted; most often one or none.

    A scorer is asked for the columns that its class has, or that it has without options; one that
    cannot be imported, or made without options, counts as adding none.

    >>> scorers_of_column("ood_vim")
    ['ood.vim']
    """
    return [
        name
        for name in scorer_names()
        if column.lower() in (each.lower() for each in _columns_without_options(name))
    ]


def _columns_without_options(name: str) -> list[str]:
    try:
        factory = scorer_factory(name)
        columns = getattr(factory, "columns", None)
        if not isinstance(columns, pa.Schema):
            columns = make_scorer(name, {}).columns
    except Exception:  # of a plug-in, anything
        return []
    return list(columns.names)


def is_family_only(name: str) -> bool:
    """Whether a name is that of a family, and not of a scorer."""
    if name in _SHIPPED:
        return False
    if any(each.startswith(f"{name}.") for each in _SHIPPED):
        return True
    names = scorer_names()  # lists the packages that are installed, which takes a while
    return name not in names and any(each.startswith(f"{name}.") for each in names)


def scorer_factory(name: str) -> Callable[..., Any]:
    """Return what makes the scorer of this name; its module is imported."""
    if name in _SHIPPED:
        module, attribute = _SHIPPED[name].split(":")
        shipped: Callable[..., Any] = getattr(
            import_module(f"clipsieve.scorers.{module}"), attribute
        )
        return shipped
    plugins = _plugins()
    if name not in plugins:
        raise _unknown(name)
    loaded: Callable[..., Any] = plugins[name].load()
    return loaded


def _check_family_options(names: Iterable[str], options: Options) -> None:
    """Refuse an option of a family that none of its scorers among `names` has."""
    for family in filter(is_family_only, options):
        members = [name for name in names if name.startswith(f"{family}.")]
        known = {option for name in members for option in option_names(scorer_factory(name))}
        unknown = sorted(set(options[family]) - known)
        if members and unknown:
            raise UsageError(
                f"no scorer of family {family!r} that is asked for has an option "
                f"{', '.join(unknown)}; they have {', '.join(sorted(known))}"
            )


def _unknown(name: str) -> UsageError:
    known = sorted({*scorer_names(), *_GROUPS})
    close = ", ".join(get_close_matches(name, known, n=3)) or "none"
    return UsageError(f"scorer {name!r} is not known (close names: {close}); choose from {known}")


def option_names(factory: Callable[..., Any]) -> list[str]:
    """Return the names of the keyword arguments of a factory, sorted.

    Where a class passes `**others` on to its base, those of the base are among them.
    """
    classes = factory.__mro__ if isinstance(factory, type) else ()
    makers = [vars(each)["__init__"] for each in classes if "__init__" in vars(each)]
    names: set[str] = set()
    for maker in makers or [factory]:
        parameters = signature(maker).parameters.values()
        kinds = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
        names |= {p.name for p in parameters if p.kind in kinds and p.name != "self"}
        if not any(p.kind is Parameter.VAR_KEYWORD for p in parameters):
            break
    return sorted(names)


def _check_options(name: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse options that the factory does not take."""
    known = option_names(factory)
    unknown = sorted(set(options) - set(known))
    if unknown:
        has = f"has {', '.join(known)}" if known else "has none"
        raise UsageError(f"scorer {name!r} has no option {', '.join(unknown)}; it {has}")


def _plugins() -> dict[str, EntryPoint]:
    """Scorers of other packages, by name."""
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
