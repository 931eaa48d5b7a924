-- Rows that status, image-text score, density and OOD drop, each of those left by the filters before it.
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
lost AS (
  SELECT CASE WHEN status IS DISTINCT FROM {status} THEN 1
              WHEN {clip} >= t_clip IS NOT TRUE THEN 2
              WHEN {density} < t_density IS NOT TRUE THEN 3
              WHEN {ood} < t_ood IS NOT TRUE THEN 4 ELSE 5 END AS lost_at,
         CASE lost_at WHEN 1 THEN status IS NULL WHEN 2 THEN {clip} IS NULL
              WHEN 3 THEN {density} IS NULL WHEN 4 THEN {ood} IS NULL END AS missing,
         count(*) AS n
  FROM scores, t GROUP BY ALL),
steps AS (
  SELECT unnest([0, 1, 2, 3, 4]) AS step,
         unnest([
           'input',
           'status = ' || {status},
           {'clip'} || ' >= ' || coalesce({clip_min}::VARCHAR, t_clip::DOUBLE::VARCHAR),
           {'density'} || ' < ' || coalesce({density_max}::VARCHAR, t_density::DOUBLE::VARCHAR),
           {'ood'} || ' < ' || coalesce({ood_max}::VARCHAR, t_ood::DOUBLE::VARCHAR)]) AS filter
  FROM t),
counts AS (
  SELECT step, filter, coalesce(sum(n) FILTER (lost_at > step), 0)::BIGINT AS kept,
         coalesce(sum(n) FILTER (lost_at = step), 0)::BIGINT AS dropped,
         coalesce(sum(n) FILTER (lost_at = step AND missing), 0)::BIGINT AS dropped_null
  FROM steps LEFT JOIN lost ON true GROUP BY ALL)
SELECT step, filter, kept, dropped, dropped_null,
       kept / nullif(first_value(kept) OVER (ORDER BY step), 0) AS of_input,
       kept / nullif(lag(kept) OVER (ORDER BY step), 0) AS of_previous
FROM counts ORDER BY step;
