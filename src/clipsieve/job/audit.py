"""The audit: groups of suspicious rows and copies, as tables and as lines to read.

Runs on the driver: it reads scores and captions of every row, and every image vector once or twice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from clipsieve.audit.data import KeptVectors
from clipsieve.audit.describe import Group, describe
from clipsieve.audit.evidence import LINE
from clipsieve.audit.shards import AuditedShards
from clipsieve.audit.survey import NEAR_COSINE, survey
from clipsieve.audit.table import CLIP_SCORE, copies_table, groups_table, members_table, write_audit
from clipsieve.audit.witnesses import (
    K_DISTANCE,
    LOW_SIMILARITY,
    SawData,
    Witness,
    parse_column,
    recorded_direction,
)
from clipsieve.errors import UsageError
from clipsieve.schemas import footers
from clipsieve.schemas.audits import AUDIT_VIEWS
from clipsieve.sql.columns import score_columns
from clipsieve.sql.literals import did_you_mean
from clipsieve.sql.views import write_views
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.lock_terms import LockTerms
from clipsieve.store.manifest import Manifest


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What an audit found.

    Attributes:
      groups: as they are listed.
      rows: of the dataset.
      copied: captions and pictures in `copies`.
      path: the table of groups.
    """

    groups: tuple[Group, ...]
    rows: int
    copied: int
    path: str

    def summary(self) -> str:
        """One line: how many rows, how many groups, and the first of them."""
        if not self.groups:
            return f"audit: no group of the {self.rows:,} rows is out of the ordinary"
        first = self.groups[0]
        caption = repr(first.captions[0]) if first.captions else "no caption"
        inside = sum(group.rows for group in self.groups)
        return (
            f"audit: {inside:,} of {self.rows:,} rows in {len(self.groups):,} groups; "
            f"first: {first.rows:,} rows, {first.finding}, {caption}"
        )


def audit(
    out: str | Path,
    columns: Sequence[str] = (),
    model_saw_data: str = "unknown",
    near_cosine: float = NEAR_COSINE,
    lock_terms: LockTerms | None = None,
) -> AuditResult:
    """Find groups of suspicious rows in an output folder, and write them and all copies.

    Args:
      out: output folder of an earlier run.
      columns: further numeric columns, each as `NAME`, `NAME:high` or `NAME:low`; without a
        direction a column of scores has its own.
      model_saw_data: `yes`, `no` or `unknown`: whether the scoring model was trained on these rows.
        Only then can it have learnt a poison.
      near_cosine: cosine of near-duplicate pictures, in (0, 1].
      lock_terms: of the folder's lock in an object store; None is the default.

    Raises:
      UsageError: if there are no CLIP scores or no such column, or for a value out of range.
      LedgerError: if scores, embeddings and ledger contradict each other.
      Locked: if another run is writing to the folder.
    """
    folder = OutputFolder.open(out)
    folder.require_manifest()  # before the lock, which would make the folder
    with folder.lock(lock_terms):
        folder.sweep()
        manifest = folder.require_manifest()
        return audit_folder(folder, manifest, columns, model_saw_data, near_cosine)


def audit_folder(
    folder: OutputFolder,
    manifest: Manifest,
    columns: Sequence[str] = (),
    model_saw_data: str = "unknown",
    near_cosine: float = NEAR_COSINE,
    writes_views: bool = True,
    check: Callable[[], None] = lambda: None,
) -> AuditResult:
    """`audit` for a caller that holds the folder's lock, and may write the views itself."""
    if not 0 < near_cosine <= 1:
        raise UsageError(f"near-duplicate cosine must be above 0 and at most 1, got {near_cosine}")
    if model_saw_data not in list(SawData):
        raise UsageError(
            f"model_saw_data must be one of {', '.join(SawData)}, got {model_saw_data!r}"
        )
    if manifest.embeddings is None or not folder.shards():
        raise UsageError(
            f"{folder.root} holds no scores to audit; compute them: clipsieve run ... {folder.root}"
        )
    saw_data = SawData(model_saw_data)
    known = _known_columns(folder, manifest)
    witnesses = _witnesses(folder, known, columns)
    densities = [witness.column for witness in witnesses if witness.is_density]
    density = densities[0] if densities else None
    averaged = [column for column in (CLIP_SCORE, density) if column in known]
    read = {column: known[column][0] for column in known}
    shards = KeptVectors(AuditedShards(folder, manifest.embeddings, read))
    findings = survey(shards, witnesses, saw_data, averaged, near_cosine, check)
    groups = describe(shards, findings, witnesses, saw_data)
    copies = copies_table(shards, findings, density)
    tables = {
        "copies": copies,
        "members": members_table(groups, findings, witnesses),
        "groups": groups_table(groups),
    }
    _write(folder, manifest, tables, witnesses, saw_data, near_cosine, findings.rows)
    if writes_views:
        write_views(folder, manifest)
    path = folder.files.url(names.audit("groups"))
    return AuditResult(tuple(groups), findings.rows, copies.num_rows, path)


