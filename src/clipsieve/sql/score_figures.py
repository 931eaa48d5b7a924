"""Figures of every score column over the rows of some shards, by DuckDB."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from clipsieve.schemas.run_metrics import QUANTILES, SCORE_METRICS
from clipsieve.sql.columns import score_columns
from clipsieve.sql.connect import open_views
from clipsieve.sql.literals import identifier
from clipsieve.store.folder import OutputFolder

#: Rows up to which quantiles are exact; of more rows they are those of a sample by hash of
#: (shard, row), about as large.
MOST_ROWS = 4_000_000
#: Columns read by one query: each holds its values in memory for the quantiles.
_COLUMNS = 8
#: Arrow's names of the types whose figures are taken.
_NUMBERS = (
    *("int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64"),
    *("float", "double"),
)


def score_figures(
    folder: OutputFolder, shards: Collection[str], most_rows: int = MOST_ROWS
) -> Mapping[str, Mapping[str, float | None]]:
    """Return the metrics of `SCORE_METRICS` of every numeric score column, by its name.

    Quantiles are values that occur: the lowest at or below which at least that share of the scored
    rows lie.  Without scored rows they, mean, min and max are None; the standard deviation is that
    of a sample, None for one row.  NULL scores count in `null_share` only.

    Args:
      folder: an output folder with the view `scores`.
      shards: whose rows; without any, figures are NULL and counts 0.
      most_rows: for exact quantiles, see `MOST_ROWS`.
    """
    manifest = folder.require_manifest()
    columns = [
        str(name) for name, _, _, _, type, *_ in score_columns(folder, manifest) if type in _NUMBERS
    ]
    if not shards:
        nothing = dict.fromkeys(SCORE_METRICS, None)
        return {column: {**nothing, "scored": 0.0} for column in columns}
    connection, _ = open_views(folder.root, query="scores")
    connection.execute("CREATE TEMP TABLE new_shards (shard VARCHAR)")
    connection.executemany("INSERT INTO new_shards VALUES (?)", [[s] for s in sorted(shards)])
    every = {str(r[0]) for r in connection.execute("SELECT DISTINCT shard FROM scores").fetchall()}
    where = "" if every <= set(shards) else "WHERE shard IN (FROM new_shards)"
    counted = connection.execute(f"SELECT count(*) FROM scores {where}").fetchone()
    rows = int(counted[0]) if counted else 0
    step = -(-rows // most_rows) or 1
    sampled = where
    if step > 1:
        condition = f"hash(shard, row) % {step} = 0"
        sampled = f"{where} AND {condition}" if where else f"WHERE {condition}"
    figures: dict[str, dict[str, float | None]] = {}
    for first in range(0, len(columns), _COLUMNS):
        some = columns[first : first + _COLUMNS]
        moments = connection.execute(_moments(some, where)).fetchone()
        quantiles = connection.execute(_quantiles(some, sampled)).fetchone()
        assert moments is not None and quantiles is not None
        for name, values in _by_column(some, moments, quantiles, rows):
            figures[name] = values
    return figures


def _moments(columns: Sequence[str], where: str) -> str:
    parts = []
    for column in map(identifier, columns):
        parts += [
            f"count({column})",
            f"avg({column}::DOUBLE)",
            f"stddev_samp({column}::DOUBLE)",
            f"min({column})::DOUBLE",
            f"max({column})::DOUBLE",
        ]
    return f"SELECT {', '.join(parts)} FROM scores {where}"


def _quantiles(columns: Sequence[str], where: str) -> str:
    shares = list(QUANTILES.values())
    parts = [f"quantile_disc({identifier(column)}, {shares})" for column in columns]
    return f"SELECT {', '.join(parts)} FROM scores {where}"


def _by_column(
    columns: Sequence[str], moments: tuple[float, ...], quantiles: tuple[object, ...], rows: int
) -> Iterator[tuple[str, dict[str, float | None]]]:
    for at, column in enumerate(columns):
        scored, mean, stddev, lowest, highest = moments[5 * at : 5 * at + 5]
        listed = quantiles[at]
        values: dict[str, float | None] = {
            "scored": float(scored),
            "null_share": 1 - scored / rows if rows else None,
            "mean": mean,
            "stddev": stddev,
            "min": lowest,
            "max": highest,
        }
        named = listed if isinstance(listed, list) else [None] * len(QUANTILES)
        for name, value in zip(QUANTILES, named, strict=True):
            values[name] = None if value is None else float(value)
        yield column, {metric: values[metric] for metric in SCORE_METRICS}
