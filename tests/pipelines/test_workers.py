"""Several processes: the same bytes, and what happens when one of them, or their parent, dies."""

import json
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clipsieve
from clipsieve.demo.shards import write_shards
from clipsieve.job.run_result import RunResult
from clipsieve.job.signals import SECOND_SIGNAL
from clipsieve.job.status import status_lines
from clipsieve.job.workers import shares
from clipsieve.stage import Element
from clipsieve.store.folder import OutputFolder
from clipsieve.store.records import FAILED, SCORED, read_records
from tests.pipelines.jobs import (
    leftovers,
    read,
    run_command,
    run_job,
    start,
    tables,
    wait_for,
    write_one,
)
from tests.pipelines.plugins import install_scorer, put_on_path
from tests.store.folders import make_folder, shard_of


def workers_of(pid: int) -> list[psutil.Process]:
    """Living worker processes started by `pid`."""
    try:
        children = psutil.Process(pid).children()
        return [c for c in children if "clipsieve.pipelines.worker" in c.cmdline()]
    except psutil.NoSuchProcess:
        return []


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def begun(source: Path, out: Path, number: int) -> bool:
    """Whether worker `number` of two has committed a shard, so that it has begun others."""
    elements = [Element(p.stem, "", p.stat().st_size) for p in sorted(source.glob("*.parquet"))]
    share = shares(elements, 2)[number]
    return any((out / "samples" / f"{element.name}.parquet").exists() for element in share)


def test_a_killed_worker_is_replaced_and_the_bytes_are_those_of_one_process(tmp_path):
    source, one, two = tmp_path / "source", tmp_path / "one", tmp_path / "two"
    write_shards(source, 160, 16, seed=6)
    settings = {"run_id": "fixed", "batch_size": 4, "scorers": ("clip",)}
    run_job(source, one, **settings)
    results: list[RunResult] = []
    job = threading.Thread(
        target=lambda: results.append(run_job(source, two, workers=2, **settings))
    )
    job.start()
    wait_for(lambda: begun(source, two, 0), "the first shard")
    first = workers_of(os.getpid())
    assert len(first) == 2
    (victim,) = (process for process in first if process.cmdline()[-1] == "0")
    victim.kill()
    known = {process.pid for process in first}
    wait_for(
        lambda: any(p.pid not in known for p in workers_of(os.getpid())), "one in its place", 60
    )
    job.join()
    (result,) = results
    assert (result.exit_code, result.done, result.left, result.failed) == (0, 16, 0, ())
    assert tables(two) == tables(one)
    assert (two / "dataset.json").read_bytes() == (one / "dataset.json").read_bytes()
    assert leftovers(two) == []


DECODER = """
import os, signal, sys

here = os.path.dirname(__file__)
sys.path.remove(here)
del sys.modules["simplejpeg"]
import simplejpeg
sys.path.insert(0, here)
header = simplejpeg.decode_jpeg_header

def decode_jpeg_header(data, *more):
    if bytes(data).endswith(b"kill me"):
        os.kill(os.getpid(), signal.SIGKILL)
    return header(data, *more)

simplejpeg.decode_jpeg_header = decode_jpeg_header
"""


@pytest.fixture
def deadly_decoder(tmp_path, monkeypatch) -> None:
    """Processes started from here have a JPEG decoder that crashes on one picture."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "simplejpeg.py").write_text(DECODER)
    put_on_path(tmp_path / "site", monkeypatch)


def with_deadly_picture(path: Path) -> None:
    """Put something behind the first JPEG of a shard that any decoder passes over, but that one."""
    table = pq.read_table(path)
    pictures = table["jpg"].to_pylist()
    (at, *_) = (n for n, data in enumerate(pictures) if data and data.endswith(b"\xff\xd9"))
    pictures[at] += b"kill me"
    column = pa.array(pictures, table.schema.field("jpg").type)
    pq.write_table(table.set_column(table.schema.get_field_index("jpg"), "jpg", column), path)


def test_a_shard_that_kills_its_worker_fails_alone(tmp_path, deadly_decoder):
    source, out = tmp_path / "source", tmp_path / "out"
    for at, name in enumerate("abcde"):
        path = write_one(source, name, 10, seed=at)
        if name == "c":
            with_deadly_picture(path)
    settings = {"workers": 2, "scorers": ("clip",)}
    result = run_job(source, out, **settings)
    assert (result.exit_code, result.done, result.left) == (3, 4, 0)
    (failed,) = result.failed
    assert failed.shard == "c" and failed.error is not None
    assert "the worker died on this shard (signal 9), also when it was alone" in failed.error
    assert set(read(out, "wide")["shard"].to_pylist()) == set("abde")
    assert leftovers(out) == []
    lines = list(status_lines(str(out)))
    assert any(line.startswith("  c: ") and "signal 9" in line for line in lines)
    manifest = json.loads((out / "_runs" / f"{result.run_id}.json").read_text())
    assert manifest["status"] == "failed"

    # Now it is the only one left: it must not be tried in this process, which would die of it.
    again = run_job(source, out, **settings)
    assert (again.exit_code, again.skipped, len(again.failed)) == (3, 4, 1)
    assert "signal 9" in str(again.failed[0].error)


DEADLY = """
import os, signal
import numpy as np, pyarrow as pa
from clipsieve import Input, Scorer, score_column

