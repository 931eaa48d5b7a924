-- What every threshold from a score's least to its highest value keeps.
-- set column: score = clip_score  -- score of which high values are kept
-- set bins: integer 1..10000 = 100  -- equally spaced thresholds; those that keep what the next keeps are left out

FROM keep_curve('scores', {'column'}, n := {bins});
