"""What is decided before anything is written, and without loading a model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clipsieve.errors import DeviceError
from clipsieve.job.run import dry_run
from clipsieve.pipelines.engine import make_engine
from clipsieve.settings import RunConfig
from tests.pipelines.jobs import SETTINGS, exit_code, run_command, run_job, tables, write_one

ELSEWHERE = "apache_beam.runners.portability.portable_runner.PortableRunner"
ITS_OPTIONS = ("--job_endpoint=localhost:9", "--environment_type=EXTERNAL")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, Path]:
    """Source and output of a run; tests must not change them."""
    folder = tmp_path_factory.mktemp("finished")
    write_one(folder / "source", "a", 10, seed=1)
    assert run_job(folder / "source", folder / "out").exit_code == 0
    return folder / "source", folder / "out"


def dry_run_of(source: Path, out: Path, **settings) -> dict:
    given = {**SETTINGS, **settings}
    config = RunConfig((f"{source}/*.parquet",), str(out), **given)
    return dry_run(config, make_engine(config))


def test_a_device_that_this_machine_lacks_is_planned_for_workers_that_are_elsewhere(
    finished, tmp_path, capsys
):
    source, _ = finished
    words = run_command(source, tmp_path / "out", "--dry-run", "--device", "cuda")
    words += ["--runner", ELSEWHERE, "--dtype", "auto", "--", *ITS_OPTIONS]
    assert exit_code(words) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["device"] == "cuda of a worker"
    assert plan["model"] == {"model": "tiny"}  # its weights and number format are the worker's
    assert plan["embeddings_rev"] is None
    assert (plan["todo"], plan["rows_to_do"], plan["done"]) == (["a"], 10, 0)
    assert plan["scorers"] == ["clip", "density"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_what_the_folder_records_need_not_be_asked_of_a_worker(finished, dtype):
    source, out = finished
    before = tables(out)
    plan = dry_run_of(
        source, out, device="cuda", runner=ELSEWHERE, beam_args=ITS_OPTIONS, dtype=dtype
    )
    assert (plan["device"], plan["todo"], plan["done"]) == ("cuda of a worker", [], 1)
    assert (plan["model"]["dtype"], len(plan["model"]["weights_sha256"])) == ("float32", 64)
    assert plan["embeddings_rev"] is not None
    assert tables(out) == before


@pytest.mark.parametrize("is_dry", [True, False])
def test_a_device_that_this_machine_lacks_is_refused_on_it(finished, tmp_path, is_dry):
    source, _ = finished
    with pytest.raises(DeviceError, match="cuda:99"):
        if is_dry:
            dry_run_of(source, tmp_path / "out", device="cuda:99")
        else:
            run_job(source, tmp_path / "out", device="cuda:99")
    assert not (tmp_path / "out" / "dataset.json").exists()


#: Runs something in a process in which no model can be loaded.
NO_MODEL = """
import sys
import open_clip

def refuse(*args, **kwargs):
    raise AssertionError("a model was loaded")

open_clip.create_model = refuse
import clipsieve
from clipsieve.cli import main
from clipsieve.clip import open as opened

try:
    main(sys.argv[1:])
except SystemExit as end:
    assert opened._loaded == {}, "a model is there"
    sys.exit(end.code)
"""


def without_model(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", NO_MODEL, *words], capture_output=True, text=True)


def test_a_folder_where_nothing_is_to_do_is_planned_without_loading_a_model(finished):
    source, out = finished
    for dtype in ("float32", "auto"):
        done = without_model(*run_command(source, out, "--dtype", dtype))
        assert done.returncode == 0, done.stderr
        assert "0 shards to do, 1 done before" in done.stderr
    done = without_model("score", str(out), "--scorers", "density")
    assert done.returncode == 0, done.stderr


def test_a_new_folder_is_planned_without_loading_a_model_and_needs_one_to_be_filled(
    finished, tmp_path
):
    source, _ = finished
    words = run_command(source, tmp_path / "out")
    for dtype in ("float32", "auto"):
        done = without_model(*words, "--dry-run", "--dtype", dtype)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["todo"] == ["a"]
    done = without_model(*words)
    assert done.returncode != 0 and "a model was loaded" in done.stderr
