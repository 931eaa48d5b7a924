"""The audit stage: groups behind the most suspicious rows, as a table and as lines to read.

Runs on the driver: it reads one column of every row, and captions and vectors of few.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from clipsieve.audit.groups import NEAR_COSINE, Group, find_groups
from clipsieve.audit.shards import Shards
from clipsieve.audit.suspects import find_suspects
from clipsieve.audit.table import write_groups
from clipsieve.errors import ClipsieveError, UsageError
from clipsieve.sql.views import write_sql
from clipsieve.store import dataset as datasets
from clipsieve.store.dataset import Dataset
from clipsieve.store.layout import Layout
from clipsieve.store.lock import exclusive

FAMILY = "density"
#: Copies of a picture stay suspicious by it until the reference holds k of them.
COLUMN = "density_kdist"
FRACTION = 0.01


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What an audit found.

    Attributes:
      groups: most evidence first.
      scored: rows with a score.
      suspicious: rows at or above the line.
      line: the lowest score of a suspicious row; None if there is none.
      column: the score.
      path: the table.
    """

    groups: tuple[Group, ...]
    scored: int
    suspicious: int
    line: float | None
    column: str
    path: Path

    def summary(self) -> str:
        """One line: how many rows, how many groups, and the first of them."""
        if not self.suspicious:
            return f"audit: none of {self.scored:,} scored rows stands out by {self.column}"
        text = f"audit: {self.suspicious:,} of {self.scored:,} scored rows by {self.column}"
        if not self.groups:
            return f"{text}; no two of them share a caption or a picture"
        first = self.groups[0]
        caption = f"{first.caption!r}" if first.caption is not None else "no caption"
        return f"{text} in {len(self.groups):,} groups; first: {first.size:,} rows, {caption}"


def audit(
    out: str | Path,
    column: str = COLUMN,
    fraction: float = FRACTION,
    near_cosine: float = NEAR_COSINE,
) -> AuditResult:
    """Group the most suspicious rows of an output folder and write `density_groups`.

    Args:
      out: output folder of an earlier run, with density scores.
      column: score by which rows are suspicious, higher is more so.
      fraction: share of the scored rows to look at, in (0, 1]; see `clipsieve.audit.selection`
        for small and very large datasets.
      near_cosine: cosine of near-duplicate pictures, in (0, 1].

    Raises:
      UsageError: if there are no density scores or no such column, or for a value out of range.
      LedgerError: if scores, embeddings and ledger contradict each other.
      Locked: if another run is writing to the folder.
    """
    layout = Layout.at(out)
    datasets.require(layout)  # before the lock, which would make the folder
    with exclusive(layout):
        return audit_dataset(layout, datasets.require(layout), column, fraction, near_cosine)


def audit_dataset(
    layout: Layout,
    dataset: Dataset,
    column: str = COLUMN,
    fraction: float = FRACTION,
    near_cosine: float = NEAR_COSINE,
) -> AuditResult:
    """`audit` for a caller that holds the folder's lock."""
    if not 0 < near_cosine <= 1:
        raise UsageError(f"near-duplicate cosine must be above 0 and at most 1, got {near_cosine}")
    revision = dataset.families.get(FAMILY)
    if revision is None:
        raise UsageError(
            f"{layout.root} holds no {FAMILY} scores to audit; "
            f"compute them: clipsieve score {layout.root} --scorers {FAMILY}"
        )
    _check_column(layout, revision, column)
    shards = Shards(layout, dataset.embeddings, FAMILY, revision, column)
    suspects = find_suspects(shards, fraction)
    groups = find_groups(suspects, near_cosine)
    build = dataset.wide.get("build", "")
    write_groups(shards, suspects, groups, fraction, near_cosine, build)
    write_sql(layout, dataset)
    return AuditResult(
        groups=tuple(groups),
        scored=suspects.cut.scored,
        suspicious=len(suspects),
        line=float(suspects.cut.values[0]) if len(suspects) else None,
        column=column,
        path=layout.groups(FAMILY, revision),
    )


def _check_column(layout: Layout, revision: str, column: str) -> None:
    """Refuse a column that the scores do not have."""
    folder = layout.scores(FAMILY, revision, "").parent
    path = next(iter(sorted(folder.glob("*.parquet"))), None)
    if path is None:
        return
    columns = [name for name in pq.read_schema(path).names if name != "uid"]
    if column not in columns:
        raise UsageError(
            f"column {column!r} is not among the {FAMILY} scores of {layout.root}; "
            f"take one of {', '.join(columns)}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Audit one output folder and say what was found in one line."""
    parser = argparse.ArgumentParser(prog="clipsieve.pipelines.audit", description=__doc__)
    parser.add_argument("out", help="output folder of `clipsieve run`")
    parser.add_argument("--column", default=COLUMN)
    parser.add_argument("--fraction", type=float, default=FRACTION)
    options = parser.parse_args(argv)
    try:
        print(audit(options.out, options.column, options.fraction).summary())
    except ClipsieveError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
