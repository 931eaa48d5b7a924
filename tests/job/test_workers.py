"""The watchdog, with real processes and a stage that needs no model."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from clipsieve.control import Control
from clipsieve.errors import ClipsieveError
from clipsieve.job.workers import WORKER_MODULE
from clipsieve.pipelines.engine import BeamEngine
from clipsieve.stage import Element, Report, Worker
from clipsieve.store.folder import OutputFolder
from clipsieve.store.records import FAILED, read_records


@dataclass(frozen=True, slots=True)
class Troubled:
    """A stage whose worker does `trouble` at the element "b", or what the element is called."""

    out: str
    run_id: str
    control: Control
    trouble: str
    device: str = "cpu"
    name: str = "troubled"

    def open(self) -> Worker:
        if self.trouble == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        return self

    def work(self, elements: Sequence[str]) -> Iterator[Report]:
        for name in elements:
            if self.control.stopped:
                return
            self.control.begin(name)
            value: object = None
            if name not in ("a", "c"):
                value = self.make_trouble(self.trouble if name == "b" else name)
            self.control.end(name)
            yield Report((name,), value=value)

    def make_trouble(self, trouble: str) -> object:
        if trouble == "raises":
            raise ValueError("of this plug-in")
        if trouble == "prints":
            print(7, "[1]", '"text"', sep="\n", flush=True)
        if trouble == "steers":
            print("\x1b[2J\udcff", flush=True)
            print("\x1b[3J", file=sys.stderr)
            raise ValueError("\x1b[4J")
        if trouble == "is interrupted":
            os.kill(os.getpid(), signal.SIGINT)
        if trouble == "cannot be pickled":
            return lambda: None
        if trouble == "stops":
            Path(self.out, "begun").touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        if trouble == "waits once" and not os.path.exists(f"{self.out}/waited"):
            Path(self.out, "waited").touch()
            time.sleep(300)
        if trouble == "steps":
            for _ in range(15):
                time.sleep(SHORT_STALL / 10)
                self.control.step()
        return None

    def finish(self, total: Report) -> Report:
        return total


def stop_once(control: Control, begun: Path) -> None:
    while not begun.exists():
        time.sleep(0.01)
    control.stop("SIGTERM")


#: Longer than any wait of a process that starts on a busy machine.
SHORT_STALL = 1.5


def run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
    elements: Sequence[str] = "abc",
    stop: bool = False,
) -> Report:
    """Run the stage over `elements` in one worker; `stop`: until a worker stands still."""
    root = str(Path(__file__).resolve().parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(root)
    out = str(tmp_path / "out")
    (tmp_path / "out").mkdir()
    stage = Troubled(out, "r", Control("r", out), trouble)
    if stop:
        threading.Thread(target=stop_once, args=(stage.control, Path(out, "begun"))).start()
    # A process starts as slowly as the machine is busy, and reports nothing meanwhile.
    monkeypatch.setattr("clipsieve.job.activity.PATIENCE", 200)
    engine = BeamEngine(stall=SHORT_STALL)  # one worker is watched too, if that is given
    return engine.run(stage, [Element(name, name) for name in elements])


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


def failures(tmp_path: Path) -> dict[str, str | None]:
    records = read_records(OutputFolder.open(tmp_path / "out"), "r")
    return {record.shard: record.error for record in records if record.state == FAILED}


def test_a_stuck_worker_is_killed_and_a_slow_one_is_left_alone(tmp_path, monkeypatch):
    names = ["a", "steps", "waits once", "stops"]
    total = run(tmp_path, monkeypatch, "", names)
    assert (sorted(total.done), total.failed) == (sorted(names[:-1]), ("stops",))
    assert failures(tmp_path) == {
        "stops": "stops: the worker did nothing for 1.5s on this shard, also when it was alone, "
        "and was killed; see whether the file can be read, or give a longer --stall"
    }


def test_a_worker_that_hangs_after_the_run_was_stopped_is_killed(tmp_path, monkeypatch):
    total = run(tmp_path, monkeypatch, "", ["stops", "a"], stop=True)
    assert (total.done, total.failed) == ((), ())
    assert failures(tmp_path) == {}, "it was not tried alone"


def test_workers_killed_before_their_first_shard_say_what_may_have_killed_them(
    tmp_path, monkeypatch
):
    with pytest.raises(ClipsieveError) as error:
        run(tmp_path, monkeypatch, "dies")
    assert str(error.value) == (
        "worker 0: was killed 3 times before its first shard (signal 9), by the system if memory "
        "ran out: each of 1 workers holds a model; use fewer --workers, a smaller --batch-size, "
        "or look at the system log"
    )


def test_a_stage_that_a_worker_cannot_read_says_so(tmp_path):
    (tmp_path / "stage").write_bytes(b"cno_such_module\nStage\n.")
    words = [str(tmp_path / name) for name in ("stage", "groups", "report")]
    with subprocess.Popen(
        [sys.executable, "-m", WORKER_MODULE, *words, "0"],
        stdin=subprocess.PIPE,  # open: a worker ends with who started it
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        assert process.wait() == 1
    error = "ModuleNotFoundError: No module named 'no_such_module'"
    assert said == {"error": error, "exit_code": 1}
