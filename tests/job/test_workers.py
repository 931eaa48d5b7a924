"""The watchdog, with real processes and a stage that needs no model."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from clipsieve.control import Control
from clipsieve.errors import ClipsieveError
from clipsieve.job.workers import run_in_workers
from clipsieve.stage import Element, Report, Worker


@dataclass(frozen=True, slots=True)
class Troubled:
    """A stage whose worker does `trouble` at the element "b"."""

    out: str
    run_id: str
    control: Control
    trouble: str
    device: str = "cpu"
    name: str = "troubled"

    def open(self) -> Worker:
        return self

    def work(self, elements: Sequence[str]) -> Iterator[Report]:
        for name in elements:
            self.control.begin(name)
            value: object = None
            if name == "b":
                value = self.make_trouble()
            self.control.end(name)
            yield Report((name,), value=value)

    def make_trouble(self) -> object:
        if self.trouble == "raises":
            raise ValueError("of this plug-in")
        if self.trouble == "prints":
            print(7, "[1]", '"text"', sep="\n", flush=True)
            return None
        if self.trouble == "steers":
            print("\x1b[2J\udcff", flush=True)
            print("\x1b[3J", file=sys.stderr)
            raise ValueError("\x1b[4J")
        if self.trouble == "is interrupted":
            os.kill(os.getpid(), signal.SIGINT)
            return None
        return lambda: None

    def finish(self, total: Report) -> Report:
        return total


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str) -> Report:
    root = str(Path(__file__).resolve().parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(root)
    out = str(tmp_path / "out")
    (tmp_path / "out").mkdir()
    stage = Troubled(out, "r", Control("r", out), trouble)
    return run_in_workers(stage, [Element(name, name) for name in "abc"], 1)


def test_an_exception_ends_the_run_with_its_message_and_is_not_taken_for_a_crash(
    tmp_path, monkeypatch
):
    with pytest.raises(ClipsieveError, match="worker 0: ValueError: of this plug-in"):
        run(tmp_path, monkeypatch, "raises")
    assert not list((tmp_path / "out").rglob("*.json")), "a failed record was written"


def test_a_report_that_cannot_be_kept_ends_the_run(tmp_path, monkeypatch):
    with pytest.raises(ClipsieveError, match=r"worker 0: .*pickle"):
        run(tmp_path, monkeypatch, "cannot be pickled")


def test_what_a_plugin_prints_is_no_message(tmp_path, monkeypatch, capfd):
    total = run(tmp_path, monkeypatch, "prints")
    assert sorted(total.done) == ["a", "b", "c"]
    assert capfd.readouterr().err.splitlines()[-3:] == ["7", "[1]", '"text"']


def test_what_a_worker_writes_does_not_steer_a_terminal(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:surrogateescape")
    with pytest.raises(ClipsieveError, match="worker 0: ValueError: \x1b"):
        run(tmp_path, monkeypatch, "steers")
    err = capfd.readouterr().err
    assert "\x1b" not in err
    assert all(text in err for text in ("\\x1b[2J\\xff", "\\x1b[3J", "ValueError: \\x1b[4J"))


def test_an_interrupt_of_the_terminal_is_left_to_the_driver(tmp_path, monkeypatch):
    total = run(tmp_path, monkeypatch, "is interrupted")
    assert sorted(total.done) == ["a", "b", "c"]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
