"""Which engines can be named, under which names, and what each of them is refused without."""

import importlib
import signal
import subprocess
import sys

import pytest

from clipsieve.errors import EngineError, UsageError, WorkersLost
from clipsieve.pipelines.engines.base import Backend, LocalBackend, explain_text
from clipsieve.pipelines.engines.choose import make_backend
from clipsieve.pipelines.engines.dask import DaskBackend
from clipsieve.pipelines.engines.job_server import JobServerBackend
from clipsieve.runner_names import DASK_RUNNER, LOCAL_RUNNER, beam_runner
from clipsieve.stage import Element

SERVICE = ("--job_endpoint=localhost:9", "--environment_type=EXTERNAL")


@pytest.mark.parametrize("name", ["dask", "Dask", "DaskRunner", "daskrunner", DASK_RUNNER])
def test_dask_has_a_short_name_and_beam_s_own(name):
    assert isinstance(make_backend(name), DaskBackend)
    assert make_backend(name).runner == DASK_RUNNER


@pytest.mark.parametrize("name", ["portable", "flink", "SparkRunner", "FlinkRunner"])
def test_engines_behind_a_job_service(name):
    backend = make_backend(name, SERVICE)
    assert isinstance(backend, JobServerBackend)
    assert backend.runner.lower() == name.lower().removesuffix("runner") + "runner"


@pytest.mark.parametrize("name", ["FnApiRunner", "fnapirunner", "fnapi"])
def test_the_local_runner(name):
    assert isinstance(make_backend(name), LocalBackend)
    assert make_backend(name).runner == LOCAL_RUNNER


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("direct", (), "downloads and starts a binary of its own; use FnApiRunner"),
        ("PrismRunner", (), "downloads and starts a binary of its own"),
        ("NoSuchRunner", (), "runner 'NoSuchRunner' is not known to Beam"),
        ("portable", SERVICE[1:], "needs a job service; name it with --job_endpoint"),
        ("portable", SERVICE[:1], "without --environment_type starts containers of Beam's"),
        ("flink", SERVICE[1:], "downloads one from Maven; .*--flink_job_server_jar=PATH"),
        ("spark", SERVICE[1:], "downloads one from Maven; .*--spark_job_server_jar=PATH"),
        (
            "flink",
            (*SERVICE[1:], "--flink_job_server_jar=/nowhere.jar"),
            "--flink_job_server_jar=/nowhere.jar is no file on this machine",
        ),
        (
            "spark",
            (*SERVICE[1:], "--spark_job_server_jar=https://a.org/b.jar"),
            "is no file on this machine, and Beam would download it",
        ),
        ("dask", ("--dask_partition_size=1",), "grow with the square of the shards"),
        ("dask", ("--dask_npartitions=few",), "invalid int value"),
    ],
)
def test_what_cannot_work_or_would_download_is_refused(name, options, message):
    with pytest.raises(UsageError, match=message):
        make_backend(name, options)


def test_a_jar_that_is_there_will_do(tmp_path):
    (tmp_path / "server.jar").write_bytes(b"")
    jar = f"--flink_job_server_jar={tmp_path / 'server.jar'}"
    assert isinstance(make_backend("flink", (jar, *SERVICE[1:])), JobServerBackend)


def test_workers_here_and_a_scheduler_elsewhere_exclude_each_other():
    with pytest.raises(UsageError, match=r"workers=2 starts processes .* tcp://a:1 has its own"):
        make_backend("dask", ("--dask_client_address=tcp://a:1",), workers=2)


@pytest.mark.parametrize(
    ("runner", "module", "command"),
    [
        ("dask", "distributed", r"pip install 'clipsieve\[dask\]'"),
        ("dataflow", "apitools", r"pip install 'clipsieve\[dataflow\]'"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch, runner, module, command
):
    monkeypatch.setitem(sys.modules, module, None)
    for name in [name for name in sys.modules if name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UsageError, match=f"needs packages that are not installed .*: {command}"):
        make_backend(runner)


def test_a_scheduler_or_service_that_does_not_answer_is_an_error_within_seconds(monkeypatch):
    options = ("--dask_client_address=tcp://127.0.0.1:1", "--dask_connection_timeout=1")
    with pytest.raises(UsageError, match=r"Dask scheduler tcp://127\.0\.0\.1:1 does not answer"):
        make_backend("dask", options).options()
    with pytest.raises(UsageError, match="there is no scheduler file /nowhere"):
        make_backend("dask", ("--dask_scheduler_file=/nowhere",)).options()
    monkeypatch.setattr("clipsieve.pipelines.engines.job_server.CONNECT_SECONDS", 1)
    with pytest.raises(UsageError, match="job service localhost:9 does not answer within 1 s"):
        make_backend("portable", SERVICE).options()


def test_groups_are_of_about_equal_work():
    weights = [40, 1, 1, 1, 1, 1, 1, 40]
    elements = [Element(str(n), str(n), weight) for n, weight in enumerate(weights)]
    groups = Backend("own.Runner").groups(elements)
    assert [sum(element.weight for element in group) for group in groups] == [43, 43]
    assert Backend("own.Runner").groups([]) == [[]]


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (
            "Traceback\n  File a\nclipsieve.errors.DeviceError: no GPU [while running 'E/Work']\n",
            "DeviceError",
            "no GPU",
        ),
        ("ModuleNotFoundError: No module named 'own'", "EngineError", "No module named 'own'"),
        ("RuntimeError: Channel closed prematurely.", "WorkersLost", "Channel closed prematurely"),
        ('<_Rpc\n\tstatus = X\n\tdetails = "no route"\n>', "WorkersLost", "no route"),
        ("", "WorkersLost", "no message"),
    ],
)
def test_an_engine_s_text_becomes_an_error(text, kind, message):
    error = explain_text("FlinkRunner", text)
    assert type(error).__name__ == kind
    assert message in str(error) and "[while" not in str(error) and "\n" not in str(error)
    assert issubclass(WorkersLost, EngineError)


def test_names_of_one_s_own_runners_are_left_alone():
    assert beam_runner("own.dask.DaskRunner") == "own.dask.DaskRunner"


def test_an_engine_s_packages_are_imported_for_that_engine_only():
    code = "import sys, clipsieve.pipelines.engine as e; e.BeamEngine(); print(*sys.modules)"
    words = [sys.executable, "-c", code]
    loaded = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert "apache_beam" in loaded and not {"dask", "distributed"} & set(loaded)


def test_only_a_dask_worker_leaves_interrupts_to_the_driver():
    before = signal.getsignal(signal.SIGINT)
    importlib.reload(importlib.import_module("clipsieve.pipelines.engines.dask_worker"))
    assert signal.getsignal(signal.SIGINT) is before
