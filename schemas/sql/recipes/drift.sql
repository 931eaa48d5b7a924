-- How a score moved between two revisions of its family that are both on disk, as a distribution and row by row.
-- set column: score = clip_score  -- score that both revisions have
-- set before: revision = previous  -- revision of its family; previous: the one beside the active
-- set after: revision = active  -- revision to compare with it
-- set bins: integer 2..10000 = 20  -- equal bins of the population stability index (psi)
-- set keep: number 0..1 = 0.3  -- share that each revision would keep, for kept_jaccard

WITH x AS (
  SELECT uid, parse_filename(filename, true) AS shard, file_row_number AS row, {column} AS v
  FROM read_parquet({before}, hive_partitioning = false, filename = true, file_row_number = true)),
y AS (
  SELECT uid, parse_filename(filename, true) AS shard, file_row_number AS row, {column} AS v
  FROM read_parquet({after}, hive_partitioning = false, filename = true, file_row_number = true)),
sides AS (
  SELECT v, 1 AS p, 0 AS q FROM x WHERE v IS NOT NULL
  UNION ALL SELECT v, 0, 1 FROM y WHERE v IS NOT NULL),
steps AS (SELECT v, sum(p) AS p, sum(q) AS q FROM sides GROUP BY v),
-- Kolmogorov-Smirnov: the largest distance between the two cumulative shares, over all values.
ks AS (
  SELECT max(abs(p - q)) AS ks FROM (
    SELECT sum(p) OVER (ORDER BY v) / sum(p) OVER () AS p,
           sum(q) OVER (ORDER BY v) / sum(q) OVER () AS q FROM steps)),
span AS (SELECT min(v) AS lo, max(v) AS hi FROM steps),
-- Half a row is added to each bin: an empty one would make the index infinite.
bins AS (
  SELECT bin(v, lo, hi, {bins}) AS b, sum(p) + 0.5 AS p, sum(q) + 0.5 AS q
  FROM steps, span GROUP BY ALL),
psi AS (
  SELECT psi(p, q) AS psi FROM (
    SELECT p / sum(p) OVER () AS p, q / sum(q) OVER () AS q FROM bins)),
-- Row by row: the same place of the same shard, with the same uid.  A join on uid alone would
-- multiply duplicates.
pairs AS (
  SELECT x.v AS x, y.v AS y FROM x JOIN y USING (shard, row)
  WHERE x.uid IS NOT DISTINCT FROM y.uid),
cuts AS (
  SELECT threshold_for_keep(x, {keep}) AS x_cut, threshold_for_keep(y, {keep}) AS y_cut FROM pairs),
moved AS (
  SELECT count(*) AS rows, count(*) FILTER (x IS NOT NULL AND y IS NOT NULL) AS scored_in_both,
         CASE WHEN isfinite(corr(x, y)) THEN corr(x, y) END AS correlation,
         avg(y - x) AS mean_shift, max(abs(y - x)) AS max_shift,
         count(*) FILTER (x >= x_cut AND y >= y_cut)
           / nullif(count(*) FILTER (x >= x_cut OR y >= y_cut), 0) AS kept_jaccard
  FROM pairs, cuts)
SELECT (SELECT count(*) FROM x) AS rows_before, (SELECT count(*) FROM y) AS rows_after,
       (SELECT count(v) FROM x) AS scored_before, (SELECT count(v) FROM y) AS scored_after,
       psi, ks, rows AS same_rows, scored_in_both, correlation, mean_shift, max_shift, kept_jaccard
FROM psi, ks, moved;