class Plugin(Scorer):
    name = family = "deadly"
    needs = frozenset({Input.IMAGE_EMBEDDING, Input.CAPTION})
    columns = pa.schema([score_column("deadly", "doc", "none", "0", "test")])

    def score(self, batch, loaded):
        if os.environ.get("DEADLY_CAPTION", "none") in batch.captions:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"deadly": np.zeros(len(batch))}
"""
CAPTION = "a caption to die of"


@pytest.fixture
def deadly_scorer(tmp_path, monkeypatch) -> str:
    """An installed package with a scorer whose process dies on one caption; its name."""
    install_scorer(tmp_path / "site", "deadly", DEADLY, monkeypatch)
    monkeypatch.setenv("DEADLY_CAPTION", CAPTION)
    return "deadly"


def with_caption(path: Path, caption: str) -> None:
    table = pq.read_table(path)
    at = table.schema.get_field_index("caption")
    captions = [caption, *table["caption"].to_pylist()[1:]]
    pq.write_table(table.set_column(at, "caption", pa.array(captions, pa.string())), path)


@pytest.mark.parametrize("command", ["run", "score"])
def test_a_shard_that_kills_its_scorer_fails_alone_and_no_family_is_switched(
    tmp_path, deadly_scorer, monkeypatch, capsys, command
):
    source, out = tmp_path / "source", tmp_path / "out"
    for at, name in enumerate("abcdef"):
        path = write_one(source, name, 10, seed=at)
        if name == "c":
            with_caption(path, CAPTION)
    run_job(source, out, scorers=("clip",))
    before = (out / "dataset.json").read_bytes()
    capsys.readouterr()
    settings: dict[str, Any] = {"workers": 2, "scorers": ("clip", deadly_scorer), "run_id": "dies"}
    if command == "run":  # starts processes for scores of large datasets
        monkeypatch.setattr("clipsieve.job.run.WORKERS_FROM", 0)
        assert run_job(source, out, **settings).exit_code == 3
    else:
        result = clipsieve.score(out, device="cpu", **settings)
        assert (result.exit_code, result.done, result.left) == (3, 5, 1)
    reason = "c.parquet: the worker died on this shard (signal 9), also when it was alone"
    assert reason in capsys.readouterr().err
    last = {record.shard: record for record in read_records(OutputFolder.open(out), "dies")}
    assert {name: record.state for name, record in last.items()} == {
        **dict.fromkeys("abdef", SCORED),
        "c": FAILED,
    }
    assert reason in str(last["c"].error)
    assert (out / "dataset.json").read_bytes() == before
    assert {path.stem for path in out.glob("scores/deadly/*/*.parquet")} == set("abdef")
    assert json.loads((out / "_runs" / "dies.json").read_text())["status"] == "failed"
    assert leftovers(out) == []

    # Once it no longer dies, that shard alone is done.
    monkeypatch.setenv("DEADLY_CAPTION", "another")
    assert clipsieve.score(out, ["deadly"], device="cpu", workers=2).done == 1
    assert read(out, "wide")["deadly"].null_count == 0


def test_two_workers_score_to_the_bytes_of_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    made = [shard_of(name, 30, seed=at, no_image=[3]) for at, name in enumerate("abcde")]
    options = {"density": {"reference": "20,all", "k": 3}}
    for out, workers in ((one, 1), (two, 2)):
        make_folder(out, made)
        result = clipsieve.score(
            out, ["density"], device="cpu", scorer_options=options, workers=workers, run_id="fixed"
        )
        assert (result.exit_code, result.done) == (0, 5)
    assert tables(two) == tables(one)
    for name in ("dataset.json", *(str(p.relative_to(one)) for p in one.glob("fits/*/*"))):
        assert (two / name).read_bytes() == (one / name).read_bytes()
    assert leftovers(two) == []


def test_workers_end_within_seconds_of_their_parent(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    write_shards(source, 160, 20, seed=6)
    with start(run_command(source, out, "--workers", "2", "--batch-size", "1")) as parent:
        wait_for(lambda: any(out.glob("samples/*.parquet")), "the first shard")
        workers = workers_of(parent.pid)
        assert len(workers) == 2
        parent.kill()
        parent.wait()
        wait_for(lambda: not any(alive(worker) for worker in workers), "both workers' end", 10)
    written = len(list(out.glob("samples/*.parquet")))
    assert written < 20
    result = run_job(source, out)  # the lock is free
    assert (result.exit_code, result.skipped) == (0, written)
    assert read(out, "wide").num_rows == 160


def test_a_second_signal_ends_a_run_with_a_stopped_worker(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    write_shards(source, 80, 8, seed=6)
    with start(run_command(source, out, "--workers", "2", "--batch-size", "1")) as parent:
        try:
            wait_for(lambda: any(out.glob("samples/*.parquet")), "the first shard")
            workers = workers_of(parent.pid)
            for worker in workers:
                worker.suspend()
            parent.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                parent.wait(1)  # the shards in hand are to be finished
            parent.send_signal(signal.SIGTERM)
            errors = parent.communicate(timeout=30)[1]
        finally:
            parent.kill()
            for worker in workers_of(parent.pid):
                worker.kill()
    assert parent.returncode == 143
    assert SECOND_SIGNAL in errors and "Traceback" not in errors
    assert not any(alive(worker) for worker in workers)
    with OutputFolder.open(out).lock():  # it is free
        assert set(OutputFolder.open(out).shards()) < {path.stem for path in source.iterdir()}
