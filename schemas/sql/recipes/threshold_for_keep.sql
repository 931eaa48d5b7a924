-- The threshold that keeps a share of the scored rows, and what it really keeps.
-- set column: score = clip_score  -- score of which high values are kept
-- set keep: number 0..1 = 0.3  -- share of the scored rows to keep, at least; ties keep more

WITH t AS (SELECT threshold_for_keep({column}, {keep}) AS t_threshold FROM scores)
SELECT t_threshold AS threshold, count(*) AS rows, count({column}) AS scored,
       count(*) FILTER ({column} >= t_threshold) AS kept,
       keep_fraction({column}, t_threshold) AS of_all,
       keep_fraction_scored({column}, t_threshold) AS of_scored,
       -- All digits: rounded, it would keep other rows.
       {'column'} || ' >= ' || t_threshold::DOUBLE::VARCHAR AS predicate
FROM scores, t GROUP BY t_threshold;
