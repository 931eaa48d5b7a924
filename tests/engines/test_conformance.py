"""The whole job gives the bytes of the in-process runner on every engine."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipsieve.store.folder import OutputFolder
from tests.engines.clusters import Cluster, dask_workers
from tests.engines.jobs import contents, make_source, temporary, whole_job
from tests.object_stores.server import BUCKET
from tests.pipelines.jobs import wait_for

#: Tables that a driver writes itself: of all rows at once, from DuckDB or from sums.
DRIVERS_OWN = ("audits/", "_runs/", "fits/", "metrics/")


@pytest.fixture(params=["folder", "store"])
def place(request, server, tmp_path) -> Callable[[str], str]:
    """Return what names an output folder, on disk and in the S3 server."""
    if request.param == "folder":
        return lambda name: str(tmp_path / name)
    return lambda name: f"s3://{BUCKET}/{tmp_path.name}/{name}"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return make_source(tmp_path_factory.mktemp("source") / "shards")


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory) -> dict[str, bytes]:
    """What the job leaves on the in-process runner; tests must not change it."""
    out = str(tmp_path_factory.mktemp("expected") / "out")
    whole_job(source, out)
    tables = contents(out)
    kinds = {name.partition("/")[0] for name in tables}
    assert kinds > {"samples", "embeddings", "scores", "fits", "neighbours", "wide", "subsets"}
    return tables


def check(out: str, expected: dict[str, bytes]) -> None:
    found = contents(out)
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []
    assert temporary(out) == []


def test_this_process(source, expected, place):
    whole_job(source, place("out"))
    check(place("out"), expected)


def test_two_processes_here(source, expected, place):
    whole_job(source, place("out"), workers=2)
    check(place("out"), expected)


def test_workers_of_an_engine_write_all_that_is_written_by_shard(
    source, expected, place, cluster, monkeypatch
):
    written: list[str] = []
    for method in ("write_table", "writing_table", "write_arrays"):
        monkeypatch.setattr(OutputFolder, method, noting(written, getattr(OutputFolder, method)))
    whole_job(source, place("out"), runner=cluster.runner, beam_args=cluster.options)
    check(place("out"), expected)
    by_driver = [n for n in written if not n.startswith(DRIVERS_OWN)]
    # A subset's small tables are made of the sums that workers left.
    assert [n for n in by_driver if not n.startswith("subsets/") or "/kept/" in n] == []


def noting(written: list[str], method: Callable[..., Any]) -> Callable[..., Any]:
    """The same method of the output folder of this process, whose names are noted."""

    def write(folder: OutputFolder, name: str, *args: Any, **options: Any) -> Any:
        written.append(name)
        return method(folder, name, *args, **options)

    return write


def test_a_worker_that_is_killed_in_the_middle_changes_nothing(source, expected, place, dask):
    out = place("out")
    job = threading.Thread(target=run_on, args=(source, out, dask))
    before = set(dask_workers(dask))
    job.start()
    wait_for(lambda: OutputFolder.open(out).shards(), "the first shard")
    os.kill(next(iter(before)), signal.SIGKILL)
    job.join()
    check(out, expected)
    assert set(dask_workers(dask)) != before


def run_on(source: Path, out: str, cluster: Cluster) -> None:
    whole_job(source, out, runner=cluster.runner, beam_args=cluster.options)
