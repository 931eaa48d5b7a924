"""Evaluate a folder: measures of its dataset, and of the scores that detect outliers."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from clipsieve.errors import LedgerError, UsageError
from clipsieve.evaluation.dataset import BINS
from clipsieve.evaluation.groups import MOST_GROUPS
from clipsieve.evaluation.ranking import FPR95, Detection, ScoreCounts, detect
from clipsieve.job.score_columns import OodColumn, ScoreColumn, ScoredFolder
from clipsieve.job.scoring import folder_logit_scale
from clipsieve.job.signals import exit_code_of, start_control, stopping_on_signals
from clipsieve.schemas import footers
from clipsieve.schemas.metrics import DATASET, DETECTORS
from clipsieve.scoring.learn import Basis
from clipsieve.scoring.metrics import (
    BY_SHARD,
    MetricsStage,
    folder_prompt_set,
    metrics_parameters,
)
from clipsieve.settings import ScoreConfig
from clipsieve.sql.views import write_sql
from clipsieve.stage import Engine
from clipsieve.store import names
from clipsieve.store.canonical import canonical_json
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import Manifest
from clipsieve.store.members import read_members

#: Columns that are in memory at once.
_COLUMNS_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """What is evaluated.

    With `ood` or `ood_column` scores are compared; measures of the dataset are computed without
    these two, or with `labels` or `by`.

    Attributes:
      ood: a folder of rows that are out of distribution; those of the evaluated one are not.
      ood_column: a column of the evaluated folder that says so, see `OodColumn`.
      labels: column of the source: name of a class, or its position.
      by: column of the source, or `shard`: measures of each of its values.
      bins: of the calibration error, at least 1.
      bootstrap: replicates of intervals; 0 is none.
      seed: of them.
    """

    ood: str | None = None
    ood_column: str | None = None
    labels: str | None = None
    by: str | None = None
    bins: int = BINS
    bootstrap: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
          UsageError: for one of them.
        """
        for name, least in (("bins", 1), ("bootstrap", 0), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UsageError(f"{name} must be an integer of at least {least}, got {value!r}")
        if self.ood is not None and self.ood_column is not None:
            raise UsageError("give an out-of-distribution folder or a column, not both")

    @property
    def compares(self) -> bool:
        """Whether scores are compared."""
        return self.ood is not None or self.ood_column is not None

    @property
    def measures(self) -> bool:
        """Whether measures of the dataset are computed."""
        return not self.compares or self.labels is not None or self.by is not None


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """What an evaluation found.

    Attributes:
      metrics: rows of the table `metrics`; () if it was not asked for.
      detectors: rows of the table `detectors`, the best first; likewise.
      notes: what was left out, and the cure.
      exit_code: 0; 143 or 130 after a signal.
    """

    metrics: tuple[Mapping[str, Any], ...] = ()
    detectors: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    exit_code: int = 0


def evaluate(config: ScoreConfig, engine: Engine, settings: EvaluationSettings) -> EvaluateResult:
    """Evaluate an output folder, and write `metrics` and `detectors`.

    Args:
      config: its `out` is the folder.
      engine: runs the pass over its embeddings.
      settings: what is evaluated.

    Raises:
      UsageError: for a folder without the scores it takes, or of another model, or an unknown
        column.
      LedgerError: if files of a folder are missing, damaged, or contradict each other.
      Locked: if another run is writing to the folder.
    """
    started = time.time()
    folder = OutputFolder.open(config.out)
    folder.require_manifest()  # before the lock, which would make the folder
    control = start_control(config, folder, started)
    with stopping_on_signals(control), folder.lock():
        manifest = folder.require_manifest()
        measured: Sequence[Mapping[str, Any]] | None = ()
        detectors: list[dict[str, Any]] = []
        notes: list[str] = []
        if settings.compares:
            detectors, notes = _compare(folder, manifest, settings)
        if settings.measures:
            stage = _metrics_stage(folder, manifest, config, control, settings)
            measured = _measure(stage, folder, engine)
            if measured is None:
                return EvaluateResult(exit_code=exit_code_of(1, control))
            parameters = metrics_parameters(stage)
            _write(folder, manifest, names.DATASET_METRICS, DATASET, measured, parameters)
        if settings.compares:
            _write(folder, manifest, names.DETECTORS, DETECTORS, detectors, asdict(settings))
        write_sql(folder, manifest)
    return EvaluateResult(tuple(measured), tuple(detectors), tuple(notes))


# Measures of the dataset


def _metrics_stage(
    folder: OutputFolder,
    manifest: Manifest,
    config: ScoreConfig,
    control: Any,
    settings: EvaluationSettings,
) -> MetricsStage:
    prompts = folder_prompt_set(manifest, folder.root)
    assert manifest.model is not None and manifest.embeddings is not None
    scored = ScoredFolder(folder, manifest)
    for column in (settings.labels, settings.by):
        if column is not None and not (column == BY_SHARD and column == settings.by):
            scored.require_source_column(column)
    members = read_members(folder)
    scale = folder_logit_scale(folder, manifest, members)
    return MetricsStage(
        out=folder.root,
        run_id=control.run_id,
        device=config.device,
        control=control,
        basis=Basis(manifest.model, manifest.embeddings, scale),
        prompts=prompts,
        shards=len(members),
        bins=settings.bins,
        labels=settings.labels,
        by=settings.by,
    )


def _measure(
    stage: MetricsStage, folder: OutputFolder, engine: Engine
) -> list[dict[str, Any]] | None:
    """Return the rows of `metrics`; None if the run was stopped."""
    report = engine.run(stage, stage.elements(read_members(folder)))
    if report.failed:
        raise LedgerError(
            f"shards {', '.join(report.failed)} kill the worker that reads them, and measures "
            "must be of all; look at the system log"
        )
    if report.value is None:
        return None
    if report.value == "full":
        raise UsageError(
            f"column {stage.by!r} has more than {MOST_GROUPS:,} values; choose one with fewer"
        )
    rows = [
        {**metrics_parameters(stage), **measures, "ece_bins": stage.bins if stage.labels else None}
        for measures in report.value
    ]
    if stage.labels is not None:
        _check_labels(stage, rows)
    else:
        counts = ("labelled_rows", "unlabelled_rows", "unknown_labels")
        rows = [{**row, **dict.fromkeys(counts)} for row in rows]
    return rows


def _check_labels(stage: MetricsStage, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse labels of which none is a class."""
    examples = [row["unknown_example"] for row in rows if row["unknown_example"] is not None]
    if examples and not any(row["labelled_rows"] for row in rows):
        classes = ", ".join(repr(name) for name in stage.prompts.names[:3])
        raise UsageError(
            f"no label in column {stage.labels!r}, such as {min(examples)[:80]!r}, is one of the "
            f"{len(stage.prompts.names):,} classes ({classes}, ...) or a position among them; name "
            "another column, or score with other --classes"
        )


# Scores compared


def _compare(
    folder: OutputFolder, manifest: Manifest, settings: EvaluationSettings
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows of `detectors`, and what was left out."""
    inside = ScoredFolder(folder, manifest)
    if not inside.columns:
        raise UsageError(
            f"{folder.root} holds no scores that tell rows apart; "
            f"compute some: clipsieve score {folder.root} --scorers ood,density"
        )
    if settings.ood_column is not None:
        return _compare_column(inside, OodColumn.parse(settings.ood_column), settings), []
    assert settings.ood is not None
    outside = _other_folder(folder, manifest, settings.ood)
    columns, notes = comparable_columns(inside, outside)
    if not columns:
        raise UsageError("no score is comparable in both folders: " + "; ".join(notes))

    def measure(column: ScoreColumn) -> dict[str, Any]:
        scores = inside.read(column), outside.read(outside.columns[column.name])
        return _detector(column, *scores, outside.folder.root, settings)

    return _ranked(measure, columns), notes


def _compare_column(
    folder: ScoredFolder, column: OodColumn, settings: EvaluationSettings
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
        return _detector(score, values[state == 0], values[state == 1], str(column), settings)

    return _ranked(measure, list(folder.columns.values()))


def _other_folder(folder: OutputFolder, manifest: Manifest, path: str) -> ScoredFolder:
    """Open the out-of-distribution folder.

    Raises:
      UsageError: if it is the same, or of another model.
    """
    other = OutputFolder.open(path)
    known = other.require_manifest()
    if other.root == folder.root:
        raise UsageError(f"{path} is the evaluated folder itself; name another, or --ood-column")
    if known.embeddings != manifest.embeddings:
        models = [f"{e.model} rev={e.revision}" if e else "none" for e in _embeddings(known)]
        own = [f"{e.model} rev={e.revision}" if e else "none" for e in _embeddings(manifest)]
        raise UsageError(
            f"{other.root} has embeddings of {models[0]}, and {folder.root} of {own[0]}: scores of "
            "different models cannot be compared; run one again with the other's model and settings"
        )
    return ScoredFolder(other, known)


def _embeddings(manifest: Manifest) -> tuple[Any]:
    return (manifest.embeddings,)


def comparable_columns(
    inside: ScoredFolder, outside: ScoredFolder
) -> tuple[list[ScoreColumn], list[str]]:
    """Return the columns that one scorer with one revision made in both folders, and why not all.

    Scorers that learnt of different datasets have different revisions.
    """
    columns, reasons = [], {}
    scorers = inside.manifest.scorers()
    for name, column in inside.columns.items():
        other = outside.columns.get(name)
        if other and (other.scorer, other.revision) == (column.scorer, column.revision):
            columns.append(column)
            continue
        entry = scorers.get(column.scorer)
        learnt = entry is not None and entry.learned is not None
        command = f"clipsieve score {outside.folder.root} --scorers {column.scorer}"
        if learnt:
            command += f" --learn-on {inside.folder.root}"
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


def _ranked(measure: Any, columns: Sequence[ScoreColumn]) -> list[dict[str, Any]]:
    """Return what `measure` says of each column, the highest AUROC first, undefined ones last."""
    with ThreadPoolExecutor(_COLUMNS_AT_ONCE, "clipsieve-columns") as pool:
        rows = list(pool.map(measure, columns))
    return sorted(rows, key=lambda row: (row["auroc"] is None, -(row["auroc"] or 0), row["column"]))


def _detector(
    column: ScoreColumn, inside: Any, outside: Any, against: str, settings: EvaluationSettings
) -> dict[str, Any]:
    counts = ScoreCounts.from_scores(inside, outside)
    detection = detect(counts, settings.bootstrap, settings.seed)
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


def _write(
    folder: OutputFolder,
    manifest: Manifest,
    name: str,
    schema: pa.Schema,
    rows: Sequence[Mapping[str, Any]],
    parameters: Mapping[str, Any],
) -> None:
    """Replace a table of `metrics/`; its footer says how it was made, and of which build."""
    footer = {
        footers.LAYOUT: footers.LAYOUT_VERSION,
        footers.FAMILY: name.removesuffix(".parquet"),
        footers.ROWS: str(len(rows)),
        footers.BUILD: manifest.wide.build if manifest.wide is not None else "",
        footers.PARAMETERS: canonical_json(dict(parameters)),
        footers.VERSIONS: canonical_json(
            {each: version(each) for each in ("clipsieve", "numpy", "pyarrow")}
        ),
    }
    table = pa.Table.from_pylist([{n: row.get(n) for n in schema.names} for row in rows], schema)
    folder.write_table(name, table, footer)
