-- The threshold that keeps a share of the scored rows, and what it really keeps.
-- set column: score = clip_score  -- score of which high values are kept
-- set keep: number 0..1 = 0.3  -- share of the scored rows to keep, at least; ties keep more

WITH t AS (SELECT threshold_for_keep({column}, {keep}) AS threshold FROM scores)
SELECT threshold, count(*) AS rows, count({column}) AS scored,
       count(*) FILTER ({column} >= threshold) AS kept,
       keep_fraction({column}, threshold) AS of_all,
       keep_fraction_scored({column}, threshold) AS of_scored,
       -- All digits: rounded, it would keep other rows.
       {'column'} || ' >= ' || threshold::DOUBLE::VARCHAR AS predicate
FROM scores, t GROUP BY threshold;
