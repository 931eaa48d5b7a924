"""What a command leaves for the scheduler that started it: exit code, result file, metrics file.

They are written however the command ends, short of a kill.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipsieve.errors import ClipsieveError, StorageError
from clipsieve.job.prometheus import RunGauges, write_metrics
from clipsieve.job.reporter import Reporter
from clipsieve.settings import ExecutionSettings
from clipsieve.sql.checks import CheckResult, run_check
from clipsieve.store.files import LocalFiles
from clipsieve.store.folder import OutputFolder
from clipsieve.terminal import json_text

EXIT_FAILED_CHECK = 4


@dataclass(slots=True)
class Outcome:
    """How a command ends, as far as it is known.

    Attributes:
      result: values of the `result` event; empty until there is one.
      exit_code: with which it ends.
    """

    result: Mapping[str, Any] = field(default_factory=dict)
    exit_code: int = 0


@contextmanager
def left_outcome(
    config: ExecutionSettings, command: str, out: str, reporter: Reporter
) -> Iterator[Outcome]:
    """Within the block a command runs, and sets the outcome; its files are written at the end.

    An error that ends the block is written to them too, and reported, if events are JSON.

    Args:
      config: names the files.
      command: its name.
      out: its output folder, as it was given.
      reporter: of the command.

    Raises:
      StorageError: if a file cannot be written and the command has not failed otherwise.
    """
    started = time.time()
    outcome = Outcome()
    try:
        yield outcome
    except BaseException as error:
        code = _exit_code(error)
        text = str(error) or type(error).__name__
        fields = {"command": command, "exit_code": code, "error": text}
        if isinstance(error, ClipsieveError) and reporter.json and not error.is_reported:
            reporter.report("error", text, **fields)
            error.is_reported = True
        try:
            _write(config, command, out, reporter, fields, "error", started)
        except StorageError as problem:  # the first error says more
            error.add_note(str(problem))
        raise
    content = {"command": command, **outcome.result, "exit_code": outcome.exit_code}
    _write(config, command, out, reporter, content, "result", started)


def run_checks(config: ExecutionSettings, folder: OutputFolder) -> tuple[CheckResult, ...]:
    """Evaluate the conditions of `fail_if` on what is written.

    Raises:
      KeyboardInterrupt: after SIGINT.
    """
    return tuple(run_check(folder.root, check) for check in config.fail_if)


def _write(
    config: ExecutionSettings,
    command: str,
    out: str,
    reporter: Reporter,
    content: Mapping[str, Any],
    event: str,
    started: float,
) -> None:
    """Write the files that the settings name."""
    seconds = round(time.time() - started, 3)
    if config.result_file is not None:
        head = {"time": round(time.time(), 3), "event": event, "run_id": reporter.run_id}
        _replace(config.result_file, json_text({**head, **content}, indent=1) + "\n")
    if config.metrics_file is not None:
        checks = content.get("checks", ())
        new_rows = content.get("new_counts", {})
        encode_seconds = content.get("encode_seconds", 0.0)
        rate = sum(new_rows.values()) / encode_seconds if new_rows and encode_seconds else None
        gauges = RunGauges(
            command,
            OutputFolder.open(out).root,
            content["exit_code"],
            seconds,
            content.get("counts", {}),
            new_rows,
            _shards(content),
            rate,
            sum(check["failed"] for check in checks),
        )
        write_metrics(config.metrics_file, gauges)


def _shards(content: Mapping[str, Any]) -> dict[str, int]:
    """Return shards by what became of them; empty if a command did not come so far."""
    counts = {}
    for name in ("done", "skipped", "failed", "left"):
        value = content.get(name)
        if value is not None:
            counts[name] = value if isinstance(value, int) else len(value)
    return counts


def _exit_code(error: BaseException) -> int:
    if isinstance(error, ClipsieveError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return 1


def _replace(path: str, text: str) -> None:
    """Replace a file that readers see whole, before or after.

    Raises:
      StorageError: if it cannot be written.
    """
    target = Path(path)
    with LocalFiles(target.parent).writing(target.name, durable=False) as temporary:
        temporary.write_text(text, encoding="utf-8")
