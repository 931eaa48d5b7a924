"""One worker process of `--workers N`: a stage over its share, progress as JSON lines.

    python -m clipsieve.pipelines.worker STAGE GROUPS REPORT NUMBER

The files are those of `clipsieve.job.workers.WorkerFiles`.  The process ends at once when standard
input closes: the process that started it is gone, and with it the lock on the output folder.
"""

import json
import os
import pickle
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipsieve.control import Control
from clipsieve.errors import ClipsieveError
from clipsieve.job.signals import stopping_on_sigterm
from clipsieve.job.workers import write_report
from clipsieve.pipelines.run_stage import run_groups
from clipsieve.stage import Report, Stage, Worker, WrappedStage, on_device
from clipsieve.store.folder import OutputFolder
from clipsieve.terminal import escape_stream


@dataclass(frozen=True, slots=True)
class ReportingStage(WrappedStage):
    """The same stage, whose reports are also kept in a file, as they come; finishes nothing.

    Attributes:
      stage: what to do.
      path: the file.
    """

    path: str

    def open(self) -> Worker:
        """Open the stage."""
        return _ReportingWorker(self.stage.open(), Path(self.path))

    def finish(self, total: Report) -> Report:
        """Leave finishing to the driver, which adds up what all workers report."""
        return replace(total, value=None)


class _ReportingWorker:
    def __init__(self, worker: Worker, path: Path) -> None:
        self._worker, self._path = worker, path

    def work(self, elements: Sequence[str]) -> Iterator[Report]:
        for report in self._worker.work(elements):
            write_report(self._path, report)
            yield replace(report, value=None)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage over its groups, one after the other."""
    stage_file, groups_file, report_file, number = sys.argv[1:] if argv is None else argv
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        stage: Stage = pickle.loads(Path(stage_file).read_bytes())
    except Exception as error:  # of any kind: a class of a module that is not installed here
        return _failed(error)
    groups: list[list[str]] = json.loads(Path(groups_file).read_text(encoding="utf-8"))
    control = stage.control
    # The marker in the folder is for other machines; here signals tell.
    control = Control(control.run_id, control.out, control.deadline, _send, control.key)
    stage = on_device(stage, _own_device(stage.device, int(number)))
    with stopping_on_sigterm(control):
        try:
            with OutputFolder.open(stage.out).files.staying():
                for group in groups:
                    if not control.stopped:
                        run_groups(ReportingStage(stage, report_file), [group])
        except ClipsieveError as error:
            _send({"error": str(error), "exit_code": error.exit_code})
            return error.exit_code
        except Exception as error:  # of a plug-in, or a defect: the run ends with it, as with one
            return _failed(error)
    _send({"meter": control.snapshot().to_json()})
    return 0


def _failed(error: Exception) -> int:
    """Tell who started this process of an unexpected error; the exit code."""
    traceback.print_exc()
    _send({"error": f"{type(error).__name__}: {error}", "exit_code": 1})
    return 1


def _own_device(device: str, number: int) -> str:
    """Return a device of the worker's own, where there are several GPUs."""
    if device not in ("auto", "cuda"):
        return device
    import torch

    if not torch.cuda.is_available():
        return device
    return f"cuda:{number % torch.cuda.device_count()}"


def _exit_with_parent() -> None:
    """End the process, whatever it is doing, when standard input closes."""
    # Not through sys.stdin: its lock would abort the interpreter when the process ends by itself.
    while os.read(0, 4096):
        pass
    os._exit(1)


def _send(message: dict[str, Any]) -> None:
    """Write one line to the process that started this one."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    escape_stream("stderr")
    sys.exit(main())
