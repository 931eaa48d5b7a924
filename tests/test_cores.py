"""The cores that a process may use: affinity, quotas of both kinds of control groups, its share."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clipsieve.cores import WAIT_SETTINGS, cores, cpu_quota, usable_cores

ROOT = Path(__file__).parents[1]


def quota_of(folder: Path, groups: str, files: dict[str, str]) -> float | None:
    """The quota of a process in `groups`, with these files where groups are mounted."""
    (folder / "cgroup").write_text(groups)
    for name, text in files.items():
        (folder / "mount" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "mount" / name).write_text(text)
    return cpu_quota(folder / "cgroup", folder / "mount")


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        # A group has no more than those above it.
        (
            "0::/a/b\n",
            {"cpu.max": "max 100000", "a/cpu.max": "200000 100000", "a/b/cpu.max": "4 1"},
            2.0,
        ),
        (
            "3:cpu,cpuacct:/\n",
            {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"},
            0.5,
        ),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        # A container sees its own group as the root of the mount, under the path of the host.
        (
            "3:cpu:/docker/x\n0::/docker/x\n",
            {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"},
            3.0,
        ),
        ("2:cpuacct:/\n1:cpuset:/\n", {"cpu.max": "1 1"}, None),
        ("0::/a\n", {"a/cpu.max": "many\n"}, None),
    ],
)
def test_the_quota_is_the_least_of_the_groups(tmp_path, groups, files, expected):
    assert quota_of(tmp_path, groups, files) == expected


def test_there_is_none_where_the_system_has_no_groups(tmp_path):
    assert cpu_quota(tmp_path / "none", tmp_path) is None


@pytest.mark.parametrize(("quota", "expected"), [(0.2, 1), (1.0, 1), (1.5, 2), (None, 3), (8.0, 3)])
def test_cores_are_no_more_than_affinity_and_quota_allow(monkeypatch, quota, expected):
    monkeypatch.setattr("clipsieve.cores.cpu_quota", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert usable_cores() == cores() == expected
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert (usable_cores(), cores()) == (expected, 7)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_the_model_computes_on_the_cores_of_the_process():
    code = (
        "import os, torch; torch.set_num_threads(3)\n"
        "os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])\n"
        "from clipsieve.clip.open import open_model\n"
        "open_model('tiny', None, 'cpu', 'float32')\n"
        "print(torch.get_num_threads())"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    words = [sys.executable, "-c", code]
    assert subprocess.run(words, env=environment, capture_output=True, text=True).stdout == "1\n"


@pytest.mark.parametrize("setting", [None, *WAIT_SETTINGS])
def test_threads_sleep_at_barriers_unless_the_user_says_otherwise(monkeypatch, setting):
    from clipsieve.cores import SPIN_COUNT, sleep_at_barriers

    for name in WAIT_SETTINGS:
        monkeypatch.setenv(name, "")  # restored at the end
        monkeypatch.delenv(name)
    if setting is not None:
        monkeypatch.setenv(setting, "7")
    sleep_at_barriers()
    values = {name: os.environ[name] for name in WAIT_SETTINGS if name in os.environ}
    expected = {"GOMP_SPINCOUNT": SPIN_COUNT, "KMP_BLOCKTIME": "0"}
    assert values == (expected if setting is None else {setting: "7"})


def test_cores_are_counted_in_one_place():
    form = re.compile(r"cpu_count|sched_getaffinity")
    folders = ("src", "pipelines", "transforms", "schemas")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    counting = {path.name for path in files if form.search(path.read_text(encoding="utf-8"))}
    assert counting == {"cores.py"}
