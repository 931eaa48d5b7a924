-- Captions that suspicious rows share, in any case and spacing; those with the most evidence first.
-- set suspicious: score = density_kdist  -- score of which high values are suspicious
-- set share: number 0..1 = 0.05  -- share of the scored rows that count as suspicious
-- set threshold: number = null  -- threshold in place of that share: suspicious where score >= threshold
-- set column: score = clip_score  -- score to give the mean of
-- set least: integer 1.. = 2  -- suspicious rows that a caption must have
-- set top: integer 1.. = 20  -- captions to show

WITH t AS (
  SELECT coalesce({threshold}, threshold_for_keep({suspicious}, {share})) AS t_cut FROM scores)
SELECT lower(trim(regexp_replace(caption, '\s+', ' ', 'g'))) AS caption, count(*) AS rows,
       avg({suspicious}) AS suspicious, avg({column}) AS score,
       list(uid ORDER BY {suspicious} DESC, uid)[1:3] AS examples
FROM scores, t WHERE {suspicious} >= t_cut AND caption IS NOT NULL
GROUP BY 1 HAVING count(*) >= {least}
ORDER BY count(*) * avg({suspicious}) DESC, 1 LIMIT {top};
