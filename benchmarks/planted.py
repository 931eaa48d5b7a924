"""What a subset did to each kind of noise that demo data holds, against the planted truth.

    python -m clipsieve.demo DEMO --rows 20000 --shards 8
    clipsieve run 'DEMO/*.parquet' OUT
    clipsieve score OUT --scorers duplicates
    clipsieve filter OUT --name keep --where "..."
    python benchmarks/planted.py OUT DEMO keep

For each kind: its rows, how many are dropped, and by which step first.  For each step: how many of
the rows that it drops have something wrong with them (precision).  Duplicates count by pairs: a
copy and its original of which at most one is kept.
"""

import argparse
from pathlib import Path

import clipsieve

#: Kinds that a filter should drop; of all others a dropped row is a loss.
NOISE = ("mismatched", "boilerplate", "blank", "repeated_caption")
COPIES = ("near_duplicate", "exact_duplicate")
#: Kinds whose pictures or captions cannot be used: NULL in every score.
UNUSABLE = (
    "truncated",
    "corrupt",
    "zero_bytes",
    "html",
    "empty_caption",
    "null_caption",
    "failed_download",
)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("demo", type=Path)
    parser.add_argument("subset")
    options = parser.parse_args()
    data = clipsieve.connect(options.out)
    truth = f"{options.demo.absolute() / '_truth'}/*.parquet"
    data.execute(
        f"""
        CREATE TEMP TABLE rows AS
        SELECT t.kind, t.duplicate_of, s.uid, s.status, d.step, coalesce(d.reason, '') AS reason
        FROM samples s
        JOIN read_parquet('{truth}') t USING (uid)
        LEFT JOIN (FROM dropped WHERE subset = ?) d USING (shard, row)
        """,
        [options.subset],
    )
    data.sql(
        """
        SELECT kind, count(*) AS "rows", count(step) AS dropped,
               round(count(step) / count(*), 3) AS share,
               mode(regexp_replace(reason, ' is NULL.*', ' is NULL')) FILTER (step IS NOT NULL)
                 AS first_reason
        FROM rows GROUP BY kind ORDER BY share DESC, "rows" DESC
        """
    ).show(max_rows=100, max_width=200)
    noise, unusable = map(str, (NOISE, UNUSABLE))
    data.sql(
        f"""
        SELECT step, any_value(regexp_replace(reason, ' is NULL.*', '')) AS label,
               count(*) AS dropped,
               count(*) FILTER (kind IN {noise}) AS noise,
               count(*) FILTER (kind IN {COPIES}) AS copies,
               count(*) FILTER (kind IN {unusable}) AS unusable,
               count(*) FILTER (kind NOT IN {NOISE + COPIES + UNUSABLE}) AS sound,
               round(1 - count(*) FILTER (kind NOT IN {NOISE + COPIES + UNUSABLE}) / count(*), 3)
                 AS "precision"
        FROM rows WHERE step IS NOT NULL GROUP BY step ORDER BY step
        """
    ).show(max_width=200)
    data.sql(
        """
        SELECT a.kind, count(*) AS pairs,
               count(*) FILTER (a.step IS NOT NULL OR b.step IS NOT NULL) AS resolved,
               round(count(*) FILTER (a.step IS NOT NULL OR b.step IS NOT NULL) / count(*), 3)
                 AS recall
        FROM rows a JOIN rows b ON a.duplicate_of = b.uid
        WHERE a.status = 'ok' AND b.status = 'ok' GROUP BY 1
        """
    ).show()


if __name__ == "__main__":
    main()
