"""Ended at any moment: the same command ends in the same bytes, and asks for no image twice."""

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.errors import Locked
from clipsieve.ingest.layout import ROOM
from clipsieve.ingest.spool import Spool
from tests.ingest.conftest import Ingesting
from tests.ingest.server import Site, answer

ROWS = 120


class Job:
    """The command as a process, against a server that takes its time."""

    def __init__(self, ingesting: Ingesting, site: Site) -> None:
        self.ingesting, self.site = ingesting, site
        site.latency = 0.02
        site.pages["/flaky.jpg"] = lambda handler: answer(handler, b"", 500)
        urls = [site.url(f"/good/{row % 100}.jpg") for row in range(ROWS)]
        urls[7], urls[33] = site.url("/status/404"), site.url("/flaky.jpg")
        ingesting.write(urls)

    def command(self, *words: str) -> list[str]:
        command = [sys.executable, "-m", "clipsieve.cli", "ingest"]
        return [
            *command,
            str(self.ingesting.list),
            str(self.ingesting.shards),
            *self.options,
            *words,
        ]

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            self.command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    options = (
        *("--allow-ranges", "127.0.0.0/8", "--rows-per-shard", "20", "--per-host", "4"),
        *("--processes", "2", "--threads", "8", "--retries", "0", "--log-format", "text"),
    )

    def wait_for_images(self, count: int, process: "subprocess.Popen[bytes]") -> None:
        end = time.monotonic() + 20
        while self.site.images().total() < count and time.monotonic() < end:
            assert process.poll() is None
            time.sleep(0.005)

    def stored(self) -> set[str]:
        """URLs of which an outcome is on disk."""
        found: set[str] = set()
        shards = self.ingesting.shards
        for path in shards.glob("*.parquet"):
            found |= set(pq.read_table(path, columns=["url"])["url"].to_pylist())
        for path in (shards / ROOM).glob("*.rows"):
            spool = path.with_suffix(".spool")
            if spool.exists():
                with pa.OSFile(str(path)) as file:
                    urls = pa.ipc.open_file(file).read_all()["url"].to_pylist()
                kept = Spool(spool)
                found |= {url for row, url in enumerate(urls) if row in kept}
                kept.close()
        return found


@pytest.fixture
def job(ingesting: Ingesting, site: Site) -> Job:
    return Job(ingesting, site)


@pytest.fixture
def undisturbed(job: Job) -> Iterator[dict[str, bytes]]:
    """Bytes of the shards of a run that nothing disturbs."""
    other = Ingesting(job.ingesting.path)
    other.shards = job.ingesting.path / "undisturbed"
    job.site.latency = 0.0
    other(rows_per_shard=20, per_host=32, retries=0)
    job.site.latency = 0.02
    job.site.requests.clear()
    yield other.files()


def kill_all(process: "subprocess.Popen[bytes]") -> None:
    """Kill the driver alone, and wait until its workers have noticed."""
    children = psutil.Process(process.pid).children()
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive


def path_of(url: str) -> str:
    return "/" + url.split("/", 3)[3]


