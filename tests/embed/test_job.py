"""What decides the revision of a ledger, and how many threads decode."""

import dataclasses

import pytest

import clipsieve
from clipsieve.clip.open import open_model
from clipsieve.control import Control
from clipsieve.demo.shards import write_shards
from clipsieve.embed.job import EmbedStage, Limits
from clipsieve.formats.base import ReadOptions
from clipsieve.formats.registry import plan_input
from tests.store.folders import MODEL


@pytest.fixture
def stage(tmp_path):
    write_shards(tmp_path / "source", 4, 1, 1)
    plan = plan_input(str(tmp_path / "source" / "*.parquet"), ReadOptions())
    control = Control("x", str(tmp_path / "out"))
    return EmbedStage(
        str(tmp_path / "out"), "x", "cpu", control, MODEL, plan.source, Limits(1, 2, 3)
    )


def test_everything_that_decides_a_ledger_row_is_in_its_revision(stage):
    revision = stage.revisions().ledger
    source = dataclasses.replace(stage.source, max_caption_bytes=99)
    for changed in (
        dataclasses.replace(stage, leave_out=("width",)),
        dataclasses.replace(stage, source=source),
        dataclasses.replace(stage, limits=Limits(2, 2, 3)),
    ):
        assert changed.revisions().ledger != revision
    orders = [dataclasses.replace(stage, leave_out=names) for names in (("a", "b"), ("b", "a"))]
    assert orders[0].revisions() == orders[1].revisions()


def test_a_column_that_is_left_out_later_leaves_the_ledger(tmp_path):
    write_shards(tmp_path / "source", 6, 1, 1)
    inputs, out = [str(tmp_path / "source" / "*.parquet")], str(tmp_path / "out")
    options = {"model": "tiny", "scorers": ("clip",)}
    assert clipsieve.run(inputs, out, **options).done == 1
    assert clipsieve.run(inputs, out, **options).done == 0
    assert clipsieve.run(inputs, out, leave_out=("width",), **options).done == 1
    columns = clipsieve.connect(out).sql("SELECT * FROM samples").columns
    assert "width" not in columns and "height" in columns


def test_a_worker_decodes_on_its_share_of_the_cores(stage, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    stage = dataclasses.replace(stage, model=open_model("tiny", None, "cpu", "float32").identity)
    assert stage.open()._embedder.threads == 3
    assert dataclasses.replace(stage, threads=5).open()._embedder.threads == 5
