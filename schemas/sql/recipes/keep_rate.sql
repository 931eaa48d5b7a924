-- What a threshold keeps: rows, share of all rows and of the scored ones.
-- set column: score = clip_score  -- score of which high values are kept
-- set threshold: number = 0.7  -- rows at or above it are kept; 0.7 is LAION's cosine of 0.28

SELECT count(*) AS rows, count({column}) AS scored,
       count(*) FILTER ({column} >= {threshold}) AS kept,
       keep_fraction({column}, {threshold}) AS of_all,
       keep_fraction_scored({column}, {threshold}) AS of_scored
FROM scores;
