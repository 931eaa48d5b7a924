"""A stage of the work as a value that travels: what a pipeline runs, without the pipeline.

A stage is picklable.  A worker opens it once and hands it elements, which are short texts; every
element yields one report, and reports are added up.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from clipsieve.control import Control
from clipsieve.statistics.counts import RowCounts


@dataclass(frozen=True, slots=True)
class Element:
    """One piece of work.

    Attributes:
      name: of its own: that of the shard it is about, if it is about one.
      text: what a worker is given.
      weight: about how much work it is.
      uri: where it is read, for messages.
    """

    name: str
    text: str
    weight: int = 1
    uri: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What was done with some elements; adding two merges them.

    Attributes:
      done: names of the elements that were dealt with.
      failed: names of those that killed their worker, again and again.
      rows: rows by state, of those that were done.
      value: what the stage makes of them beside its files, or None; values have `+`.
    """

    done: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    rows: RowCounts = field(default_factory=RowCounts)
    value: Any = None

    def __add__(self, other: "Report") -> "Report":
        """Return what was done with the elements of both."""
        values = [value for value in (self.value, other.value) if value is not None]
        value = values[0] + values[1] if len(values) == 2 else values[0] if values else None
        return Report(
            self.done + other.done, self.failed + other.failed, self.rows + other.rows, value
        )

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values; its value must be one."""
        return {
            "done": list(self.done),
            "failed": list(self.failed),
            "rows": self.rows.to_json(),
            "value": self.value,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Report":
        """Return the report that `to_json` gave."""
        rows = RowCounts.from_json(content["rows"])
        return cls(tuple(content["done"]), tuple(content["failed"]), rows, content["value"])


class Stage(Protocol):
    """Work that a pipeline does; frozen and picklable.

    Attributes:
      name: for labels and messages.
      out: the output folder, absolute.
      run_id: the run it belongs to.
      device: `auto`, `cpu`, `cuda` or `cuda:N`.
      control: stop and progress.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def out(self) -> str: ...  # noqa: D102

    @property
    def run_id(self) -> str: ...  # noqa: D102

    @property
    def device(self) -> str: ...  # noqa: D102

    @property
    def control(self) -> Control: ...  # noqa: D102

    def open(self) -> "Worker":
        """Load what the work needs; once a process."""
        ...

    def finish(self, total: Report) -> Report:
        """Keep what all elements together made; the report's value is plain JSON after it."""
        ...


class Worker(Protocol):
    """An opened stage."""

    def work(self, elements: Sequence[str]) -> Iterator[Report]:
        """Do the elements in order, a report for each; begins none once the run is stopped."""
        ...


class Engine(Protocol):
    """What runs stages: the pipelines, on one machine or many.

    Attributes:
      is_local: whether the work runs on this machine.
    """

    @property
    def is_local(self) -> bool: ...  # noqa: D102

    def run(self, stage: Stage, elements: Sequence[Element], here: bool = False) -> Report:
        """Run a stage over all elements and return the sum of their reports.

        Args:
          stage: what to do.
          elements: with different names.
          here: in this process even if there are others.

        Raises:
          LedgerError: if elements were lost although nothing stopped the run.
        """
        ...


@dataclass(frozen=True, slots=True)
class WrappedStage:
    """What a stage that wraps another has of it.

    Attributes:
      stage: the other.
    """

    stage: Stage

    @property
    def name(self) -> str:
        """Name of the stage."""
        return self.stage.name

    @property
    def out(self) -> str:
        """Output folder of the stage."""
        return self.stage.out

    @property
    def run_id(self) -> str:
        """Run of the stage."""
        return self.stage.run_id

    @property
    def device(self) -> str:
        """Device of the stage."""
        return self.stage.device

    @property
    def control(self) -> Control:
        """Stop and progress of the stage."""
        return self.stage.control


def on_device(stage: Any, device: str) -> Any:
    """Return the same stage for another device."""
    return replace(stage, device=device)
