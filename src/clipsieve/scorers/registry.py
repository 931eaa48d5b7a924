"""Scorers by name: the ones shipped here, and those of other installed packages."""

import re
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from inspect import Parameter, signature
from typing import Any

from clipsieve.errors import UsageError
from clipsieve.scorers.base import Scorer
from clipsieve.scorers.clipscore import PAPER_PROMPT, ClipScore, RefClipScore
from clipsieve.scorers.density_scorer import Density

ENTRY_POINTS = "clipsieve.scorers"

#: A family names a folder and a view; these views are clipsieve's own.
_FAMILY = re.compile(r"[a-z][a-z0-9_]*")
_TAKEN = frozenset({"density_groups", "embeddings", "runs", "samples", "scores", "shards", "wide"})

_SHIPPED: dict[str, Callable[..., Scorer]] = {
    "clip": lambda: ClipScore(),
    "clip_depicts": lambda: ClipScore("clip_depicts", PAPER_PROMPT, "_depicts"),
    "clip_ref": RefClipScore,
    "density": Density,
}


def scorer_names() -> list[str]:
    """All names that `scorers_named` accepts, sorted."""
    return sorted({*_SHIPPED, *(entry.name for entry in entry_points(group=ENTRY_POINTS))})


def scorers_named(
    names: Iterable[str], options: Mapping[str, Mapping[str, Any]] | None = None
) -> tuple[Scorer, ...]:
    """One scorer for each of `names`, in their order.

    Args:
      names: of scorers.
      options: what each is made with, by name; other names' options are passed over.

    Raises:
      UsageError: for a name that is not registered, or given twice, or that no family can have,
        and for an option that the scorer does not have.
    """
    wanted = list(names)
    given = options or {}
    plugins = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    chosen: list[Scorer] = []
    for name in wanted:
        if wanted.count(name) > 1:
            raise UsageError(f"scorer {name!r} is named more than once; name it once")
        if name in _SHIPPED:
            chosen.append(_made(name, _SHIPPED[name], given.get(name, {})))
        elif name in plugins:
            chosen.append(_made(name, plugins[name].load(), given.get(name, {})))
        else:
            raise UsageError(f"scorer {name!r} is not known; choose from {scorer_names()}")
        if not _FAMILY.fullmatch(name) or name in _TAKEN:
            raise UsageError(
                f"scorer {name!r} cannot name a folder and a view; register it under a name of "
                f"a-z, 0-9 and _ that is none of {', '.join(sorted(_TAKEN))}"
            )
        if chosen[-1].family != name:
            raise UsageError(
                f"scorer {name!r} writes family {chosen[-1].family!r}; register it by that name"
            )
    return tuple(chosen)


def _made(name: str, make: Callable[..., Scorer], options: Mapping[str, Any]) -> Scorer:
    """A scorer with its options, the keyword arguments of what makes it."""
    kinds = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    known = sorted(n for n, p in signature(make).parameters.items() if p.kind in kinds)
    unknown = sorted(set(options) - set(known))
    if unknown:
        has = f"has {', '.join(known)}" if known else "has none"
        raise UsageError(f"scorer {name!r} has no option {', '.join(unknown)}; it {has}")
    scorer = make(**options)
    lacking = [n for n in ("statistics", "references", "fit", "describe") if not hasattr(scorer, n)]
    if lacking:
        raise UsageError(
            f"scorer {name!r} has no {', '.join(lacking)}; let its class inherit from "
            "clipsieve.scorers.base.Scorer"
        )
    return scorer
