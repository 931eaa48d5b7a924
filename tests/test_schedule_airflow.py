"""The DAG of examples/schedule, run by Airflow itself in an environment of its own.

The environment is made once and kept: `clipsieve-ci/airflow-<hash of its requirements>` in
`XDG_CACHE_HOME` or `~/.cache`.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from filelock import FileLock

from tests.pipelines.jobs import write_one
from tests.schedule import EXAMPLES, write_clipsieve, write_config

REQUIREMENTS = EXAMPLES / "requirements-airflow.txt"
#: What pip says where it reaches no index.
NO_NETWORK = (
    r"No matching distribution found|Failed to establish a new connection|Network is unreachable|"
    r"Temporary failure in name resolution|Connection refused|ProxyError|timed out"
)
#: Runs the DAG, and again while the output folder is locked; prints the states of tasks at the end.
#: Both in one process, of which starting Airflow is the larger part.
DRIVER = """
import fcntl, json, sys
from airflow_dag import dag

def states():
    run = dag.test(run_conf=params)
    return {task.task_id: str(task.state) for task in run.get_task_instances()}

params = json.loads(sys.argv[1])
free = states()
with open(params["out"] + "/.lock", "a") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print(json.dumps([free, states()]))
"""
TASKS = ("run", "filter", "reconcile")


def cached_environment() -> Path:
    """Return the folder of Airflow's environment, made if it is not there."""
    version = f"Python {platform.python_version()}\n".encode()
    key = hashlib.sha256(REQUIREMENTS.read_bytes() + version).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clipsieve-ci"
    cache.mkdir(parents=True, exist_ok=True)
    venv = cache / f"airflow-{key}"
    with FileLock(f"{venv}.lock"):
        if not (venv / ".complete").exists():
            shutil.rmtree(venv, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
            install = [str(venv / "bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
            done = subprocess.run(
                [*install, "--requirement", str(REQUIREMENTS)], capture_output=True, text=True
            )
            if done.returncode and re.search(NO_NETWORK, done.stderr):
                last = done.stderr.strip().splitlines()[-1]
                pytest.skip(f"pip cannot install Airflow, no package index is reached: {last}")
            assert done.returncode == 0, done.stderr
            (venv / ".complete").touch()
    return venv


class Airflow:
    """Airflow with a database of its own, and the example among its DAGs."""

    def __init__(self, venv: Path, home: Path):
        self.bin, self.home = venv / "bin", home
        (home / "dags").mkdir(parents=True)
        shutil.copy(EXAMPLES / "airflow_dag.py", home / "dags")
        self.environment = {
            **{key: os.environ[key] for key in ("CLIPSIEVE_CACHE", "HOME") if key in os.environ},
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        }
        self.run(self.bin / "airflow", "db", "migrate")

    def run(self, *words: object) -> str:
        """Run a command in the folder of DAGs and return its standard output."""
        done = subprocess.run(
            [*map(str, words)],
            env=self.environment,
            cwd=self.home / "dags",
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def states(self, **params: str) -> list[dict[str, str]]:
        """Return how tasks end, and how while the output folder is locked."""
        output = self.run(self.bin / "python", "-c", DRIVER, json.dumps(params))
        states: list[dict[str, str]] = json.loads(output.strip().splitlines()[-1])
        return states


@pytest.fixture(scope="module")
def airflow(tmp_path_factory):
    return Airflow(cached_environment(), tmp_path_factory.mktemp("airflow") / "home")


def test_a_night_runs_filters_and_reconciles_and_a_locked_folder_is_skipped(airflow, tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    write_one(source, "a", 40, seed=1)
    params = {
        "clipsieve": str(write_clipsieve(tmp_path / "clipsieve")),
        "config": str(write_config(tmp_path, source, out)),
        "out": str(out),
        "where": "clip_score >= 0.7 AND caption <> '; $(exit 1) \"'",
    }
    free, locked = airflow.states(**params)
    assert free == dict.fromkeys(TASKS, "success")
    assert locked == dict.fromkeys(TASKS, "skipped")
    with duckdb.connect() as connection:
        samples = f"read_parquet('{out}/samples/*.parquet')"
        assert connection.execute(f"SELECT count(*) FROM {samples}").fetchall() == [(40,)]
    assert list((out / "subsets" / "keep").iterdir())
