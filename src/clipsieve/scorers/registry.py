"""Scorers by name: the ones shipped here, and those of other installed packages."""

import re
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points

from clipsieve.errors import UsageError
from clipsieve.scorers.base import Scorer
from clipsieve.scorers.clipscore import PAPER_PROMPT, ClipScore, RefClipScore

ENTRY_POINTS = "clipsieve.scorers"

#: A family names a folder and a view; these views are clipsieve's own.
_FAMILY = re.compile(r"[a-z][a-z0-9_]*")
_TAKEN = frozenset({"embeddings", "runs", "samples", "scores", "shards", "wide"})

_SHIPPED: dict[str, Callable[[], Scorer]] = {
    "clip": ClipScore,
    "clip_depicts": lambda: ClipScore("clip_depicts", PAPER_PROMPT, "_depicts"),
    "clip_ref": RefClipScore,
}


def scorer_names() -> list[str]:
    """All names that `scorers_named` accepts, sorted."""
    return sorted({*_SHIPPED, *(entry.name for entry in entry_points(group=ENTRY_POINTS))})


def scorers_named(names: Iterable[str]) -> tuple[Scorer, ...]:
    """One scorer for each of `names`, in their order.

    Raises:
      UsageError: for a name that is not registered, or given twice, or that no family can have.
    """
    wanted = list(names)
    plugins = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    chosen: list[Scorer] = []
    for name in wanted:
        if wanted.count(name) > 1:
            raise UsageError(f"scorer {name!r} is named more than once; name it once")
        if name in _SHIPPED:
            chosen.append(_SHIPPED[name]())
        elif name in plugins:
            chosen.append(plugins[name].load()())
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
