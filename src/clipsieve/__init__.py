"""Score, audit and filter web-scale image-text datasets with CLIP.

    import clipsieve

    result = clipsieve.run("shards/*.parquet", "out/", model="tiny")
    clipsieve.connect("out/").sql("SELECT status, count(*) FROM scores GROUP BY status")

Everything here may be imported from `clipsieve`; the modules below it may move.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clipsieve.config import RunConfig
from clipsieve.errors import ClipsieveError

if TYPE_CHECKING:
    import duckdb

    from clipsieve.pipelines.run import RunResult

__all__ = ["ClipsieveError", "RunConfig", "connect", "run"]


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

    named: Any = inputs  # a single path is taken too
    return run_job(RunConfig(inputs=named, out=os.fspath(out), **settings))


def connect(out: str | os.PathLike[str]) -> "duckdb.DuckDBPyConnection":
    """Open a DuckDB connection with the views of the output folder `out`.

    Views: `scores`, `samples`, `embeddings`, one for each score family, `runs`, `shards`.

    Raises:
      UsageError: if the folder holds no dataset.
    """
    from clipsieve.sql.connect import connect as open_connection

    return open_connection(os.fspath(out))
