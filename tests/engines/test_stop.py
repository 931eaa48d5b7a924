"""A stop reaches workers of an engine between shards; a shard that crashes a decoder; progress."""

import json
import os
import re
import signal
import time

from clipsieve.control import Snapshot
from clipsieve.demo.shards import write_shards
from clipsieve.job import remote_progress
from clipsieve.job.remote_progress import count_records
from clipsieve.pipelines.engine import BeamEngine
from clipsieve.store.folder import OutputFolder
from clipsieve.store.records import FAILED, read_records
from tests.engines.jobs import temporary
from tests.engines.test_deaths import NAMES, eventful
from tests.pipelines.jobs import (
    exit_code,
    run_command,
    run_job,
    start,
    wait_for,
    write_one,
)
from tests.pipelines.test_workers import with_deadly_picture


def test_sigterm_finishes_the_shards_in_hand_and_counts_what_is_left(dask, place, tmp_path):
    source, out = tmp_path / "source", place("out")
    write_shards(source, 240, 40, seed=4)
    folder = OutputFolder.open(out)
    with start(run_command(source, out, "--batch-size", "1", *dask.words)) as process:
        wait_for(folder.shards, "the first shard")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate()
    assert process.returncode == 143, said
    written = len(folder.shards())
    assert 0 < written < 40
    assert f"stopped by SIGTERM; {40 - written} shards left: run it again" in said
    assert "Traceback" not in said and "distributed" not in said
    (name,) = (n for n in folder.files.list_files("_runs") if n.endswith(".json"))
    result = json.loads(folder.files.read(f"_runs/{name}"))["result"]
    assert (result["done"], result["left"]) == (written, 40 - written)
    assert temporary(out) == []
    rest = run_job(source, out)
    assert (rest.exit_code, rest.skipped, rest.done) == (0, written, 40 - written)


def test_ctrl_c_in_a_terminal_is_for_the_driver_and_ends_workers_here_in_order(place, tmp_path):
    source, out = tmp_path / "source", place("out")
    write_shards(source, 240, 40, seed=4)
    folder = OutputFolder.open(out)
    words = run_command(source, out, "--batch-size", "1", "--runner", "dask", "--workers", "2")
    with start(words, start_new_session=True) as process:
        wait_for(folder.shards, "the first shard")
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130, said
    written = len(folder.shards())
    assert f"stopped by SIGINT; {40 - written} shards left: run it again" in said
    assert "Traceback" not in said and "istributed" not in said
    assert temporary(out) == []


def test_a_deadline_reaches_workers_between_shards(cluster, place):
    stage = eventful(place("out"))
    stage.control.deadline = time.time() + 6
    names = [f"shard-{at}" for at in range(40)]
    with BeamEngine(cluster.runner, cluster.options) as engine:
        total = engine.run(stage, stage.elements(*(f"{name}:slow" for name in names)))
    assert set(total.done) < set(names)
    assert stage.control.reason == "deadline reached"
    assert temporary(place("out")) == []


def test_a_picture_that_crashes_the_decoder_fails_its_shard_as_in_two_processes(
    dask, place, tmp_path, capsys
):
    source, out = tmp_path / "source", place("out")
    for at, name in enumerate("abcdef"):
        path = write_one(source, name, 10, seed=at)
        if name == "c":
            with_deadly_picture(path)
    words = run_command(source, out, *dask.words)
    assert exit_code(["embed", *words[1:]]) == 3
    assert OutputFolder.open(out).shards() == list("abdef")
    said = capsys.readouterr().err
    assert re.search(r"failed: \S+/c.parquet: the worker died on this shard \(\S+:\d+", said)
    assert temporary(out) == []


def test_progress_is_counted_from_the_names_of_records(dask, place, monkeypatch):
    monkeypatch.setattr(remote_progress, "LIST_SECONDS", 0.1)
    stage = eventful(place("out"))
    rows: list[int] = []
    real = stage.control.replace_progress

    def noted(now: Snapshot) -> None:
        rows.append(now.rows)
        real(now)

    monkeypatch.setattr(stage.control, "replace_progress", noted)
    with BeamEngine(dask.runner, dask.options) as engine:
        engine.run(stage, stage.elements(*(f"{name}:slow" for name in NAMES)))
    assert rows == sorted(rows) and len(set(rows)) > 2, rows
    assert stage.control.snapshot().shards == len(NAMES)


def test_a_shard_counts_once_however_many_records_it_has():
    digest, other = "0" * 16, "1" * 16
    names = {
        f"failed-0-0-{digest}-{'a' * 32}.json",
        f"done-12-2-{digest}-{'b' * 32}.json",
        f"done-12-2-{digest}-{'c' * 32}.json",
        f"failed-0-0-{other}-{'d' * 32}.json",
        "a" * 32 + ".json",  # of an older version
        "._done-1-1.json",
    }
    now = count_records(names)
    assert (now.rows, now.failed_rows, now.shards, now.failed_shards) == (12, 2, 1, 1)


def test_workers_here_are_ended_with_the_command(place):
    out = place("out")
    stage = eventful(out)
    with BeamEngine("dask", workers=2) as engine:
        total = engine.run(stage, stage.elements(*NAMES, "bad:kill"))
    assert (sorted(total.done), total.failed) == (NAMES, ("bad",))
    pids = {int(n.partition(".")[2]) for n in OutputFolder.open(out).files.list_files("done")}
    wait_for(lambda: not any(map(is_running, pids)), "the workers' end", 20)
    (record,) = (r for r in read_records(OutputFolder.open(out), "r") if r.state == FAILED)
    assert record.shard == "bad"


def is_running(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
