"""Whole jobs on a disk that fills up, and in a folder that goes away."""

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clipsieve.errors import LedgerError, StorageError
from clipsieve.job.run import run
from clipsieve.settings import RunConfig
from clipsieve.store.folder import OutputFolder
from clipsieve.store.records import read_records
from tests.pipelines.jobs import SETTINGS, leftovers, run_job, tables, wait_for, write_one
from tests.pipelines.test_follow import StoppingEngine


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Three shards."""
    folder = tmp_path_factory.mktemp("storage") / "source"
    for seed, name in enumerate("abc"):
        write_one(folder, name, 20, seed=seed)
    return folder


@contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    """Within the block, `act` in a thread."""
    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_folder_that_is_renamed_in_a_run_is_gone_and_not_begun_again(source, tmp_path, workers):
    out, away = tmp_path / "out", tmp_path / "away"

    def rename() -> None:
        wait_for(lambda: any(out.glob("samples/a*")), "the first shard")
        out.rename(away)

    with (
        meanwhile(rename),
        pytest.raises(Exception, match=r"output folder .*out is gone") as caught,
    ):
        run_job(source, out, scorers=("clip",), workers=workers)
    assert "\n" not in str(caught.value) and getattr(caught.value, "exit_code", None) == 1
    assert not out.exists()
    assert run_job(source, away, scorers=("clip",)).counts.rows == 60


def test_a_ledger_that_is_removed_in_a_run_is_missed(source, tmp_path):
    out = tmp_path / "out"
    first = out / "samples/a.parquet"

    def remove() -> None:
        wait_for(first.exists, "the first shard")
        first.unlink()

    with (
        meanwhile(remove),
        pytest.raises(LedgerError, match=r"1 shards .* first .*a\.parquet; keep"),
    ):
        run_job(source, out, scorers=("clip",))
    assert run_job(source, out, scorers=("clip",)).counts.rows == 60


def test_a_disk_that_fills_up_keeps_finished_shards_and_their_records(source, tmp_path):
    calm, disk = tmp_path / "calm", tmp_path / "disk"
    run_job(source, calm, scorers=("clip",))
    disk.mkdir()
    try:
        mount(disk, "size=90k")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("file systems cannot be mounted here")
    try:
        out = disk / "out"
        with pytest.raises(StorageError, match=r"cannot write .* free,.* needs? more|needed"):
            run_job(source, out, scorers=("clip",), run_id="full")
        done = [record.shard for record in read_records(OutputFolder.open(out), "full")]
        assert done and set(done) <= set(OutputFolder.open(out).shards())
        assert leftovers(out) == []
        mount(disk, "remount,size=10m")
        result = run_job(source, out, scorers=("clip",))
        assert (result.exit_code, result.skipped) == (0, len(done))
        assert tables(out).keys() == tables(calm).keys()
        mount(disk, "remount,size=200k")
        fill(disk)
        with pytest.raises(StorageError, match=r"room for 0 B, 60 rows in 3 shards need at least"):
            run_job(source, disk / "other", scorers=("clip",))
        assert not (disk / "other").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def mount(place: Path, options: str) -> None:
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    subprocess.run(words, check=True, capture_output=True)


def fill(disk: Path) -> None:
    """Leave no block free."""
    with open(disk / "rest", "wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            pass


def test_a_stop_says_what_is_left_and_after_all_work_nothing(source, tmp_path, capfd):
    out = str(tmp_path / "out")
    given = {**SETTINGS, "inputs": (f"{source}/*.parquet",), "out": out}
    result = run(RunConfig(**given), StoppingEngine("learn"))
    assert (result.left, result.exit_code) == (0, 143)
    assert "stopped by SIGTERM; 3 shards left to score: run it again" in capfd.readouterr().err
    result = run(RunConfig(**given), StoppingEngine("compact"))
    assert (result.stopped, result.exit_code) == (None, 0)
