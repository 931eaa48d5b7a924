"""Score, audit and filter web-scale image-text datasets with CLIP.

    import clipsieve

    result = clipsieve.run("shards/*.parquet", "out/", model="tiny")
    clipsieve.score("out/", ["clip_depicts"])
    clipsieve.connect("out/").sql("SELECT status, count(*) FROM scores GROUP BY status")

Everything here may be imported from `clipsieve`; the modules below it may move.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from clipsieve.errors import ClipsieveError
from clipsieve.settings import RunConfig, ScoreConfig

if TYPE_CHECKING:
    import duckdb

    from clipsieve.pipelines.run import RunResult
    from clipsieve.pipelines.score import ScoreResult

__all__ = ["ClipsieveError", "RunConfig", "ScoreConfig", "connect", "run", "score"]


def run(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    **settings: Any,
) -> "RunResult":
    """Embed and score image-text shards and leave tables that DuckDB queries.

    What an earlier run with the same settings has finished is not done again.

    Args:
      inputs: a path, glob, brace range or URL, or several.
      out: output folder.
      **settings: any other field of `RunConfig`.

    Returns:
      How it ended; `result.exit_code` is 3 if shards could not be read.

    Raises:
      ClipsieveError: see `clipsieve.errors`.
    """
    from clipsieve.pipelines.run import run as run_job  # Beam takes a second to import

    paths, folder = cast(Any, inputs), cast(Any, out)  # a single path is taken too
    return run_job(RunConfig(inputs=paths, out=folder, **settings))


def score(
    out: str | os.PathLike[str], scorers: str | Sequence[str], **settings: Any
) -> "ScoreResult":
    """Add scores to an output folder from its stored embeddings; no image is decoded.

    Args:
      out: output folder of an earlier run.
      scorers: names, in a list or separated by commas.
      **settings: any other field of `ScoreConfig`.

    Returns:
      How it ended.

    Raises:
      ClipsieveError: see `clipsieve.errors`.
    """
    from clipsieve.pipelines.score import score as score_job

    folder, names = cast(Any, out), cast(Any, scorers)
    config = ScoreConfig(out=folder, scorers=names, **settings)
    return score_job(
        config.out,
        config.scorers,
        config.device,
        config.runner,
        config.beam_args,
        options=config.scorer_options,
        refit=config.refit,
    )


def connect(out: str | os.PathLike[str]) -> "duckdb.DuckDBPyConnection":
    """Open a DuckDB connection with the views of the output folder `out`.

    Views: `scores`, `samples`, `embeddings`, one for each score family, `runs`, `shards`.

    Raises:
      UsageError: if the folder holds no dataset.
    """
    from clipsieve.sql.connect import connect as open_connection

    return open_connection(os.fspath(out))