def unseen_findings(
    folder: OutputFolder, manifest: Manifest, check: Callable[[], None] = lambda: None
) -> str:
    """Return what an audit of the folder says, if there are scores that none has seen.

    The caller writes the views.
    """
    if manifest.embeddings is None or manifest.wide is None or not folder.shards():
        return ""
    written = folder.read_footers(names.audit(table) for table in AUDIT_VIEWS)
    if all(footer.get(footers.BUILD) == manifest.wide.build for footer in written):
        return ""
    return audit_folder(folder, manifest, writes_views=False, check=check).summary()


def _write(
    folder: OutputFolder,
    manifest: Manifest,
    tables: Mapping[str, pa.Table],
    witnesses: Sequence[Witness],
    saw_data: SawData,
    near_cosine: float,
    rows: int,
) -> None:
    """Write the tables, and remove those that an earlier clipsieve wrote for single families."""
    assert manifest.embeddings is not None
    parameters = {
        "witnesses": [
            {"column": w.column, "suspicious": "high" if w.is_high else "low", "tail": w.ordinary}
            for w in witnesses
        ],
        "model_saw_data": saw_data,
        "near_cosine": near_cosine,
        "line": LINE,
        "rows": rows,
        "embeddings": {
            "model": manifest.embeddings.model,
            "rev": manifest.embeddings.revision,
        },
        "families": manifest.revisions(),
    }
    build = manifest.wide.build if manifest.wide is not None else ""
    write_audit(folder, tables, parameters, build)
    for family in folder.files.list_folders(names.AUDITS):
        for revision in folder.files.list_folders(f"{names.AUDITS}/{family}"):
            if revision.startswith("rev="):
                folder.files.delete(f"{names.AUDITS}/{family}/{revision}/groups.parquet")


def _known_columns(folder: OutputFolder, manifest: Manifest) -> dict[str, tuple[str, str | None]]:
    """Folder of the tables and direction of every numeric score column."""
    revisions = manifest.revisions()
    return {
        str(name): (names.family_folder(str(family), revisions[str(family)]), direction)
        for name, family, _, _, kind, _, direction, *_ in score_columns(folder, manifest)
        if kind is not None and kind.startswith(("float", "double", "int", "uint", "bool"))
    }


def _witnesses(
    folder: OutputFolder, known: Mapping[str, tuple[str, str | None]], columns: Sequence[str]
) -> list[Witness]:
    """Low CLIP similarity, every k-distance, and the columns that the user names."""
    witnesses = [LOW_SIMILARITY] if LOW_SIMILARITY.column in known else []
    witnesses += [Witness(name) for name in known if name.startswith(K_DISTANCE)]
    for text in columns:
        name, is_high = parse_column(text)
        _check_column(folder, known, name)
        if is_high is None:
            is_high = recorded_direction(known[name][1]) if name in known else None
        if is_high is None:
            raise UsageError(
                f"column {name!r} does not say which values are suspicious; give it as "
                f"{name}:high or {name}:low"
            )
        known_as = {witness.column: witness.is_high for witness in witnesses}
        if known_as.get(name, is_high) != is_high:
            raise UsageError(
                f"column {name!r} is asked for with {'high' if is_high else 'low'} values as "
                f"suspicious, but its {'low' if is_high else 'high'} ones are already; take one"
            )
        if name not in known_as:
            witnesses.append(Witness(name, is_high))
    if not witnesses:
        raise UsageError(
            f"{folder.root} has no CLIP or density scores to audit; compute them: "
            f"clipsieve score {folder.root} --scorers density"
        )
    return witnesses


def _check_column(
    folder: OutputFolder, known: Mapping[str, tuple[str, str | None]], name: str
) -> None:
    """Refuse a column that is neither a numeric score nor a numeric column of the source."""
    if name in known:
        return
    schema = folder.read_schema(names.samples(folder.shards()[0]))
    numeric = [
        field.name
        for field in schema
        if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
    ]
    if name not in numeric:
        choices = [*known, *numeric]
        raise UsageError(
            f"column {name!r} is not among the numeric columns of {folder.root}"
            f"{did_you_mean(name, choices)}; there are {', '.join(choices)}"
        )
