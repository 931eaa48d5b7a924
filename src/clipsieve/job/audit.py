"""The audit: groups behind the most suspicious rows, as a table and as lines to read.

Runs on the driver: it reads one column of every row, and captions and vectors of few.
"""

from dataclasses import dataclass
from pathlib import Path

from clipsieve.audit.groups import NEAR_COSINE, Group, find_groups
from clipsieve.audit.shards import AuditedShards
from clipsieve.audit.suspects import find_suspects
from clipsieve.audit.table import write_groups
from clipsieve.errors import UsageError
from clipsieve.schemas import footers
from clipsieve.sql.views import write_views
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.lock_terms import LockTerms
from clipsieve.store.manifest import Manifest

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
    path: str

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
    lock_terms: LockTerms | None = None,
) -> AuditResult:
    """Group the most suspicious rows of an output folder and write `density_groups`.

    Args:
      out: output folder of an earlier run, with density scores.
      column: score by which rows are suspicious, higher is more so.
      fraction: share of the scored rows to look at, in (0, 1]; see `clipsieve.audit.selection`
        for small and very large datasets.
      near_cosine: cosine of near-duplicate pictures, in (0, 1].
      lock_terms: of the folder's lock in an object store; None is the default.

    Raises:
      UsageError: if there are no density scores or no such column, or for a value out of range.
      LedgerError: if scores, embeddings and ledger contradict each other.
      Locked: if another run is writing to the folder.
    """
    folder = OutputFolder.open(out)
    folder.require_manifest()  # before the lock, which would make the folder
    with folder.lock(lock_terms):
        folder.sweep()
        return audit_folder(folder, folder.require_manifest(), column, fraction, near_cosine)


def audit_folder(
    folder: OutputFolder,
    manifest: Manifest,
    column: str = COLUMN,
    fraction: float = FRACTION,
    near_cosine: float = NEAR_COSINE,
    writes_views: bool = True,
) -> AuditResult:
    """`audit` for a caller that holds the folder's lock, and may write the views itself."""
    if not 0 < near_cosine <= 1:
        raise UsageError(f"near-duplicate cosine must be above 0 and at most 1, got {near_cosine}")
    revision = manifest.revisions().get(FAMILY)
    if revision is None or manifest.embeddings is None:
        raise UsageError(
            f"{folder.root} holds no {FAMILY} scores to audit; "
            f"compute them: clipsieve score {folder.root} --scorers {FAMILY}"
        )
    _check_column(folder, revision, column)
    shards = AuditedShards(folder, manifest.embeddings, FAMILY, revision, column)
    suspects = find_suspects(shards, fraction)
    groups = find_groups(suspects, near_cosine)
    build = manifest.wide.build if manifest.wide is not None else ""
    write_groups(shards, suspects, groups, fraction, near_cosine, build)
    if writes_views:
        write_views(folder, manifest)
    return AuditResult(
        groups=tuple(groups),
        scored=suspects.threshold.scored,
        suspicious=len(suspects),
        line=float(suspects.threshold.values[0]) if len(suspects) else None,
        column=column,
        path=folder.files.url(names.groups(FAMILY, revision)),
    )


def unseen_findings(folder: OutputFolder, manifest: Manifest) -> str:
    """Return what an audit of the folder says, if there are density scores that none has seen.

    The caller writes the views.
    """
    revision = manifest.revisions().get(FAMILY)
    if revision is None or manifest.wide is None:
        return ""
    seen = folder.read_footer(names.groups(FAMILY, revision)).get(footers.BUILD)
    if seen == manifest.wide.build:
        return ""
    return audit_folder(folder, manifest, writes_views=False).summary()


def _check_column(folder: OutputFolder, revision: str, column: str) -> None:
    """Refuse a column that the scores do not have."""
    shards = folder.tables(names.family_folder(FAMILY, revision))
    if not shards:
        return
    schema = folder.read_schema(names.scores(FAMILY, revision, shards[0]))
    columns = [name for name in schema.names if name != "uid"]
    if column not in columns:
        raise UsageError(
            f"column {column!r} is not among the {FAMILY} scores of {folder.root}; "
            f"take one of {', '.join(columns)}"
        )
