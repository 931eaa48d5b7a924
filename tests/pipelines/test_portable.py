"""What the portable subset refuses, that our own pipelines are inside it, and one other engine."""

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from apache_beam.coders import VarIntCoder
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

from clipsieve.clip.model import ModelIdentity
from clipsieve.embed.job import EmbedJob
from clipsieve.fits.job import FitJob
from clipsieve.formats.base import ReadOptions
from clipsieve.formats.registry import plan_input
from clipsieve.pipelines import compact, embed, fit, score
from clipsieve.pipelines.portable import NotPortable, check_portable
from clipsieve.pipelines.runners import beam
from clipsieve.rescore import ScoreJob
from clipsieve.settings import RunConfig
from clipsieve.store.compact import Build, Part
from clipsieve.store.layout import Layout
from tests.pipelines.jobs import leftovers, run_job, tables, wait_for, write_one


class WithFinish(beam.DoFn):
    def process(self, element: int) -> list[int]:
        return [element]

    def finish_bundle(self) -> None:
        pass


STATE = beam.DoFn.StateParam(ReadModifyWriteStateSpec("last", VarIntCoder()))


class WithState(beam.DoFn):
    def process(self, element: tuple[str, int], last: Any = STATE) -> None:
        last.write(element[1])


def tagged(root: Any) -> Any:
    split = root | beam.Create([1]) | beam.ParDo(lambda x: [x]).with_outputs("odd", main="even")
    return (split.odd, split.even) | beam.Flatten()


def two_leaves(root: Any) -> None:
    numbers = root | beam.Create([1])
    numbers | "One" >> beam.Map(str)
    numbers | "Two" >> beam.Map(str)


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "tagged outputs": (tagged, "has tagged outputs"),
    "finish_bundle": (
        lambda root: root | beam.Create([1]) | beam.ParDo(WithFinish()),
        "has a finish_bundle",
    ),
    "state": (
        lambda root: root | beam.Create([("a", 1)]) | beam.ParDo(WithState()),
        "keeps state",
    ),
    "two leaves": (two_leaves, "has 2 leaves"),
    "nothing": (lambda root: None, "has 0 leaves"),
    "reading": (lambda root: root | beam.io.ReadFromText(__file__), "is Beam's ReadFromText"),
    "writing": (
        lambda root: root | beam.Create(["a"]) | beam.io.WriteToText("nowhere"),
        "is Beam's WriteToText, which not every engine runs",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_some_engine_runs_wrong_is_refused(name):
    build, reason = REFUSED[name]
    pipeline = beam.Pipeline(runner="FnApiRunner")
    build(pipeline)
    with pytest.raises(NotPortable, match=reason):
        check_portable(pipeline)


def embed_job(source: Path, out: Path) -> tuple[EmbedJob, list[list[str]]]:
    """A job over `source` that need not be run."""
    plan = plan_input((f"{source}/*.parquet",), ReadOptions())
    config = RunConfig(inputs=(f"{source}/*.parquet",), out=str(out), dtype="float32", run_id="x")
    identity = ModelIdentity("tiny", None, "0" * 64, False, 128, 24, {}, "float32")
    return EmbedJob(config, plan.source, identity, ("clip",)), [[i.to_json()] for i in plan.items]


def test_our_own_pipelines_are_portable(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    for seed, name in enumerate("abc"):
        write_one(source, name, 2, seed)
    job, groups = embed_job(source, out)
    where = {"model": "tiny", "rev": "0"}
    stored = ScoreJob(str(out), ("density",), {}, {"density": "0"}, {}, where, None, "cpu", "x")
    fitted = FitJob(str(out), ("density",), {}, {"density": "0"}, 128, where, "cpu", 0)
    wide = Build((Part(("a", "b"), 4, "1"), Part(("c",), 2, "2")), {"clip": "0"})
    builders: list[Callable[[Any], Any]] = [
        lambda root: embed.build(root, job, groups, out / "counts"),
        lambda root: score.build(root, stored, [["a", "b"]], out / "counts"),
        lambda root: fit.build(root, fitted, ["a", "b"], out / "counts"),
        lambda root: fit.build_lists(root, fitted, [["a"], ["b"]], out / "counts"),
        lambda root: compact.build(root, Layout.at(out), wide),
    ]
    for build in builders:
        pipeline = beam.Pipeline(runner="FnApiRunner")
        build(pipeline)
        check_portable(pipeline)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("localhost", port)) == 0


def test_the_portable_runner_gives_the_bytes_of_the_local_one(tmp_path):
    source, here, there = tmp_path / "source", tmp_path / "here", tmp_path / "there"
    for seed, name in enumerate("abcde"):
        write_one(source, name, 20, seed)
    run_job(source, here, run_id="fixed")
    port = free_port()
    module = "apache_beam.runners.portability.local_job_service_main"
    service = subprocess.Popen([sys.executable, "-m", module, "--port", str(port)])
    try:
        wait_for(lambda: answers(port), "the job service")
        options = ("--job_endpoint", f"localhost:{port}", "--environment_type", "LOOPBACK")
        result = run_job(source, there, run_id="fixed", runner="PortableRunner", beam_args=options)
    finally:
        service.terminate()
        service.wait()
    assert (result.exit_code, result.done) == (0, 5)
    assert tables(there) == tables(here)
    assert leftovers(there) == []
