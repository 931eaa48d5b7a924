"""What the portable subset refuses, that our own pipelines are inside it, and one other engine."""

import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from apache_beam.coders import VarIntCoder
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

from clipsieve.control import Control
from clipsieve.embed.commit import embeddings_entry
from clipsieve.embed.job import EmbedStage, Limits
from clipsieve.formats.base import ReadOptions
from clipsieve.formats.registry import plan_input
from clipsieve.job.compact import compact
from clipsieve.job.guarded import GuardedStage
from clipsieve.job.probe import ProbeStage
from clipsieve.neighbours.stored import NeighbourStage
from clipsieve.pipelines import remote
from clipsieve.pipelines.engine import BeamEngine
from clipsieve.pipelines.portable import NotPortable, check_portable
from clipsieve.pipelines.run_stage import run_groups
from clipsieve.pipelines.runners import beam
from clipsieve.pipelines.stage import build
from clipsieve.pipelines.worker import ReportingStage
from clipsieve.scorers.base import PromptSet
from clipsieve.scoring.learn import Basis, LearnStage, ScorerSpec
from clipsieve.scoring.prompts import PromptStage
from clipsieve.scoring.score import FamilySpec, ScoreStage
from clipsieve.stage import Report, Stage, on_device
from clipsieve.store.compact import Build, CompactStage, Part
from tests.engines.clusters import answers, free_port
from tests.pipelines.jobs import leftovers, run_job, tables, wait_for, write_one
from tests.pipelines.plugins import install_scorer
from tests.store.folders import DIM, MODEL


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
    make, reason = REFUSED[name]
    pipeline = beam.Pipeline(runner="FnApiRunner")
    make(pipeline)
    with pytest.raises(NotPortable, match=reason):
        check_portable(pipeline)


def stages(source: Path, out: Path) -> list[Stage]:
    """Every stage there is, over `source`; none need be run."""
    plan = plan_input((f"{source}/*.parquet",), ReadOptions())
    control = Control("x", str(out))
    common: dict[str, Any] = {"out": str(out), "run_id": "x", "device": "cpu", "control": control}
    prompts = PromptSet.from_templates(["cat", "dog"])
    basis = Basis(MODEL, embeddings_entry(MODEL), 100.0)
    spec = ScorerSpec("density", {"reference": 20}, "0" * 8, "1" * 8)
    family = FamilySpec("density", "2" * 8, (spec,))
    build = Build((Part(("a", "b"), 4, "1"), Part(("c",), 2, "2")), {"clip": "0"})
    entry = basis.embeddings
    return [
        ProbeStage(**common, model="tiny", pretrained=None, dtype="auto"),
        EmbedStage(**common, model=MODEL, source=plan.source, limits=Limits(1, 1, 1)),
        PromptStage(**common, model=MODEL, embeddings=entry, prompts=(prompts,)),
        NeighbourStage(**common, sets=("3" * 8,), embeddings=entry, dim=DIM),
        LearnStage(**common, basis=basis, scorers=(spec,), passes={"density": 0}, rows=6, shards=3),
        ScoreStage(**common, basis=basis, families=(family,), references_col=None, rows=6),
        CompactStage(out=str(out), run_id="x", control=control, build=build),
    ]


def test_our_own_pipelines_are_portable(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    for seed, name in enumerate("abc"):
        write_one(source, name, 2, seed)
    names = set()
    for stage in stages(source, out):
        reporting = ReportingStage(stage, str(tmp_path / "report"))
        for each in (stage, reporting, GuardedStage(stage, "1")):
            for spread in (True, False):
                pipeline = beam.Pipeline(runner="FnApiRunner")
                build(pipeline, each, [["a", "b"], ["c"]], "_runs/x.report", spread)
                check_portable(pipeline)
            copy = pickle.loads(pickle.dumps(each))
            assert copy == each and copy.control is each.control
            assert on_device(stage, "cuda:1").device == "cuda:1"
        names.add(stage.name)
    assert len(names) == 7
    assert not out.exists()


PROMPTED = """
import pyarrow as pa
from clipsieve import Input, PromptSet, Scorer, score_column

PROMPTS = PromptSet.from_templates(["cat", "dog"])

class Plugin(Scorer):
    name = family = "prompted"
    columns = pa.schema([score_column("prompted", "doc", "none", "[-1, 1]", "test")])

    def prompts(self):
        return (PROMPTS,)

    def score(self, batch, loaded):
        return {"prompted": batch.image_cosines(PROMPTS)[:, 0]}
"""


@contextmanager
def job_service() -> Iterator[tuple[str, ...]]:
    """A job service in a process of its own; options by which the portable runner uses it."""
    port = free_port()
    module = "apache_beam.runners.portability.local_job_service_main"
    service = subprocess.Popen([sys.executable, "-m", module, "--port", str(port)])
    try:
        wait_for(lambda: answers(port), "the job service")
        yield "--job_endpoint", f"localhost:{port}", "--environment_type", "LOOPBACK"
    finally:
        service.terminate()
        service.wait()


def test_the_portable_runner_gives_the_bytes_of_the_local_one_in_every_stage(tmp_path, monkeypatch):
    source, here, there = tmp_path / "source", tmp_path / "here", tmp_path / "there"
    install_scorer(tmp_path / "site", "prompted", PROMPTED, monkeypatch)
    for seed, name in enumerate("abcde"):
        write_one(source, name, 20, seed)
    settings: dict[str, Any] = {
        "run_id": "fixed",
        "scorers": ("clip", "clip_depicts", "density", "prompted"),
        "scorer_options": {"density": {"reference": "20,all", "k": 3, "lid_k": 4}},
    }
    run_job(source, here, **settings)
    monkeypatch.setenv("CLIPSIEVE_CACHE", str(tmp_path / "cache"))  # so that prompts are encoded
    ran: list[str] = []

    def seen(stage: Stage, groups: Any, backend: Any) -> Report:
        ran.append(stage.name)
        return run_groups(stage, groups, backend)

    monkeypatch.setattr(remote, "run_groups", seen)
    with job_service() as options:
        result = run_job(source, there, **settings, runner="PortableRunner", beam_args=options)
        shutil.rmtree(there / "wide")
        compact(str(there), BeamEngine("PortableRunner", options))
    assert (result.exit_code, result.done) == (0, 5)
    assert tables(there) == tables(here)
    assert leftovers(there) == []
    assert set(ran) == {"probe", "embed", "prompts", "neighbours", "learn", "score", "compact"}
