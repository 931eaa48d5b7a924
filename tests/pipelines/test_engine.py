"""The engine: every element is dealt with once, or somebody is told."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from clipsieve.control import Control, stop_marker
from clipsieve.errors import LedgerError
from clipsieve.pipelines import remote
from clipsieve.pipelines.engine import BeamEngine
from clipsieve.stage import Element, Report, Worker
from clipsieve.statistics.counts import RowCounts
from clipsieve.store.folder import OutputFolder
from tests.pipelines.jobs import wait_for

ELEMENTS = [Element(name, name) for name in "abcde"]


@dataclass(frozen=True)
class Count:
    """Counts; its value is a sum of characters."""

    characters: int

    def __add__(self, other: "Count") -> "Count":
        return Count(self.characters + other.characters)


@dataclass(frozen=True, slots=True)
class Repeating:
    """A stage that reports each element so many times; it stops before `stop`."""

    out: str
    run_id: str
    control: Control
    times: Mapping[str, int] = field(default_factory=dict)
    stop: str = ""
    device: str = "cpu"
    name: str = "repeating"

    def open(self) -> Worker:
        return self

    def work(self, elements: Sequence[str]) -> Iterator[Report]:
        for name in elements:
            if name == self.stop:
                self.control.stop("SIGTERM")
            if self.control.stopped:
                return
            for _ in range(self.times.get(name, 1)):
                yield Report((name,), rows=RowCounts({"ok": 2}, 1), value=Count(len(name)))

    def finish(self, total: Report) -> Report:
        count = 0 if total.value is None else total.value.characters
        return Report(total.done, total.failed, total.rows, {"characters": count})


def repeating(tmp_path, **changes) -> Repeating:
    out = str(tmp_path / "out")
    return Repeating(out, "r", Control("r", out), **changes)


def test_reports_are_added_up_and_finished_once(tmp_path):
    total = BeamEngine().run(repeating(tmp_path), ELEMENTS)
    assert sorted(total.done) == list("abcde")
    assert (total.rows, total.value) == (RowCounts({"ok": 10}, 5), {"characters": 5})
    assert not any((tmp_path / "out").rglob("*.tmp*")), "the report stays behind"


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ({"c": 0}, "1 of 5 elements lost and 0 doubled"),
        (dict.fromkeys("abcde", 0), "5 of 5 elements lost and 0 doubled"),
        ({"b": 2, "d": 3}, "0 of 5 elements lost and 3 doubled"),
        ({"a": 0, "b": 2}, "1 of 5 elements lost and 1 doubled"),
    ],
)
def test_elements_that_are_lost_or_doubled_are_noticed(tmp_path, times, message):
    with pytest.raises(LedgerError, match=f"runner FnApiRunner ended stage repeating .* {message}"):
        BeamEngine().run(repeating(tmp_path, times=times), ELEMENTS)


def test_what_a_stopped_run_leaves_is_not_lost(tmp_path):
    assert sorted(BeamEngine().run(repeating(tmp_path, stop="c"), ELEMENTS).done) == ["a", "b"]
    with pytest.raises(LedgerError, match="1 doubled"):
        BeamEngine().run(repeating(tmp_path, stop="c", times={"a": 2}), ELEMENTS)


def test_workers_on_other_machines_are_told_of_a_stop_until_the_stage_has_ended(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(remote, "LOOK_SECONDS", 0.01)
    stage = repeating(tmp_path)
    files = OutputFolder.open(stage.out).files
    with remote.announced_stop(stage):
        assert not files.exists(stop_marker("r"))
        stage.control.stop("SIGTERM")
        wait_for(lambda: files.exists(stop_marker("r")), "the marker", 10)
    assert not files.exists(stop_marker("r"))
