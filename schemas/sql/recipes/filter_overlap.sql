-- Rows by the set of filters they pass: status, image-text score, density and OOD; a NULL passes none.
-- set status: text = ok  -- state that a row must have
-- set clip: score = clip_score  -- score of which the highest are kept
-- set clip_keep: number 0..1 = 0.3  -- share of the scored rows to keep by it
-- set clip_min: number = null  -- threshold in place of that share: kept where clip >= clip_min
-- set density: score = density_kdist  -- score of which the highest are dropped
-- set density_drop: number 0..1 = 0.01  -- share of the scored rows to drop by it, ties with the last too
-- set density_max: number = null  -- threshold in place of that share: kept where density < density_max
-- set ood: score = ood_msp  -- score of which the highest are dropped
-- set ood_drop: number 0..1 = 0.05  -- share of the scored rows to drop by it, ties with the last too
-- set ood_max: number = null  -- threshold in place of that share: kept where ood < ood_max

WITH t AS (
  SELECT coalesce({clip_min}, threshold_for_keep({clip}, {clip_keep})) AS t_clip,
         coalesce({density_max}, CASE WHEN {density_drop} = 0 THEN 'inf'::FLOAT
                                 ELSE threshold_for_keep({density}, {density_drop}) END) AS t_density,
         coalesce({ood_max}, CASE WHEN {ood_drop} = 0 THEN 'inf'::FLOAT
                             ELSE threshold_for_keep({ood}, {ood_drop}) END) AS t_ood
  FROM scores),
pass AS (
  SELECT coalesce(status = {status}, false) AS status_ok,
         coalesce({clip} >= t_clip, false) AS clip_ok,
         coalesce({density} < t_density, false) AS density_ok,
         coalesce({ood} < t_ood, false) AS ood_ok, count(*) AS n
  FROM scores, t GROUP BY ALL)
SELECT status_ok, clip_ok, density_ok, ood_ok, n AS rows, n / sum(n) OVER () AS share
FROM pass ORDER BY n DESC, status_ok, clip_ok, density_ok, ood_ok;
