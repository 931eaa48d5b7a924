"""Scores follow the rows, the columns and the settings they were made of."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clipsieve
from clipsieve.control import Control
from clipsieve.errors import LedgerError, UsageError
from clipsieve.job.run import dry_run
from clipsieve.job.score import score
from clipsieve.pipelines.engine import BeamEngine, make_engine
from clipsieve.schemas import footers
from clipsieve.scorers.base import Scorer, score_column
from clipsieve.scorers.columns import scorer_basis
from clipsieve.scoring.learn import LearnStage, Sums
from clipsieve.settings import RunConfig, ScoreConfig
from clipsieve.stage import Element, Report, Stage
from clipsieve.store.folder import OutputFolder
from clipsieve.store.names import embeddings_folder
from tests.pipelines.jobs import SETTINGS, read, run_job, write_one


def with_references(path: Path, name: str, text: str) -> None:
    table = pq.read_table(path)
    pq.write_table(table.append_column(name, pa.array([text] * table.num_rows)), path)


def vectors_of(out: Path, shard: str) -> Path:
    entry = OutputFolder.open(out).require_manifest().embeddings
    assert entry is not None
    return out / embeddings_folder(entry.model, entry.revision) / f"{shard}.parquet"


def test_each_shard_has_the_references_that_it_was_read_with(tmp_path):
    one, two, out = tmp_path / "one", tmp_path / "two", tmp_path / "out"
    with_references(write_one(one, "a", 12, seed=1), "refs", "a red star")
    with_references(write_one(two, "b", 12, seed=2), "other", "a red star")
    scorers = ("clip", "clip_ref")
    run_job(one, out, references_col="refs", scorers=scorers)
    run_job(two, out, references_col="other", scorers=scorers)
    for shard in "ab":
        rows = clipsieve.connect(out).sql(
            f"SELECT count(*), count(ref_clip_score) FROM scores WHERE shard = '{shard}' "
            "AND status = 'ok'"
        )
        ok, scored = rows.fetchall()[0]
        assert ok == scored > 0


def test_another_column_of_references_gives_other_scores(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    path = write_one(source, "a", 12, seed=1)
    with_references(path, "refs", "a red star")
    with_references(path, "refs2", "three blue trees")
    run_job(source, out, references_col="refs", scorers=("clip", "clip_ref"))
    before = read(out, "wide")["clip_reference_similarity"].drop_null().to_numpy()
    run_job(source, out, references_col="refs2", scorers=("clip", "clip_ref"))
    after = read(out, "wide")["clip_reference_similarity"].drop_null().to_numpy()
    assert len(before) == len(after) > 0 and not np.isclose(before, after).any()


def test_vectors_of_other_rows_are_not_scored(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    for seed, name in enumerate("ab"):
        write_one(source, name, 12, seed=seed)
    run_job(source, out, scorers=("clip",))
    shutil.copy(vectors_of(out, "b"), vectors_of(out, "a"))
    with pytest.raises(LedgerError, match=r"a.parquet and .*differ in clipsieve.uid_hash"):
        clipsieve.score(out, "density", device="cpu")
    assert not (out / "scores" / "density").exists()


def test_the_logit_scale_is_read_or_nothing_is_scored(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    for seed, name in enumerate("ab"):
        write_one(source, name, 12, seed=seed)
    run_job(source, out, scorers=("clip",))
    scale = OutputFolder.open(out).read_footer(str(vectors_of(out, "b").relative_to(out)))
    assert float(scale[footers.LOGIT_SCALE]) == pytest.approx(26.975, abs=1e-3)
    for name in "ab":
        vectors_of(out, name).unlink()
    with pytest.raises(LedgerError, match=r"no embeddings of .* can be read"):
        clipsieve.score(out, "density", device="cpu")


@dataclasses.dataclass(frozen=True)
class StoppingEngine:
    """Beam, and a signal after the stage `after`."""

    after: str
    beam: BeamEngine = dataclasses.field(default_factory=BeamEngine)
    is_local = True

    def run(self, stage: Stage, elements: Sequence[Element], here: bool = False) -> Report:
        report = self.beam.run(stage, elements, here)
        if stage.name == self.after:
            stage.control.stop("SIGTERM")
        return report


def test_a_stop_after_the_last_shard_is_scored_still_shows_the_scores(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    write_one(source, "a", 12, seed=1)
    run_job(source, out, scorers=("clip",))
    config = ScoreConfig(str(out), scorers=("density",), device="cpu")
    result = score(config, StoppingEngine("score"))
    assert (result.done, result.left, result.exit_code) == (1, 0, 0)
    assert "density_kdist" in read(out, "wide").column_names


def test_nothing_is_learnt_of_a_shard_that_was_seen_twice(tmp_path):
    out = str(tmp_path / "out")
    stage = LearnStage(out, "r", "cpu", Control("r", out), None, (), {}, 10, 2)  # type: ignore[arg-type]
    report = stage.finish(Report(("a", "a"), value=Sums()))
    assert report.done == ("a", "a")
    assert not (tmp_path / "out").exists()


def test_a_scorer_with_another_column_input_or_prompt_has_another_revision():
    class Example(Scorer):
        name = family = "example"
        columns = pa.schema([score_column("example", "", "", "", "")])

        def score(self, batch, loaded):
            return {}

    column = score_column("more", "", "", "", "")
    wider = type("Wider", (Example,), {"columns": Example.columns.append(column)})
    typed = type("Typed", (Example,), {"columns": pa.schema([pa.field("example", pa.int32())])})
    prompted = type("Prompted", (Example,), {"prompt": "a photo of "})
    reading = type("Reading", (Example,), {"needs": frozenset()})
    kinds = (Example, wider, typed, prompted, reading)
    assert len({scorer_basis(kind(), "e") for kind in kinds}) == len(kinds)


def test_a_dry_run_refuses_another_model_that_only_a_worker_can_load(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    write_one(source, "a", 12, seed=1)
    run_job(source, out, scorers=("clip",))
    settings = {**SETTINGS, "dtype": "auto", "model": "ViT-B-32", "pretrained": "openai"}
    settings["runner"] = "portable"
    settings["beam_args"] = ("--job_endpoint=localhost:9", "--environment_type=EXTERNAL")
    config = RunConfig(inputs=(f"{source}/*.parquet",), out=str(out), **settings)
    with pytest.raises(UsageError, match=r"output of tiny .*would write ViT-B-32 openai"):
        dry_run(config, make_engine(config))
