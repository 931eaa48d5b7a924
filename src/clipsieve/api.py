"""The functions of the package: what a command does, as a call.

Beam takes a second to import: nothing above the settings is imported before it is needed.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast

from clipsieve.errors import UsageError
from clipsieve.ingest.settings import IngestConfig
from clipsieve.settings import ExecutionSettings, RunConfig, ScoreConfig, WatchConfig

if TYPE_CHECKING:
    import duckdb

    from clipsieve.ingest.job import IngestResult
    from clipsieve.job.evaluate import EvaluateResult
    from clipsieve.job.export import ExportResult
    from clipsieve.job.filter_result import FilterResult
    from clipsieve.job.removal_report import RemoveResult
    from clipsieve.job.run_result import RunResult
    from clipsieve.job.score import ScoreResult
    from clipsieve.sql.verify import VerifyResult
    from clipsieve.stage import Engine


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
    from clipsieve.job.run import run as run_job
    from clipsieve.pipelines.engine import make_engine  # Beam takes a second to import

    paths, folder = cast(Any, inputs), cast(Any, out)  # a single path is taken too
    config = RunConfig(inputs=paths, out=folder, **settings)
    with make_engine(config) as engine:
        return run_job(config, engine)


def ingest(
    urls: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    shards: str | os.PathLike[str],
    **settings: Any,
) -> "IngestResult":
    """Fetch the images of a list of URLs into shards that `run` reads.

    Only public addresses are fetched from.  What an earlier call with the same list has fetched is
    not fetched again.

    Args:
      urls: lists of URLs (Parquet, CSV, TSV, JSON lines, text): a path, glob or folder, or several.
      shards: folder of the shards, on this machine.
      **settings: any other field of `IngestConfig`.

    Returns:
      How it ended; rows that failed are rows, and no error.

    Raises:
      ClipsieveError: see `clipsieve.errors`.
    """
    from clipsieve.ingest.job import ingest as ingest_job

    lists, folder = cast(Any, urls), cast(Any, shards)
    return ingest_job(IngestConfig(urls=lists, shards=folder, **settings))


def watch(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    **settings: Any,
) -> int:
    """Repeat `run` as new shards come, until a time or a signal.

    Args:
      inputs: a path, glob, brace range or URL, or several; nothing need match yet.
      out: output folder.
      **settings: any other field of `WatchConfig`.

    Returns:
      The exit code of the last run; 143 or 130 after a signal.

    Raises:
      ClipsieveError: see `clipsieve.errors`.
    """
    from clipsieve.job.watch import watch as watch_job
    from clipsieve.pipelines.engine import make_engine

    paths, folder = cast(Any, inputs), cast(Any, out)
    return watch_job(WatchConfig(inputs=paths, out=folder, **settings), make_engine)


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
    from clipsieve.job.score import score as score_job
    from clipsieve.pipelines.engine import make_engine

    folder, names = cast(Any, out), cast(Any, scorers)
    config = ScoreConfig(out=folder, scorers=names, **settings)
    with make_engine(config) as engine:
        return score_job(config, engine)


def evaluate(
    out: str | os.PathLike[str],
    ood: str | os.PathLike[str] | None = None,
    labels: str | None = None,
    by: str | None = None,
    ood_column: str | None = None,
    bins: int = 15,
    bootstrap: int = 200,
    seed: int = 0,
    **settings: Any,
) -> "EvaluateResult":
    """Measure a dataset under its classes, or its scores as detectors of outliers.

    Without `ood` and `ood_column`: MaNo, and with `labels` accuracy, calibration and selective
    risk, as the table `metrics`.  With one of them: AUROC, AUPR and FPR95 of every score of which
    higher is more out of distribution or more suspicious, as the table `detectors`; the other
    table is written too if `labels` or `by` is given.

    Args:
      out: output folder of an earlier run, with scores.
      ood: output folder of rows that are out of distribution; those of `out` are not.
      labels: column of the source with names of classes, or their positions.
      by: column of the source, or `shard`: a row of measures for each of its values.
      ood_column: column of the source that is true where a row is out of distribution, or
        `column=a,b` with the values that are.
      bins: of the calibration error.
      bootstrap: replicates of the 95 % intervals; 0 for none.
      seed: of the replicates.
      **settings: `workers`, `runner` and other fields of `ExecutionSettings`.

    Returns:
      The rows of both tables, and what was left out.

    Raises:
      ClipsieveError: see `clipsieve.errors`.
    """
    from clipsieve.job.evaluate import EvaluationSettings
    from clipsieve.job.evaluate import evaluate as evaluate_job

    config = ScoreConfig(out=cast(Any, out), **settings)
    other = None if ood is None else os.fspath(ood)
    what = EvaluationSettings(other, ood_column, labels, by, bins, bootstrap, seed)

    with _opener(config) as open_engine:
        return evaluate_job(config, open_engine, what)


def filter(
    out: str | os.PathLike[str],
    name: str | None = None,
    where: str | None = None,
    *,
    recipe: str | None = None,
    parameters: Mapping[str, str] | Sequence[str] = (),
    base: str | None = None,
    intersect: Sequence[str] = (),
    union: Sequence[str] = (),
    subtract: Sequence[str] = (),
    by: str | None = None,
    dry_run: bool = False,
    replace: bool = False,
    thresholds: str = "auto",
    **settings: Any,
) -> "FilterResult":
    """Choose which rows of an output folder to keep, with a reason for every other row.

    Kept is what is in `base` and in every set of `intersect`, and where `where` is true; or is in a
    set of `union`; and is in no set of `subtract`.  A set is the name of a subset, or the path of a
    file of ids.  Without `base`, `intersect`, `where` and `recipe` only the sets of `union` are
    kept.

    Args:
      out: output folder of an earlier run, with scores.
      name: of the subset; None is that of the recipe.
      where: condition in SQL, with `top_fraction` and others: docs/filters.md.
      recipe: name of a recipe, or path of its TOML file, in place of `where`.
      parameters: of the recipe, by name, or as texts `NAME=VALUE`.
      base: a subset to filter in place of all rows.
      intersect: sets.
      union: sets.
      subtract: sets.
      by: kind of the ids in files: `uid`, `sha256`, `url` or `laion_hash`; None is by looking.
      dry_run: count only.
      replace: take the name of a subset that has another definition.
      thresholds: `driver` (DuckDB in this process), `stage` (on the workers), or `auto`.
      **settings: `workers`, `runner` and other fields of `ExecutionSettings`.

    Returns:
      The funnel, the thresholds, and how many rows are kept.

    Raises:
      ClipsieveError: see `clipsieve.errors`.
    """
    from clipsieve.job.filter import filter_rows
    from clipsieve.job.filter_settings import FilterSettings, parse_parameters

    config = ScoreConfig(out=cast(Any, out), **settings)
    what = FilterSettings(
        name=name,
        where=where,
        recipe=recipe,
        parameters=parse_parameters(parameters),
        base=base,
        intersect=tuple(intersect),
        union=tuple(union),
        subtract=tuple(subtract),
        by=by,
        dry_run=dry_run,
        replace=replace,
        thresholds=thresholds,
    )

    with _opener(config) as open_engine:
        return filter_rows(config, open_engine, what)


def export(
    out: str | os.PathLike[str],
    subset: str,
    format: str,
    to: str | os.PathLike[str],
    with_images: bool = False,
    samples_per_tar: int | None = None,
    **settings: Any,
) -> "ExportResult":
    """Write the rows of a subset for training and other tools.

    Formats: `npy` (DataComp's sorted uid pairs), `parquet` (a file a shard, all columns of the view
    `scores`), `tars` (webdatasets as img2dataset writes them, with the original bytes),
    `clip-retrieval` (its embeddings and metadata) and `uids` (one a line).

    Args:
      out: output folder of an earlier run.
      subset: name of a subset of it.
      format: one of those above.
      to: folder that is new, empty, or of an interrupted export; for `npy` also a
        `.npy` file, for `uids` a `.txt` file.
      with_images: for `parquet`: whether the pictures are a column, as `datasets` knows them.
      samples_per_tar: for `tars`: kept rows a tar; None is 10,000.
      **settings: `workers`, `runner` and other fields of `ExecutionSettings`.

    Returns:
      The rows and files written, and what was left out.

    Raises:
      ClipsieveError: see `clipsieve.errors`.
    """
    from clipsieve.exports.formats import ExportSettings
    from clipsieve.job.export import export as export_job

    config = ScoreConfig(out=cast(Any, out), **settings)
    what = ExportSettings(subset, format, os.fspath(to), with_images, samples_per_tar)

    with _opener(config) as open_engine:
        return export_job(config, open_engine, what)


def remove(
    out: str | os.PathLike[str],
    id_list: str | os.PathLike[str] | None = None,
    by: str | None = None,
    name: str | None = None,
    reason: str = "",
    dry_run: bool = False,
    undo: str | None = None,
    **settings: Any,
) -> "RemoveResult":
    """Remove the rows that a list of ids names from the view `scores` and all that is made later.

    The ledger, embeddings and scores stay as they are; rows of shards that later runs add are
    removed too.  With neither `id_list` nor `undo` the active lists are applied to new shards.

    Args:
      out: output folder of an earlier run.
      id_list: file of ids: text with one a line, `.npy`, `.parquet` or `.csv`.
      by: `uid`, `sha256` (of the picture's bytes), `url` or `laion_hash`; None is by the look.
      name: of the list; None is that of the file.
      reason: kept with the list; given again with a list that is active, it takes the old one's
        place.
      dry_run: count the rows, and write nothing.
      undo: name of a list to take back; no other argument goes with it.
      **settings: `workers`, `runner` and other fields of `ExecutionSettings`.

    Returns:
      The rows that the list names, and those that are removed now.

    Raises:
      ClipsieveError: see `clipsieve.errors`.
    """
    from clipsieve.job import remove as job

    config = ScoreConfig(out=cast(Any, out), **settings)

    if undo is not None and (id_list, by, name, reason, dry_run) != (None, None, None, "", False):
        raise UsageError(f"undo {undo!r} takes back a list; leave out all other arguments")
    with _opener(config) as open_engine:
        if undo is not None:
            return job.undo(config, open_engine, undo)
        if id_list is None:
            return job.refresh(config, open_engine)
        return job.remove(config, open_engine, os.fspath(id_list), by, name, reason, dry_run)


def connect(out: str | os.PathLike[str]) -> "duckdb.DuckDBPyConnection":
    """Open a DuckDB connection with the views of the output folder `out`.

    Views: `scores`, `score_columns`, `samples`, `embeddings`, one for each score family, `runs`,
    `shards`, after an evaluation `metrics` and `detectors`, and `removals` if rows were removed.

    Raises:
      UsageError: if the folder holds no dataset.
    """
    from clipsieve.sql.connect import connect as open_connection

    return open_connection(os.fspath(out))


def sql_recipe(
    out: str | os.PathLike[str], recipe: str, /, **parameters: Any
) -> "duckdb.DuckDBPyRelation":
    """Run a recipe, one of the analyses `clipsieve sql --recipes` lists, over an output folder.

        clipsieve.sql_recipe("out/", "threshold_for_keep", keep=0.3).show()

    Args:
      out: output folder of an earlier run.
      recipe: its name.
      **parameters: of the recipe; the others have their defaults.

    Returns:
      The answer as a relation of DuckDB: `.fetchall()`, `.df()`, `.show()`.

    Raises:
      UsageError: for an unknown recipe or parameter, a value of another kind, a missing column.
    """
    from clipsieve.sql.run_recipe import run_recipe

    return run_recipe(os.fspath(out), recipe, parameters)


def verify(
    out: str | os.PathLike[str],
    against: str | os.PathLike[str],
    column: str,
    ours: str = "clip_similarity",
    on: str | None = None,
    tolerance: float | None = None,
    top: int = 10,
) -> "VerifyResult":
    """Compare a column of our scores with a published one of the same rows.

    Rows are joined by `uid` or `url`.  A key that is there more than once on a side is in no
    pair, and counted.

    Args:
      out: output folder of an earlier run.
      against: Parquet, CSV or JSON lines with the published column: a file, glob or folder.
      column: its name there, in any case: `similarity`, `clip_l14_similarity_score`, ...
      ours: the column of `scores` to compare.
      on: `uid` or `url`; None: `uid` if the table has it, else `url`.
      tolerance: what the largest difference may be; over it `result.exit_code` is 1.
      top: number of the largest differences to return.

    Returns:
      Counts of both sides, correlation, differences.

    Raises:
      UsageError: for a missing column, no common key, no common row, or wrong arguments.
    """
    from clipsieve.sql.verify import verify as compare

    return compare(os.fspath(out), os.fspath(against), column, ours, on, tolerance, top)


@contextmanager
def _opener(config: ExecutionSettings) -> Iterator["Callable[[], Engine]"]:
    """Give what makes the engine that the settings ask for; it is closed with the block."""
    with ExitStack() as opened:

        def open_engine() -> "Engine":
            from clipsieve.pipelines.engine import make_engine

            return opened.enter_context(make_engine(config))

        yield open_engine