def test_killed_at_random_moments(job: Job, undisturbed: dict[str, bytes]) -> None:
    rng = random.Random(5)
    for count in sorted(rng.sample(range(5, 95), 2)):
        process = job.start()
        job.wait_for_images(count, process)
        kill_all(process)
        stored = job.stored()
        asked = {url: job.site.requests[path_of(url)] for url in stored}
        process = job.start()
        job.wait_for_images(count + 3, process)
        kill_all(process)
        assert asked == {url: job.site.requests[path_of(url)] for url in stored}
    process = job.start()
    _, error = process.communicate()
    assert process.returncode == 0, error
    assert job.ingesting.files() == undisturbed
    assert job.ingesting.left() == ["list.json"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_by_a_signal(
    job: Job, undisturbed: dict[str, bytes], number: int, code: int
) -> None:
    process = job.start()
    job.wait_for_images(30, process)
    start = time.monotonic()
    process.send_signal(number)
    _, error = process.communicate()
    assert time.monotonic() - start < 5
    assert process.returncode == code
    assert f"stopped by {signal.Signals(number).name}; " in error.decode()
    # What was in flight was waited for: nothing at all is asked for twice.
    asked = job.site.images()
    process = job.start()
    process.communicate()
    assert process.returncode == 0
    assert job.ingesting.files() == undisturbed
    assert asked <= job.site.images()
    assert set(job.site.images().values()) == {1}


def test_the_deadline_leaves_work(job: Job, undisturbed: dict[str, bytes]) -> None:
    result = job.ingesting(rows_per_shard=20, per_host=4, retries=0, deadline=0.6)
    assert (result.exit_code, result.stopped) == (3, "deadline reached")
    assert result.left > 0
    result = job.ingesting(rows_per_shard=20, per_host=4, retries=0)
    assert (result.exit_code, result.left) == (0, 0)
    assert job.ingesting.files() == undisturbed


def test_a_process_that_dies_is_replaced(job: Job, undisturbed: dict[str, bytes]) -> None:
    process = job.start()
    job.wait_for_images(30, process)
    os.kill(psutil.Process(process.pid).children()[0].pid, signal.SIGKILL)
    _, error = process.communicate()
    assert process.returncode == 0, error
    assert job.ingesting.files() == undisturbed


def test_two_at_once_are_refused(job: Job) -> None:
    process = job.start()
    job.wait_for_images(10, process)
    with pytest.raises(Locked, match="is being written by process"):
        job.ingesting(rows_per_shard=20)
    kill_all(process)


def test_a_retry_that_is_killed_goes_on(job: Job) -> None:
    job.site.latency = 0
    urls = [job.site.url(f"/late/{row}.jpg") for row in range(40)]
    is_up: list[bool] = []

    def page(handler: Any) -> None:
        answer(handler, b"GIF89a", 200 if is_up else 503)

    for row in range(40):
        job.site.pages[f"/late/{row}.jpg"] = page
    job.ingesting.write(urls)
    process = job.start("--no-robots")
    process.communicate()
    assert process.returncode == 0
    is_up.append(True)
    job.site.latency = 0.05
    process = job.start("--no-robots", "--retry-failed")
    job.wait_for_images(55, process)
    kill_all(process)
    process = job.start("--no-robots", "--retry-failed")
    process.communicate()
    assert {row["status"] for row in job.ingesting.rows()} == {"success"}
    assert max(job.site.images().values()) <= 3
    assert sum(count == 3 for count in job.site.images().values()) <= 4  # those in flight
    assert job.ingesting.left() == ["list.json"]


def test_a_spool_is_cut_where_it_is_damaged(tmp_path: Path) -> None:
    from clipsieve.ingest.outcomes import Outcome

    path = tmp_path / "x.spool"
    spool = Spool(path)
    outcomes = [Outcome("success", None, bytes([n]) * 100, n, n, "{}", "ab") for n in range(5)]
    for row, outcome in enumerate(outcomes):
        spool.add(row, outcome)
    spool.add(5, Outcome("failed_to_download", "why"))
    spool.close()
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        cut = Spool(path)
        assert all(cut.outcome(row) == outcomes[row] for row in range(min(5, len(cut))))
        assert (len(cut) < 6) and path.stat().st_size <= end
        cut.close()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    path.write_bytes(flipped)
    damaged = Spool(path)
    assert len(damaged) == 2
    damaged.close()


def test_a_disk_that_is_full_is_said_and_gone_on_with(
    job: Job, undisturbed: dict[str, bytes]
) -> None:
    """A limit of file sizes stands for the disk: writes fail in the same places."""
    limited = "ulimit -f 8; exec " + shlex.join(job.command())
    process = subprocess.run(["bash", "-c", limited], capture_output=True, text=True)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert ".spool: " in process.stderr or "File too large" in process.stderr
    last = job.start()
    last.communicate()
    assert last.returncode == 0
    assert job.ingesting.files() == undisturbed
    assert set(job.site.images().values()) <= {1, 2}
