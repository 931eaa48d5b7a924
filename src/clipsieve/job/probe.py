"""One element of work that tells what a worker is: its device, number format, weights, reach.

The driver never loads the model.  On an engine of other machines it plans with what the probe
reports, since it may have neither the weights nor the device.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clipsieve.clip.identity import ModelIdentity
from clipsieve.control import Control
from clipsieve.errors import LedgerError, UsageError
from clipsieve.job.attempts import worker_name
from clipsieve.job.reach import REACH_CURE, input_problems, output_problem
from clipsieve.stage import Element, Engine, Report, Worker
from clipsieve.versions import installed


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker is.

    Attributes:
      model: the model under the name that was asked for; its `dtype` is the one chosen there.
      device: where it computes.
      notes: what to tell the user.
      versions: of everything that can change a number.
      problems: inputs that cannot be read, an output folder that cannot be written to.
      worker: its host and process id.
    """

    model: ModelIdentity
    device: str
    notes: tuple[str, ...]
    versions: Mapping[str, str]
    problems: tuple[str, ...] = ()
    worker: str = ""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "WorkerReport":
        """Return the report that `asdict` gave."""
        return cls(
            ModelIdentity(**content["model"]),
            content["device"],
            tuple(content["notes"]),
            content["versions"],
            tuple(content["problems"]),
            content["worker"],
        )


@dataclass(frozen=True, slots=True)
class ProbeStage:
    """Looks at the worker it runs on.

    Attributes:
      out: the output folder, absolute.
      run_id: the run.
      device: `auto`, `cpu`, `cuda` or `cuda:N`.
      control: stop and progress.
      model: name of the model.
      pretrained: its tag or weights file.
      dtype: number format; `auto` is measured on the worker.
      is_remote: whether reach is in question: another machine may not have the same files.
      inputs: some of the sources to be read.
    """

    out: str
    run_id: str
    device: str
    control: Control
    model: str
    pretrained: str | None
    dtype: str
    is_remote: bool = True
    inputs: tuple[str, ...] = ()
    name = "probe"

    def open(self) -> Worker:
        """Load nothing yet."""
        return _ProbeWorker(self)

    def finish(self, total: Report) -> Report:
        """Nothing is left to do."""
        return total


class _ProbeWorker:
    def __init__(self, stage: ProbeStage) -> None:
        self._stage = stage

    def work(self, elements: Sequence[str]) -> Iterator[Report]:
        from clipsieve.clip.open import open_model

        stage = self._stage
        for name in elements:
            model = open_model(stage.model, stage.pretrained, stage.device, stage.dtype)
            report = WorkerReport(
                model=model.identity,
                device=str(model.device),
                notes=model.notes,
                versions=installed(),
                problems=tuple(self._problems()) if stage.is_remote else (),
                worker=worker_name(),
            )
            yield Report((name,), value=json.loads(json.dumps(asdict(report))))

    def _problems(self) -> Iterator[str]:
        yield from input_problems(self._stage.inputs)
        problem = output_problem(self._stage.out)
        if problem is not None:
            yield problem


def probe(engine: Engine, stage: ProbeStage) -> WorkerReport:
    """Look at one worker of `engine`.

    Raises:
      UsageError: if the worker cannot read the inputs or write the output.
      DeviceError: if it lacks the device.
      LedgerError: if the engine lost the only element.
    """
    total = engine.run(stage, [Element("probe", "probe")])
    if total.value is None:
        raise LedgerError("the engine ended without a report of its worker; use another runner")
    report = WorkerReport.from_json(total.value)
    if report.problems:
        raise UsageError(f"on worker {report.worker} {'; '.join(report.problems)}; {REACH_CURE}")
    return report
