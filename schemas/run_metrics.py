"""`_runs/<run>.metrics.parquet`: what a run has measured of itself, and of the rows it wrote."""

import pyarrow as pa

#: Quantiles of the scores of new rows, by the name of their metric.
QUANTILES = {
    "q01": 0.01,
    "q05": 0.05,
    "q25": 0.25,
    "q50": 0.50,
    "q75": 0.75,
    "q95": 0.95,
    "q99": 0.99,
}

#: Metrics of a score column, over the rows that the run wrote, in the order of the table.
SCORE_METRICS = ("scored", "null_share", "mean", "stddev", "min", *QUANTILES, "max")

RUN_METRICS = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("ended_at", pa.float64(), nullable=False),  # seconds since the epoch
        # rows, share (of the rows that the run wrote), total_rows, total_share (of all rows of its
        # input), shards, seconds, or one of `SCORE_METRICS`
        pa.field("metric", pa.string(), nullable=False),
        # a row state or 'all'; done, skipped, failed or left; run or embed; a score column
        pa.field("name", pa.string(), nullable=False),
        pa.field("value", pa.float64()),  # NULL where there is none, as the mean of no rows
    ]
)
