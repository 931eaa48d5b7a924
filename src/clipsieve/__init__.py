"""Score, audit and filter web-scale image-text datasets with CLIP.

    import clipsieve

    result = clipsieve.run("shards/*.parquet", "out/", model="tiny")
    clipsieve.score("out/", ["clip_depicts"])
    clipsieve.connect("out/").sql("SELECT status, count(*) FROM scores GROUP BY status")

Everything here may be imported from `clipsieve`; the modules below it may move.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from clipsieve.api import (
    connect,
    evaluate,
    export,
    filter,
    ingest,
    remove,
    run,
    score,
    sql_recipe,
    verify,
    watch,
)
from clipsieve.errors import ClipsieveError, UsageError
from clipsieve.ingest.settings import IngestConfig
from clipsieve.settings import RunConfig, ScoreConfig, WatchConfig

if TYPE_CHECKING:
    from clipsieve.neighbours.lists import NeighbourLists
    from clipsieve.scorers.base import (
        Arrays,
        Context,
        Embedded,
        Input,
        NeighbourSpec,
        PairBatch,
        PromptSet,
        Scorer,
        State,
        Statistic,
        score_column,
    )
    from clipsieve.statistics.exact_sum import ExactSum
    from clipsieve.statistics.hash_sample import HashSample, SampleState
    from clipsieve.statistics.moments import ClassMoments, UnitMoments

#: Names for plug-ins, by the module that defines them; NumPy and Arrow are imported with the first.
_FOR_PLUGINS = {
    **dict.fromkeys(
        [
            "Arrays",
            "Context",
            "Embedded",
            "Input",
            "NeighbourSpec",
            "PairBatch",
            "PromptSet",
            "Scorer",
            "State",
            "Statistic",
            "score_column",
        ],
        "clipsieve.scorers.base",
    ),
    "NeighbourLists": "clipsieve.neighbours.lists",
    "ClassMoments": "clipsieve.statistics.moments",
    "ExactSum": "clipsieve.statistics.exact_sum",
    "HashSample": "clipsieve.statistics.hash_sample",
    "SampleState": "clipsieve.statistics.hash_sample",
    "UnitMoments": "clipsieve.statistics.moments",
}

__all__ = [
    "Arrays",
    "ClassMoments",
    "ClipsieveError",
    "Context",
    "Embedded",
    "ExactSum",
    "HashSample",
    "IngestConfig",
    "Input",
    "NeighbourLists",
    "NeighbourSpec",
    "PairBatch",
    "PromptSet",
    "RunConfig",
    "SampleState",
    "ScoreConfig",
    "Scorer",
    "State",
    "Statistic",
    "UnitMoments",
    "UsageError",
    "WatchConfig",
    "connect",
    "evaluate",
    "export",
    "filter",
    "ingest",
    "remove",
    "run",
    "score",
    "score_column",
    "sql_recipe",
    "verify",
    "watch",
]


def __getattr__(name: str) -> Any:
    """Import the names for plug-ins when they are asked for."""
    if name in _FOR_PLUGINS:
        return getattr(import_module(_FOR_PLUGINS[name]), name)
    raise AttributeError(f"module 'clipsieve' has no attribute {name!r}")
