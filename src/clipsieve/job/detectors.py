"""The scores of a folder as detectors: how well each tells out-of-distribution rows."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipsieve.errors import UsageError
from clipsieve.evaluation.ranking import FPR95, Detection, ScoreCounts, detect
from clipsieve.job.score_columns import OodColumn, ScoreColumn, ScoredFolder
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import Manifest

#: Columns that are in memory at once.
_COLUMNS_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the in-distribution rows of a folder are compared with; one of the first two is given.

    Attributes:
      ood: a folder of rows that are out of distribution.
      ood_column: a column of the folder that says which rows are, see `OodColumn`.
      bootstrap: replicates of intervals; 0 is none.
      seed: of them.
    """

    ood: str | None
    ood_column: str | None
    bootstrap: int
    seed: int


def compare(
    folder: OutputFolder,
    manifest: Manifest,
    settings: Comparison,
    is_stopped: Callable[[], bool] = lambda: False,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Compare the scores of in-distribution rows with those of others.

    Args:
      folder: with the in-distribution rows; with an `ood_column`, with both.
      manifest: of it.
      settings: what it is compared with.
      is_stopped: asked between replicates; the rows are of no use then.

    Returns:
      The rows of `detectors`, and a line on each scorer that was left out.

    Raises:
      UsageError: if there is nothing to compare: another model, no common score, an empty class.
      LedgerError: if files are missing, damaged, or contradict each other.
    """
    inside = ScoredFolder(folder, manifest)
    if not inside.columns:
        raise UsageError(
            f"{folder.root} holds no scores that tell rows apart; "
            f"compute some: clipsieve score {folder.root} --scorers ood,density"
        )
    if settings.ood_column is not None:
        return _compare_column(
            inside, OodColumn.parse(settings.ood_column), settings, is_stopped
        ), []
    assert settings.ood is not None
    outside = _other_folder(folder, manifest, settings.ood)
    columns, notes = comparable_columns(inside, outside)
    if not columns:
        raise UsageError("no score is comparable in both folders: " + "; ".join(notes))

    def measure(column: ScoreColumn) -> dict[str, Any]:
        scores = inside.read(column), outside.read(outside.columns[column.name])
        return _detector(column, *scores, outside.folder.root, settings, is_stopped)

    return _ranked(measure, columns), notes


def _compare_column(
    folder: ScoredFolder, column: OodColumn, settings: Comparison, is_stopped: Callable[[], bool]
) -> list[dict[str, Any]]:
    state = folder.outside(column)
    for number, kind in ((1, "out of distribution"), (0, "in-distribution")):
        if not (state == number).any():
            raise UsageError(
                f"no row of {folder.folder.root} is {kind} by column {column}; name other values"
            )
    folder.check_aligned(sorted({each.family for each in folder.columns.values()}))

    def measure(score: ScoreColumn) -> dict[str, Any]:
        values = folder.read(score)
        sides = values[state == 0], values[state == 1]
        return _detector(score, *sides, str(column), settings, is_stopped)

    return _ranked(measure, list(folder.columns.values()))


def _other_folder(folder: OutputFolder, manifest: Manifest, path: str) -> ScoredFolder:
    """Open the out-of-distribution folder.

    Raises:
      UsageError: if it is the same, or of another model.
    """
    other = OutputFolder.open(path)
    other_manifest = other.require_manifest()
    if other.root == folder.root:
        raise UsageError(f"{path} is the evaluated folder itself; name another, or --ood-column")
    if other_manifest.embeddings != manifest.embeddings:
        raise UsageError(
            f"{other.root} has embeddings of {_model(other_manifest)}, and {folder.root} of "
            f"{_model(manifest)}: scores of different models cannot be compared; run one of them "
            "again with the model and settings of the other"
        )
    return ScoredFolder(other, other_manifest)


def _model(manifest: Manifest) -> str:
    entry = manifest.embeddings
    return "no model" if entry is None else f"{entry.model} (rev {entry.revision})"


def comparable_columns(
    inside: ScoredFolder, outside: ScoredFolder
) -> tuple[list[ScoreColumn], list[str]]:
    """Return the columns that one scorer with one revision made in both folders, and why not all.

    Scorers that learnt of different datasets have different revisions.
    """
    columns: list[ScoreColumn] = []
    reasons: dict[tuple[str, str, str], list[str]] = {}
    scorers, others = inside.manifest.scorers(), outside.manifest.scorers()
    for name, column in inside.columns.items():
        other = outside.columns.get(name)
        if other and (other.scorer, other.revision) == (column.scorer, column.revision):
            columns.append(column)
            continue
        entry, theirs = scorers.get(column.scorer), others.get(column.scorer)
        command = f"clipsieve score {outside.folder.root} --scorers {column.scorer}"
        learnt = False
        if entry is not None and entry.learned is not None:
            learnt = theirs is not None and theirs.basis == entry.basis
            command += f" --learn-on {entry.learned_on or inside.folder.root}"
        reason = (
            f"is not in {outside.folder.root}"
            if other is None
            else "learnt of other rows there"
            if learnt
            else "has other options there; give it the same ones"
        )
        reasons.setdefault((column.scorer, reason, command), []).append(name)
    notes = [
        f"left out {', '.join(left)}: {scorer} {reason}: {command}"
        for (scorer, reason, command), left in reasons.items()
    ]
    return columns, notes


def _ranked(
    measure: Callable[[ScoreColumn], dict[str, Any]], columns: Sequence[ScoreColumn]
) -> list[dict[str, Any]]:
    """Return what `measure` says of each column, the highest AUROC first, undefined ones last."""
    with ThreadPoolExecutor(_COLUMNS_AT_ONCE, "clipsieve-columns") as pool:
        rows = list(pool.map(measure, columns))
    return sorted(rows, key=lambda row: (row["auroc"] is None, -(row["auroc"] or 0), row["column"]))


def _detector(
    column: ScoreColumn,
    inside: np.ndarray,
    outside: np.ndarray,
    against: str,
    settings: Comparison,
    is_stopped: Callable[[], bool],
) -> dict[str, Any]:
    counts = ScoreCounts.from_scores(inside, outside)
    detection = detect(counts, settings.bootstrap, settings.seed, is_stopped)
    rows_in, rows_out = int(counts.inside.sum()), int(counts.outside.sum())
    return {
        "column": column.name,
        "family": column.family,
        "scorer": column.scorer,
        "revision": column.revision,
        "out_of_distribution": against,
        "in_rows": rows_in,
        "out_rows": rows_out,
        "in_missing": len(inside) - rows_in,
        "out_missing": len(outside) - rows_out,
        **_estimates(detection),
        "fpr95_convention": FPR95,
        "bootstrap": settings.bootstrap,
        "seed": settings.seed,
        "interval_binned": detection.binned,
    }


def _estimates(detection: Detection) -> dict[str, float | None]:
    named = {name: getattr(detection, name) for name in ("auroc", "aupr_in", "aupr_out", "fpr95")}
    return {
        f"{name}{suffix}": value
        for name, estimate in named.items()
        for suffix, value in zip(("", "_low", "_high"), estimate, strict=True)
    }
