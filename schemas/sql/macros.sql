-- Macros of clipsieve; run after views.sql.  They work in DuckDB 1.5 and 2.0.

-- Share of all rows with x >= t; rows without a score count as dropped.
CREATE OR REPLACE MACRO keep_fraction(x, t) AS count(*) FILTER (x >= t) / count(*);

-- Share of the scored rows with x >= t.
CREATE OR REPLACE MACRO keep_fraction_scored(x, t) AS count(*) FILTER (x >= t) / nullif(count(x), 0);

-- The score at or above which `fraction` of the scored rows lie; 0 <= fraction <= 1.
CREATE OR REPLACE MACRO threshold_for_keep(x, fraction) AS
  quantile_disc(x, greatest(0, least(1, 1 - fraction)));

-- Number, from 0, of the one of n equal bins between lo and hi that holds x; ends are clipped.
CREATE OR REPLACE MACRO bin(x, lo, hi, n) AS
  greatest(0, least(n - 1, floor((x - lo) / (hi - lo) * n)::INT));

-- One line of figures for a column: FROM score_summary('scores', 'clip_score').
CREATE OR REPLACE MACRO score_summary(tbl, col) AS TABLE
  SELECT count(*) AS rows, count(v) AS scored, min(v) AS min, max(v) AS max, avg(v) AS mean,
         stddev_samp(v) AS sd, quantile_cont(v, [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99]) AS quantiles
  FROM (SELECT COLUMNS([col]) AS v FROM query_table(tbl));

-- Histogram of a column in n equal bins: FROM score_histogram('scores', 'clip_score', n := 40).
CREATE OR REPLACE MACRO score_histogram(tbl, col, n := 50) AS TABLE
  WITH s AS (SELECT COLUMNS([col]) AS v FROM query_table(tbl)),
       r AS (SELECT min(v) AS lo, max(v) AS hi FROM s)
  SELECT b AS bin, lo + (hi - lo) * b / n AS low, lo + (hi - lo) * (b + 1) / n AS high, count(*) AS rows
  FROM (SELECT bin(v, lo, hi, n) AS b, lo, hi FROM s, r WHERE v IS NOT NULL)
  GROUP BY ALL ORDER BY b;
