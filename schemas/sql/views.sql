-- Views over an output folder of clipsieve.  Paths are relative to it: start DuckDB there
-- (`duckdb -init sql/views.sql`), or SET file_search_path to it first.
-- Each view stands in a block that is left out while it would have no files.  Hidden files, such as
-- `._x.parquet`, are other programs'.

--: samples
CREATE OR REPLACE VIEW samples AS
  FROM read_parquet('{root}samples/[!.]*.parquet', union_by_name = true, hive_partitioning = false);

--: embeddings
-- Vectors are FLOAT[{dim}], for array_inner_product and its kin.  DuckDB's list_* functions refuse
-- a column of Parquet lists in which some rows are NULL ("can not contain NULL values").
CREATE OR REPLACE VIEW embeddings AS
  SELECT * REPLACE (image_embedding::FLOAT[{dim}] AS image_embedding,
                    text_embedding::FLOAT[{dim}] AS text_embedding)
  FROM read_parquet('{root}embeddings/{model}/rev={rev}/[!.]*.parquet', hive_partitioning = false);

--: family
CREATE OR REPLACE VIEW {view} AS
  FROM read_parquet('{root}scores/{family}/rev={rev}/[!.]*.parquet', hive_partitioning = false);

--: audit
-- Written by `clipsieve audit`: groups of suspicious rows, most evidence first; their rows; copies.
CREATE OR REPLACE VIEW {view} AS
  FROM read_parquet('{root}audits/{table}.parquet', hive_partitioning = false);

--: subsets
-- What `clipsieve filter` has chosen: a row a subset.
CREATE OR REPLACE VIEW subsets AS SELECT * FROM (VALUES
    {rows}
  ) AS t(subset, revision, "rows", kept, dropped, definition, run_id, created_at);

--: subset_rows
-- Rows of every subset: kept, and dropped with the first step they fail.  A row is (shard, row).
CREATE OR REPLACE VIEW {view} AS
  {selects};

--: metrics
-- Measures of the whole dataset, a row a group; written by `clipsieve evaluate`.
CREATE OR REPLACE VIEW metrics AS
  FROM read_parquet('{root}metrics/dataset.parquet', hive_partitioning = false);

--: detectors
-- How well each score tells out-of-distribution rows, best first; written by `clipsieve evaluate`.
CREATE OR REPLACE VIEW detectors AS
  FROM read_parquet('{root}metrics/detectors.parquet', hive_partitioning = false);

--: scores
CREATE OR REPLACE VIEW scores AS
  SELECT *{left_out}{aliases}
  FROM read_parquet('{root}wide/build={build}/[!.]*.parquet', union_by_name = true, hive_partitioning = false){condition};

--: removals
-- Rows that removal lists keep out of scores, a row for each of them and list; see `clipsieve remove`.
CREATE OR REPLACE VIEW removals AS
  FROM read_parquet('{root}removals/rev={removals}/[!.]*.parquet', union_by_name = true, hive_partitioning = false);

--: runs
CREATE OR REPLACE VIEW runs AS
  SELECT * EXCLUDE ("clipsieve.sha256")
  FROM read_json('{root}_runs/[!.]*.json', union_by_name = true);

--: run_metrics
-- What each run has measured of itself and of the rows that it wrote.  The macros look at the last run:
-- value_of('mean', 'clip_score'), share_of('fetch_failed') among the rows that it wrote, and
-- change_of('mean', 'clip_score') since the last run before it that has this value.
CREATE OR REPLACE VIEW run_metrics AS
  FROM read_parquet('{root}_runs/[!.]*.metrics.parquet', hive_partitioning = false);

CREATE OR REPLACE MACRO value_of(metric_, name_) AS (
  WITH m AS (FROM read_parquet('{root}_runs/[!.]*.metrics.parquet', hive_partitioning = false)),
       v AS (SELECT value FROM m WHERE metric = metric_ AND name = name_
             AND ended_at = (SELECT max(ended_at) FROM m))
  SELECT CASE WHEN count(*) > 0 THEN max(value) ELSE error('run_metrics has no ' || metric_ || ' of '
    || name_ || ' for the last run; see SELECT DISTINCT metric, name FROM run_metrics') END FROM v);

CREATE OR REPLACE MACRO share_of(state_) AS (
  WITH m AS (FROM read_parquet('{root}_runs/[!.]*.metrics.parquet', hive_partitioning = false)),
       v AS (SELECT value FROM m WHERE metric = 'share' AND name = state_
             AND ended_at = (SELECT max(ended_at) FROM m))
  SELECT CASE WHEN count(*) > 0 THEN max(value) ELSE error('there is no row state ' || state_
    || '; the states are in docs/tables.md') END FROM v);

CREATE OR REPLACE MACRO change_of(metric_, name_) AS (
  WITH m AS (FROM read_parquet('{root}_runs/[!.]*.metrics.parquet', hive_partitioning = false)),
       r AS (SELECT max(ended_at) AS last FROM m),
       v AS (SELECT value, ended_at FROM m WHERE metric = metric_ AND name = name_)
  SELECT CASE WHEN count(*) FILTER (ended_at = last) > 0
    THEN max(value) FILTER (ended_at = last)
         - arg_max(value, ended_at) FILTER (ended_at < last AND value IS NOT NULL)
    ELSE error('run_metrics has no ' || metric_ || ' of ' || name_
      || ' for the last run; see SELECT DISTINCT metric, name FROM run_metrics') END
  FROM v, r);

--: score_columns
-- What each score column means, and which scorer made it.
CREATE OR REPLACE VIEW score_columns AS
  SELECT * FROM (VALUES
    {rows}
  ) AS t(column_name, family, scorer, revision, "type", doc, direction, "range", source);

--: comment
COMMENT ON COLUMN scores.{column} IS {doc};

--: shards
-- A run that is at work, or was killed, has a file for each record; one that has ended has one file.
-- DISTINCT: a run killed while it put them together has both.  Records are not forced to disk, so a
-- power failure may leave one that is no JSON.
CREATE OR REPLACE VIEW shards AS
  SELECT DISTINCT * FROM read_json([{files}], format = 'newline_delimited', ignore_errors = true,
    columns = {run_id: 'VARCHAR', shard: 'VARCHAR', uri: 'VARCHAR', state: 'VARCHAR',
      rows: 'BIGINT', states: 'MAP(VARCHAR, BIGINT)', error: 'VARCHAR', seconds: 'DOUBLE',
      ended_at: 'DOUBLE'})
  WHERE run_id IS NOT NULL;
