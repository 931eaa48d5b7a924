"""The metrics file of a command: Prometheus' textfile format, for node_exporter."""

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile
from prometheus_client.parser import text_string_to_metric_families

from clipsieve.errors import StorageError

LABELS = ("command", "out")
LAST_SUCCESS = "clipsieve_last_success_timestamp_seconds"


@dataclass(frozen=True, slots=True)
class RunGauges:
    """What the metrics file says of a command that ended.

    Attributes:
      command: its name.
      out: its output folder.
      exit_code: with which it ends.
      seconds: from start to end.
      rows: rows by state of all shards of its input; empty if it did not come so far.
      new_rows: likewise, of the shards that it wrote.
      shards: how many are done, skipped, failed and left.
      rows_per_second: rows written by the second of the embed stage; None without any.
      failed_checks: conditions of `fail_if` that hold.
    """

    command: str
    out: str
    exit_code: int
    seconds: float
    rows: Mapping[str, int] = field(default_factory=dict)
    new_rows: Mapping[str, int] = field(default_factory=dict)
    shards: Mapping[str, int] = field(default_factory=dict)
    rows_per_second: float | None = None
    failed_checks: int = 0


def write_metrics(path: str, gauges: RunGauges) -> None:
    """Replace a metrics file; the time of the last success is kept if this is none.

    Raises:
      StorageError: if it cannot be written.
    """
    registry = CollectorRegistry()
    known: dict[str, Gauge] = {}
    now = time.time()
    success = now if gauges.exit_code == 0 else _last_success(path, gauges)
    for name, doc, value, labels in _samples(gauges, now, success):
        if name not in known:
            known[name] = Gauge(name, doc, (*LABELS, *labels), registry=registry)
        known[name].labels(gauges.command, gauges.out, *labels.values()).set(value)
    try:
        write_to_textfile(path, registry)
        os.chmod(path, 0o644)  # the exporter runs as another user
    except OSError as error:
        raise StorageError(
            f"metrics file {path} cannot be written ({error.strerror or error}); what the command "
            "did is kept"
        ) from error


def _samples(
    gauges: RunGauges, now: float, success: float | None
) -> Iterator[tuple[str, str, float, Mapping[str, str]]]:
    """Yield name, meaning, value, and labels beside `LABELS`."""
    for state, rows in sorted(gauges.rows.items()):
        yield "clipsieve_rows", "Rows of the input in the ledger, by state", rows, {"state": state}
    for state, rows in sorted(gauges.new_rows.items()):
        yield "clipsieve_new_rows", "Rows written by the last run", rows, {"state": state}
    for state, count in gauges.shards.items():
        yield (
            "clipsieve_shards",
            "Shards of the input, by what became of them",
            count,
            {"state": state},
        )
    if gauges.rows_per_second is not None:
        yield "clipsieve_rows_per_second", "Rows embedded a second", gauges.rows_per_second, {}
    yield "clipsieve_duration_seconds", "Length of the last run", gauges.seconds, {}
    yield "clipsieve_exit_code", "Exit code of the last run", gauges.exit_code, {}
    yield "clipsieve_failed_checks", "Conditions of --fail-if that hold", gauges.failed_checks, {}
    yield "clipsieve_last_run_timestamp_seconds", "When the last run ended", now, {}
    if success is not None:
        yield LAST_SUCCESS, "When a run last ended with exit code 0", success, {}


def _last_success(path: str, gauges: RunGauges) -> float | None:
    """Return the time of the last success that an earlier file has; None if it has none."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        families = list(text_string_to_metric_families(text))
    except (OSError, ValueError):
        return None
    labels = {"command": gauges.command, "out": gauges.out}
    samples = (sample for family in families for sample in family.samples)
    return next((s.value for s in samples if s.name == LAST_SUCCESS and s.labels == labels), None)
