"""Stop and progress in the process of the driver and in others."""

import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clipsieve.control import DEADLINE, Control, Snapshot, stop_marker
from clipsieve.store.folder import OutputFolder

#: Unpickles a control twice, says whether both are one, then waits to be stopped and says why.
ELSEWHERE = """
import pickle, sys, time
import clipsieve.control
clipsieve.control.LOOK_SECONDS = 0.02
data = open(sys.argv[1], "rb").read()
control = pickle.loads(data)
assert control is pickle.loads(data)
print(control.run_id, control.snapshot().rows, control.reason, flush=True)
end = time.monotonic() + float(sys.argv[2])
while not control.stopped and time.monotonic() < end:
    time.sleep(0.01)
print(control.reason, flush=True)
"""


def elsewhere(control: Control, folder: Path, seconds: float) -> subprocess.Popen[str]:
    """A process that has got `control` and waits that long for its stop."""
    path = folder / "control"
    path.write_bytes(pickle.dumps(control))
    words = [sys.executable, "-c", ELSEWHERE, str(path), str(seconds)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_pickled_it_is_the_same_object_in_this_process(tmp_path):
    control = Control("same", str(tmp_path))
    copy = pickle.loads(pickle.dumps(control))
    assert copy is control
    copy.stop("SIGTERM")
    assert control.reason == "SIGTERM"


def test_a_stop_does_not_outlive_its_job(tmp_path):
    before = Control("again", str(tmp_path))
    before.stop("SIGTERM")
    after = Control("again", str(tmp_path))
    assert pickle.loads(pickle.dumps(after)) is after
    assert pickle.loads(pickle.dumps(before)) is before
    data = pickle.dumps(before)
    del before  # as in a worker process that outlives a job
    assert pickle.loads(data).reason is None


def test_a_control_of_the_same_key_takes_the_place_of_one_before(tmp_path):
    before = Control("again", str(tmp_path))
    own = Control("again", str(tmp_path), key=before.key)
    assert pickle.loads(pickle.dumps(before)) is own


def test_in_another_process_it_counts_for_itself_and_stops_on_the_marker(tmp_path):
    control = Control("remote", str(tmp_path / "out"))
    control.add(rows=5)
    with elsewhere(control, tmp_path, 60) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "remote 0 None\n"
        OutputFolder.open(tmp_path / "out").write_text(stop_marker("remote"), "")
        assert process.stdout.read() == "stop marker\n"
    assert process.returncode == 0
    assert control.reason is None  # whoever holds the control tells the others, not they it


@pytest.mark.parametrize("marker", ["another", "remote2"])
def test_the_marker_of_another_run_stops_nothing(tmp_path, marker):
    OutputFolder.open(tmp_path / "out").write_text(stop_marker(marker), "")
    with elsewhere(Control("remote", str(tmp_path / "out")), tmp_path, 0.3) as process:
        assert process.communicate()[0] == "remote 0 None\nNone\n"


def test_in_another_process_it_stops_at_the_deadline(tmp_path):
    over = Control("over", str(tmp_path / "out"), deadline=time.time() - 1)
    with elsewhere(over, tmp_path, 0) as process:
        assert process.communicate()[0] == f"over 0 {DEADLINE}\n{DEADLINE}\n"
    ahead = Control("ahead", str(tmp_path / "out"), deadline=time.time() + 3600)
    with elsewhere(ahead, tmp_path, 0) as process:
        assert process.communicate()[0] == "ahead 0 None\nNone\n"


def test_the_first_reason_stays(tmp_path):
    control = Control("first", str(tmp_path), deadline=time.time() - 1)
    control.stop("SIGINT")
    control.stop("SIGTERM")
    assert control.reason == "SIGINT" and control.stopped


def test_a_listener_hears_of_shards_and_of_counters():
    messages: list[dict[str, object]] = []
    control = Control("heard", listener=messages.append)
    control.begin("a")
    control.add(rows=3, failed_rows=1, shards=1)
    control.end("a")
    counters = Snapshot(3, 1, 1).to_json()
    assert messages == [{"begin": "a"}, {"meter": counters}, {"end": "a"}]
