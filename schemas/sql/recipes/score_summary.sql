-- Figures of one score: rows, rows with a score, range, mean, spread and quantiles.
-- set column: score = clip_score  -- score to describe

FROM score_summary('scores', {'column'});
