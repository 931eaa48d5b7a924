import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from clipsieve.errors import Locked, UsageError
from clipsieve.object_stores.files import ObjectStoreFiles
from clipsieve.store.folder import OutputFolder
from clipsieve.store.lock_terms import LockTerms
from clipsieve.store.manifest import Manifest
from tests.object_stores.server import BUCKET, ROOT, s3_server


class Racer:
    def __init__(self, url, lease) -> None:
        words = [sys.executable, "-m", "tests.object_stores.race", url, str(lease)]
        self.process = subprocess.Popen(
            words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.questions, self.answers = self.process.stdin, self.process.stdout

    def tell(self, word):
        self.questions.write(f"{word}\n")
        self.questions.flush()

    def answer(self):
        return self.answers.readline().strip()

    def end(self):
        self.process.kill()
        self.process.wait()
        self.questions.close()
        self.answers.close()


@contextmanager
def racing(url, count, lease=60.0):
    racers = [Racer(url, lease) for _ in range(count)]
    try:
        assert [racer.answer() for racer in racers] == ["ready"] * count
        yield racers
    finally:
        for racer in racers:
            racer.end()


def objects(url):
    files = ObjectStoreFiles(url)
    return {name: json.loads(files.read(f".lock/{name}")) for name in files.list_files(".lock")}


def test_a_lock_is_held_for_the_block_and_free_after_it(url):
    folder = OutputFolder.open(url)
    with folder.lock():
        with pytest.raises(Locked, match=r"is being written by process \d+ on .*renewed its lock"):
            with OutputFolder.open(url).lock():
                pass
        folder.write_text("samples/a", "1")
        assert objects(url)["000000001"]["state"] == "held"
    assert objects(url)["000000001"]["state"] == "released"
    with folder.lock():
        assert list(objects(url)) == ["000000002"]
    assert objects(url)["000000002"]["state"] == "released"


def test_a_block_that_raises_releases_the_lock(url):
    folder = OutputFolder.open(url)
    with pytest.raises(KeyError), folder.lock():
        folder.write_text("samples/a", "1")
        raise KeyError
    with folder.lock():
        pass


def test_a_first_block_that_raises_and_wrote_nothing_leaves_nothing(url):
    folder = OutputFolder.open(url)
    with pytest.raises(KeyError), folder.lock():
        raise KeyError
    assert folder.files.entries("").folders == ()


def test_a_dead_holders_lock_is_free_after_its_lease(url):
    with racing(url, 1, lease=2.0) as (racer,):
        racer.tell("a")
        assert racer.answer() == "won"
        racer.process.send_signal(signal.SIGKILL)
        racer.process.wait()
    folder = OutputFolder.open(f"{url}/a")
    with pytest.raises(Locked, match=r"if it is dead, its lock ends in \d s"), folder.lock():
        pass
    deadline = time.monotonic() + 30
    while True:
        try:
            with folder.lock():
                assert list(objects(f"{url}/a")) == ["000000002"]
            return
        except Locked:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_a_holder_that_works_keeps_its_lock_past_the_lease(url):
    folder = OutputFolder.open(url)
    with folder.lock(LockTerms(lease=1.0)):
        end = time.monotonic() + 4
        while time.monotonic() < end:
            with pytest.raises(Locked), OutputFolder.open(url).lock():
                pass
            time.sleep(0.3)


def test_a_holder_that_slept_through_its_lease_writes_no_manifest(url):
    """Neither is its end taken for a good one."""
    with racing(url, 1, lease=1.0) as (racer,):
        racer.tell("a")
        assert racer.answer() == "won"
        os.kill(racer.process.pid, signal.SIGSTOP)
        folder = OutputFolder.open(f"{url}/a")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                with folder.lock():
                    os.kill(racer.process.pid, signal.SIGCONT)
                    racer.tell("")
                    assert racer.answer() == "lost"
                return
            except Locked:
                time.sleep(0.2)
    pytest.fail("the lease never ended")


def test_what_deletes_or_decides_asks_for_the_lock_again(url):
    files, reasons = ObjectStoreFiles(url), list[str]()
    folder = OutputFolder(files)
    folder.write_text("samples/a", "1")
    with pytest.raises(Locked, match="another one has taken it over"):
        with folder.lock(LockTerms(lease=2.0), reasons.append):
            folder.save_manifest(Manifest())
            content = json.dumps({"state": "held", "process": "other", "lease": 60}).encode()
            files.system.pipe_file(files._key(".lock/000000002"), content)
            for operation in (
                lambda: folder.save_manifest(Manifest()),
                lambda: folder.sweep(),
                lambda: folder.files.delete_folder("samples"),
                lambda: OutputFolder.open(url).sweep(),
            ):
                with pytest.raises(Locked, match="another one has taken it over"):
                    operation()
            time.sleep(1)
            with pytest.raises(Locked, match="another one has taken it over"):
                folder.write_text("samples/b", "1")
            assert reasons == ["lock lost"]
    assert folder.files.list_files("samples") == ["a"]
    # The lock of the other one is as it was.
    assert objects(url)["000000002"]["process"] == "other"
    assert objects(url)["000000002"]["state"] == "held"


def test_one_of_many_processes_wins_each_round(url):
    """New folders, and folders of a dead holder, by turns."""
    with racing(url, 8) as racers:
        for number in range(50):
            files = ObjectStoreFiles(f"{url}/{number}")
            if number % 2:
                content = json.dumps({"state": "held", "process": "dead", "lease": -10}).encode()
                files.system.pipe_file(files._key(".lock/000000001"), content)
            for racer in racers:
                racer.tell(number)
            answers = sorted(racer.answer() for racer in racers)
            assert answers == ["locked"] * 7 + ["won"]
            held = [name for name, each in objects(files.url()).items() if each["state"] == "held"]
            assert held == [f"{1 + number % 2:09d}"]


def test_a_slow_process_that_reuses_a_number_has_no_lock(url, monkeypatch):
    """It looked, others came and went, and only then it creates the number it had seen free."""
    from clipsieve.object_stores.lock import NumberedLock

    folder = OutputFolder.open(url)
    create = NumberedLock._create

    def slow(self, name, content):
        if name.endswith("000000001"):
            monkeypatch.setattr(NumberedLock, "_create", create)
            for _ in range(3):
                with OutputFolder.open(url).lock():
                    pass
        create(self, name, content)

    monkeypatch.setattr(NumberedLock, "_create", slow)
    with pytest.raises(Locked, match="just been locked"), folder.lock():
        pass
    assert list(objects(url)) == ["000000003"]


def test_a_store_without_conditional_writes_is_refused_unless_told(url):
    with s3_server("--unconditional"):
        folder = OutputFolder.open(f"s3://{BUCKET}/out")
        with pytest.raises(UsageError, match=r"ignores conditional writes.*--no-lock"):
            with folder.lock():
                pass
        assert folder.files.entries("").folders == ()
        with folder.lock(LockTerms(is_required=False)):
            folder.save_manifest(Manifest())
            assert folder.files.entries("").folders == ("_runs",)
