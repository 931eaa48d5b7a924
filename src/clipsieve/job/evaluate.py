"""Evaluate a folder: measures of its dataset, and of the scores that detect outliers."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from clipsieve.errors import LedgerError, UsageError
from clipsieve.evaluation.dataset import BINS
from clipsieve.evaluation.groups import MOST_GROUPS
from clipsieve.job.detectors import Comparison, compare
from clipsieve.job.score_columns import ScoredFolder
from clipsieve.job.signals import exit_code_of, start_control, stopping_on_signals
from clipsieve.schemas import footers
from clipsieve.schemas.metrics import DATASET, DETECTORS
from clipsieve.scoring.learn import Basis, folder_logit_scale
from clipsieve.scoring.metrics import (
    BY_SHARD,
    MetricsStage,
    class_scorer,
    folder_classes,
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
        for name, least, most in (
            ("bins", 1, 10_000),
            ("bootstrap", 0, 1_000_000),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UsageError(f"{name} must be an integer of at least {least}, got {value!r}")
            if value > most:
                raise UsageError(f"{name} must be at most {most:,}, got {value}")
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


def evaluate(
    config: ScoreConfig, open_engine: Callable[[], Engine], settings: EvaluationSettings
) -> EvaluateResult:
    """Evaluate an output folder, and write `metrics` and `detectors`.

    Args:
      config: its `out` is the folder.
      open_engine: returns what runs the pass over its embeddings; called if there is one.
      settings: what is evaluated.

    Raises:
      UsageError: for a folder without the scores it takes, or of another model, or an unknown
        column.
      LedgerError: if files of a folder are missing, damaged, or contradict each other.
      Locked: if another run is writing to the folder.
    """
    started = time.time()
    comparison = Comparison(settings.ood, settings.ood_column, settings.bootstrap, settings.seed)
    folder = OutputFolder.open(config.out)
    folder.require_manifest()  # before the lock, which would make the folder
    control = start_control(config, folder, started)
    with stopping_on_signals(control), folder.lock(config.lock_terms(), control.stop):
        manifest = folder.require_manifest()
        folder.sweep()
        measures: Sequence[Mapping[str, Any]] = ()
        detectors: Sequence[Mapping[str, Any]] = ()
        notes: Sequence[str] = ()
        if settings.compares:
            detectors, notes = compare(folder, manifest, comparison, lambda: control.stopped)
            if control.stopped:
                return EvaluateResult(exit_code=exit_code_of(1, control))
        if settings.measures:
            stage = _metrics_stage(folder, manifest, config, control, settings)
            measured = _measure(stage, folder, open_engine())
            if measured is None:
                return EvaluateResult(exit_code=exit_code_of(1, control))
            measures, parameters = measured, metrics_parameters(stage)
            _write(folder, manifest, names.DATASET_METRICS, DATASET, measured, parameters)
        if settings.compares:
            _write(folder, manifest, names.DETECTORS, DETECTORS, detectors, asdict(comparison))
        write_sql(folder, manifest)
    return EvaluateResult(tuple(measures), tuple(detectors), tuple(notes))


# Measures of the dataset


def _metrics_stage(
    folder: OutputFolder,
    manifest: Manifest,
    config: ScoreConfig,
    control: Any,
    settings: EvaluationSettings,
) -> MetricsStage:
    classes = folder_classes(manifest, folder.root)
    assert manifest.model is not None and manifest.embeddings is not None
    members = read_members(folder)
    if not members:
        raise UsageError(f"{folder.root} holds no shard yet; run `clipsieve run` first")
    scored = ScoredFolder(folder, manifest)
    for column in (settings.labels, settings.by):
        if column is not None and not (column == BY_SHARD and column == settings.by):
            scored.require_source_column(column)
    scale = folder_logit_scale(folder, manifest, members)
    return MetricsStage(
        out=folder.root,
        run_id=control.run_id,
        device=config.device,
        control=control,
        basis=Basis(manifest.model, manifest.embeddings, scale),
        classes=classes,
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
        names = class_scorer(stage.classes).prompt_set.names
        classes = ", ".join(repr(name) for name in names[:3])
        raise UsageError(
            f"no label in column {stage.labels!r}, such as {min(examples)[:80]!r}, is one of the "
            f"{len(names):,} classes ({classes}, ...) or a position among them; name "
            "another column, or score with other --classes"
        )


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
