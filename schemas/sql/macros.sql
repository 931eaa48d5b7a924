-- Macros of clipsieve; run after views.sql.  They work in DuckDB 1.5 and 2.0.

-- Share of all rows with x >= t; rows without a score count as dropped.
CREATE OR REPLACE MACRO keep_fraction(x, t) AS count(*) FILTER (x >= t) / count(*);

-- Share of the scored rows with x >= t.
CREATE OR REPLACE MACRO keep_fraction_scored(x, t) AS count(*) FILTER (x >= t) / nullif(count(x), 0);

-- The highest score at or above which at least `fraction` of the scored rows lie: the score of rank
-- ceil(fraction * rows), so ties alone make it keep more.  0 keeps the highest; NULL without scores.
-- DuckDB counts exactly for a decimal: 0.07 of 100 rows are 7.  `* -1`: -x fails for unsigned integers.
CREATE OR REPLACE MACRO threshold_for_keep(x, fraction) AS
  quantile_disc(x * -1, greatest(0, least(1, fraction))) * -1;

-- Number, from 0, of the one of n equal bins between lo and hi that holds x; ends are clipped, NULL
-- stays NULL, and all is in bin 0 where lo = hi.
CREATE OR REPLACE MACRO bin(x, lo, hi, n) AS
  CASE WHEN x IS NULL THEN NULL WHEN hi > lo
       THEN greatest(0, least(n - 1, floor((x - lo) / (hi - lo) * n)))::INT ELSE 0 END;

-- Population stability index of shares p and q, one row a bin; shares must not be 0.
CREATE OR REPLACE MACRO psi(p, q) AS sum((p - q) * ln(p / q));

-- Host of a URL in lower case, without user and port; a host alone is itself; NULL without one.
CREATE OR REPLACE MACRO url_host(url) AS
  nullif(lower(regexp_extract(url::VARCHAR,
    '^(?:(?:[a-z][a-z0-9+.-]*:)?//)?(?:[^/?#@]*@)?(\[[^\]]*\]|[^/?#:]*)', 1, 'i')), '');

-- One line of figures for a column: FROM score_summary('scores', 'clip_score').
CREATE OR REPLACE MACRO score_summary(tbl, col) AS TABLE
  SELECT count(*) AS rows, count(v) AS scored, min(v) AS min, max(v) AS max, avg(v) AS mean,
         stddev_samp(v) AS sd, quantile_cont(v, [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99]) AS quantiles
  FROM (SELECT COLUMNS([col]) AS v FROM query_table(tbl));

-- Histogram of a column in n equal bins, without empty ones: FROM score_histogram('scores', 'clip_score', n := 40).
CREATE OR REPLACE MACRO score_histogram(tbl, col, n := 50) AS TABLE
  WITH s AS (SELECT COLUMNS([col]) AS v FROM query_table(tbl)),
       r AS (SELECT min(v) AS lo, max(v) AS hi FROM s)
  SELECT b AS bin, lo + (hi - lo) * b / n AS low, lo + (hi - lo) * (b + 1) / n AS high, count(*) AS rows
  FROM (SELECT bin(v, lo, hi, n) AS b, lo, hi FROM s, r WHERE v IS NOT NULL)
  GROUP BY ALL ORDER BY b;

-- What thresholds at the lower ends of those bins keep, as rows, share of all rows and of the scored
-- ones: FROM keep_curve('scores', 'clip_score', n := 100).
CREATE OR REPLACE MACRO keep_curve(tbl, col, n := 100) AS TABLE
  WITH h AS (FROM score_histogram(tbl, col, n := n)),
       t AS (SELECT count(*) AS all_rows, (SELECT sum(rows) FROM h) AS scored FROM query_table(tbl)),
       k AS (SELECT low AS threshold, (sum(rows) OVER (ORDER BY bin DESC))::BIGINT AS kept FROM h)
  SELECT threshold, kept, kept / all_rows AS keep_fraction, kept / scored AS keep_fraction_scored
  FROM k, t ORDER BY threshold;
