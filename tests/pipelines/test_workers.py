"""Several processes: the same bytes, and what happens when one of them, or their parent, dies."""

import json
import os
import threading
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.demo.shards import write_shards
from clipsieve.pipelines.run import RunResult
from clipsieve.pipelines.status import report
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


def workers_of(pid: int) -> list[psutil.Process]:
    """Living worker processes started by `pid`."""
    try:
        children = psutil.Process(pid).children()
        return [c for c in children if "clipsieve.pipelines.embed" in c.cmdline()]
    except psutil.NoSuchProcess:
        return []


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_a_killed_worker_is_replaced_and_the_bytes_are_those_of_one_process(tmp_path):
    source, one, two = tmp_path / "source", tmp_path / "one", tmp_path / "two"
    write_shards(source, 160, 16, seed=6)
    settings = {"run_id": "fixed", "batch_size": 4}
    run_job(source, one, **settings)
    results: list[RunResult] = []
    job = threading.Thread(
        target=lambda: results.append(run_job(source, two, workers=2, **settings))
    )
    job.start()
    wait_for(lambda: any(two.glob("samples/*.parquet")), "the first shard")
    first = workers_of(os.getpid())
    assert len(first) == 2

    # The one that has committed a shard, so that it has begun others.
    def has_record(process: psutil.Process) -> bool:
        return any(two.glob(f"_runs/*-{process.pid}.shards.jsonl"))

    wait_for(lambda: any(map(has_record, first)), "a record")
    victim = next(process for process in first if has_record(process))
    victim.kill()
    job.join()
    (result,) = results
    assert (result.exit_code, result.done, result.left, result.failed) == (0, 16, 0, ())
    writers = {path.name.split("-")[-1] for path in two.glob("_runs/*.shards.jsonl")}
    assert len(writers) > 2, "no worker took the dead one's place"
    assert tables(two) == tables(one)
    assert (two / "dataset.json").read_bytes() == (one / "dataset.json").read_bytes()
    assert leftovers(two) == []


DEADLY = """
import os, signal
import numpy as np, pyarrow as pa
from clipsieve.scorers.base import Scorer

class Deadly(Scorer):
    family, needs, prompt, version = "deadly", frozenset(), "", 1
    columns = pa.schema([pa.field("deadly", pa.float32())])

    def score(self, batch, fitted):
        if "kill me" in batch.captions:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"deadly": np.zeros(len(batch))}
"""


@pytest.fixture
def deadly_scorer(tmp_path, monkeypatch) -> str:
    """An installed package with a scorer whose process dies on one caption; its name."""
    site = tmp_path / "site"
    info = site / "deadly-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "deadly.py").write_text(DEADLY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[clipsieve.scorers]\ndeadly = deadly:Deadly\n")
    monkeypatch.syspath_prepend(str(site))
    path = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), *([path] if path else [])]))
    return "deadly"


def with_caption(path: Path, caption: str) -> None:
    table = pq.read_table(path)
    at = table.schema.get_field_index("caption")
    captions = [caption, *table["caption"].to_pylist()[1:]]
    pq.write_table(table.set_column(at, "caption", pa.array(captions, pa.string())), path)


def test_a_shard_that_kills_its_worker_fails_alone(tmp_path, deadly_scorer):
    source, out = tmp_path / "source", tmp_path / "out"
    for at, name in enumerate("abcdef"):
        path = write_one(source, name, 10, seed=at)
        if name == "c":
            with_caption(path, "kill me")
    settings = {"workers": 2, "scorers": ("clip", deadly_scorer)}
    result = run_job(source, out, **settings)
    assert (result.exit_code, result.done, result.left) == (3, 5, 0)
    (failed,) = result.failed
    assert failed.shard == "c" and failed.error is not None
    assert "the worker died on this shard (signal 9), also when it was alone" in failed.error
    assert set(read(out, "wide")["shard"].to_pylist()) == set("abdef")
    assert leftovers(out) == []
    assert any(line.startswith("  c: ") and "signal 9" in line for line in report(str(out)))
    manifest = json.loads((out / "_runs" / f"{result.run_id}.json").read_text())
    assert manifest["status"] == "failed"

    # Now it is the only one left: it must not be tried in this process, which would die of it.
    again = run_job(source, out, **settings)
    assert (again.exit_code, again.skipped, len(again.failed)) == (3, 5, 1)


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
