"""A stage on workers elsewhere: markers, suspects, errors, and what a worker checks of itself."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from clipsieve.clip.model import identify
from clipsieve.control import Control
from clipsieve.embed.job import EmbedStage, Limits
from clipsieve.errors import ClipsieveError, UsageError
from clipsieve.formats.base import ReadOptions
from clipsieve.formats.registry import plan_input
from clipsieve.job.attempts import Attempts, Deaths, attempts_folder, clear_attempts, worker_name
from clipsieve.job.guarded import GuardedStage, guard, release
from clipsieve.job.worker_errors import left_error
from clipsieve.stage import Report
from clipsieve.store.files import LocalFiles
from clipsieve.store.folder import OutputFolder
from clipsieve.store.records import FAILED, read_records
from tests.engines.stages import Eventful
from tests.pipelines.jobs import write_one


@pytest.fixture
def out(tmp_path) -> Iterator[str]:
    yield str(tmp_path / "out")
    release()


def eventful(out: str) -> Eventful:
    return Eventful(out, "r", Control("r", out))


def work(stage: Any, *texts: str, inputs: tuple[str, ...] = ()) -> list[Report]:
    """What a worker process does with one group."""
    worker = GuardedStage(stage, uuid4().hex, inputs).open()
    return list(worker.work([guard(element).text for element in stage.elements(*texts)]))


def markers(out: str) -> list[str]:
    return OutputFolder.open(out).files.list_files(attempts_folder("r"))


def die(out: str, *shards: str, alone: bool = False) -> None:
    """Leave what a worker leaves that dies with these shards in hand."""
    attempts = Attempts(OutputFolder.open(out), "r", "eventful")
    attempts.is_alone = alone
    for shard in shards:
        attempts.begin(shard)


def test_a_suspect_is_worked_on_after_the_others_and_is_then_no_suspect_any_more(out):
    die(out, "a", "c")
    done = [report.done for report in work(eventful(out), "a", "b", "c", "d")]
    assert done == [("b",), ("d",), ("a",), ("c",)]
    assert markers(out) == []


def test_a_shard_on_which_two_workers_died_alone_is_not_begun(out):
    die(out, "a")
    die(out, "a", alone=True)
    assert [report.done for report in work(eventful(out), "a")] == [("a",)]
    for _ in range(2):
        die(out, "a", alone=True)
    (report,) = work(eventful(out), "a:kill")
    assert report == Report(failed=("a",))
    record = next(r for r in read_records(OutputFolder.open(out), "r") if r.state == FAILED)
    assert record.error is not None and f"died on this shard ({worker_name()})" in record.error


def test_a_stopped_run_acquits_nobody(out):
    die(out, "a")
    stage = eventful(out)
    stage.control.deadline = 0.0
    assert work(stage, "a", "b") == []
    assert len(markers(out)) == 1


def test_a_worker_that_raises_lives_and_blames_nothing(out):
    with pytest.raises(ValueError, match="no value"):
        work(eventful(out), "a", "b:ValueError")
    assert [name for name in markers(out) if not name.startswith("error-")] == []
    error = left_error(OutputFolder.open(out), "r")
    assert type(error) is ClipsieveError
    assert str(error).startswith(f"worker {worker_name()} with shard b in hand: ValueError: no val")
    clear_attempts(OutputFolder.open(out))
    assert markers(out) == [] and left_error(OutputFolder.open(out), "r") is None


def test_markers_tell_a_driver_of_new_deaths(out):
    deaths = Deaths(OutputFolder.open(out), "r")
    assert not deaths.any_new()
    die(out, "a")
    assert deaths.any_new() and not deaths.any_new()


def test_a_shard_costs_two_requests_and_a_group_one(out, monkeypatch):
    asked: list[tuple[str, str]] = []
    for method in ("writing", "delete", "list_files"):
        monkeypatch.setattr(LocalFiles, method, counted(asked, method))
    work(eventful(out), "a", "b", "c")
    place = attempts_folder("r")
    assert sorted(m for m, name in asked if name.startswith(place)) == [
        *["delete"] * 3,
        "list_files",
        *["writing"] * 3,
    ]


def counted(asked: list[tuple[str, str]], method: str) -> Callable[..., Any]:
    real = getattr(LocalFiles, method)

    def call(files: LocalFiles, name: str, *args: Any, **options: Any) -> Any:
        asked.append((method, name))
        return real(files, name, *args, **options)

    return call


def test_inputs_none_of_which_can_be_read_end_the_run_and_one_that_is_gone_does_not(out, tmp_path):
    (tmp_path / "there").touch()
    there, gone = str(tmp_path / "there"), str(tmp_path / "gone")
    assert len(work(eventful(out), "a", inputs=(gone, there))) == 1
    with pytest.raises(
        UsageError, match=r"gone does not exist there; make inputs and output reach"
    ):
        work(eventful(out), "a", inputs=(gone,))
    error = left_error(OutputFolder.open(out), "r")
    assert isinstance(error, UsageError) and str(error).startswith(f"worker {worker_name()}: input")


def test_an_output_folder_that_cannot_be_written_to_ends_the_run(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(UsageError, match=r"output folder \S+/out cannot be written to"):
        work(eventful(str(tmp_path / "out")), "a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights_sha256": "0" * 64}, "the folder was planned with 000000000000"),
        ({"device": "cuda"}, "device 'cuda' was asked for"),
    ],
)
def test_a_worker_with_other_weights_or_no_device_refuses_before_its_first_shard(
    out, tmp_path, monkeypatch, change, message
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    write_one(tmp_path / "source", "a", 5, seed=1)
    plan = plan_input((f"{tmp_path}/source/*.parquet",), ReadOptions())
    model, _ = identify("tiny", None, "float32")
    device = change.pop("device", "cpu")
    model = dataclasses.replace(model, **change)
    stage = EmbedStage(out, "r", device, Control("r", out), model, plan.source, Limits(1, 1, 1))
    worker = GuardedStage(stage, uuid4().hex, (plan.items[0].uri,)).open()
    texts = [guard(element).text for element in stage.elements(plan.items)]
    with pytest.raises(ClipsieveError, match=message):
        list(worker.work(texts))
    error = left_error(OutputFolder.open(out), "r")
    assert str(error).startswith(f"worker {worker_name()}: ")
    assert not Path(out, "samples").exists()
