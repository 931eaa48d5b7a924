-- Rows, failures, keep rate, median score and suspicious rows of each domain, the largest first.
-- set domain: column = domain | url  -- column with domains, or URLs of which the host is taken
-- set column: score = clip_score  -- score of which high values are kept
-- set threshold: number = 0.7  -- rows at or above it are kept
-- set suspicious: score = density_kdist  -- score of which high values are suspicious
-- set share: number 0..1 = 0.01  -- share of the scored rows that count as suspicious
-- set status: text = ok  -- state of rows that have not failed
-- set least: integer 1.. = 1  -- rows that a domain must have
-- set top: integer 1.. = 20  -- domains to show

WITH t AS (SELECT threshold_for_keep({suspicious}, {share}) AS t_cut FROM scores)
SELECT url_host({domain}) AS domain, count(*) AS rows,
       count(*) FILTER (status IS DISTINCT FROM {status}) / count(*) AS failed,
       keep_fraction({column}, {threshold}) AS kept,
       quantile_cont({column}, 0.5) AS median,
       count(*) FILTER ({suspicious} >= t_cut AND {share} > 0) AS suspicious
FROM scores, t GROUP BY 1 HAVING count(*) >= {least}
ORDER BY rows DESC, domain LIMIT {top};
