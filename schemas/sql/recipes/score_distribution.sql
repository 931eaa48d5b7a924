-- Histogram of one score: rows and share of the scored rows in equal bins from its least to its highest value.
-- set column: score = clip_score  -- score to describe
-- set bins: integer 1..10000 = 40  -- number of bins; empty ones are left out

SELECT low, high, rows, rows / sum(rows) OVER () AS share
FROM score_histogram('scores', {'column'}, n := {bins}) ORDER BY bin;
