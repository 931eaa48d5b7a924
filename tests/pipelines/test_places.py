"""Sources and outputs that move, collide, drift or are damaged; runners that do not exist."""

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clipsieve
from clipsieve.clip.model import TINY_FOLDER
from clipsieve.control import Control
from clipsieve.errors import UsageError
from clipsieve.job.plan import make_plan
from clipsieve.job.reporter import Reporter
from clipsieve.job.workers import run_in_workers
from clipsieve.pipelines.engine import make_engine
from clipsieve.settings import RunConfig
from clipsieve.store.folder import OutputFolder
from clipsieve.store.records import read_records
from tests.pipelines.jobs import SETTINGS, exit_code, read, run_job, write_one


@pytest.fixture
def source(tmp_path) -> Path:
    write_one(tmp_path / "source", "00000", 12, seed=1)
    return tmp_path / "source"


def rewrite(path: Path, **columns: pa.Array) -> None:
    """Write a shard again with some columns replaced or added."""
    table = pq.read_table(path)
    for name, values in columns.items():
        if name in table.column_names:
            table = table.drop_columns(name)
        table = table.append_column(name, values)
    pq.write_table(table, path)


def test_a_damaged_wide_part_is_written_again(source, tmp_path):
    out = tmp_path / "out"
    run_job(source, out)
    before = read(out, "wide")
    for part in (out / "wide").rglob("*.parquet"):
        part.write_bytes(b"junk")
    run_job(source, out)
    assert read(out, "wide").equals(before)


def test_another_source_of_equal_name_size_and_time_is_not_taken_for_done(source, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(source, other)
    run_job(source, tmp_path / "out")
    with pytest.raises(UsageError, match=r"is the output of .*; say --shard-prefix"):
        run_job(other, tmp_path / "out")
    run_job(other, tmp_path / "out", shard_prefix="b-")
    assert exit_code(["reconcile", str(tmp_path / "out")]) == 0
    assert read(tmp_path / "out", "samples").num_rows == 24


def test_a_source_that_has_moved_is_not_done_again(source, tmp_path):
    run_job(source, tmp_path / "out")
    os.rename(source, tmp_path / "moved")
    assert run_job(tmp_path / "moved", tmp_path / "out").skipped == 1
    assert exit_code(["reconcile", str(tmp_path / "out")]) == 0


def test_an_output_folder_among_the_inputs_is_refused(source):
    run_job(source, source / "out")
    with pytest.raises(UsageError, match="lies in the output folder"):
        clipsieve.run(f"{source}/**/*.parquet", str(source / "out"), **SETTINGS)


def test_a_column_whose_type_changes_between_runs_becomes_text(source, tmp_path):
    run_job(source, tmp_path / "out")
    later = write_one(tmp_path / "later", "00001", 12, seed=2)
    rewrite(later, width=pa.array(["wide"] * 12))
    assert run_job(later.parent, tmp_path / "out").exit_code == 0
    assert read(tmp_path / "out", "wide").schema.field("width").type == pa.string()


def test_uids_that_are_bytes_are_kept(source, tmp_path):
    (path,) = source.glob("*.parquet")
    uids = pa.array([bytes([200, at]) * 8 for at in range(12)], pa.binary(16))
    rewrite(path, uid=uids)
    run_job(source, tmp_path / "out")
    assert read(tmp_path / "out", "samples")["uid"].to_pylist() == uids.to_pylist()
    assert exit_code(["reconcile", str(tmp_path / "out")]) == 0


def test_a_model_folder_named_from_another_directory_is_the_same_model(
    source, tmp_path, monkeypatch
):
    shutil.copytree(TINY_FOLDER, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    run_job(source, tmp_path / "out", model="local-dir:model")
    monkeypatch.chdir(source)
    again = run_job(source, tmp_path / "out", model="local-dir:../model")
    assert (again.skipped, again.done) == (1, 0)


def test_a_worker_counts_what_a_dead_one_had_finished(source, tmp_path):
    """As after a death between a shard's last rename and its record."""
    out = tmp_path / "out"
    run_job(source, out, run_id="first")
    config = RunConfig((f"{source}/*.parquet",), str(out), **{**SETTINGS, "run_id": "second"})
    folder, control = OutputFolder.open(out), Control("second", str(out))
    plan = make_plan(config, folder, None, make_engine(config), Reporter("json"), control)
    assert plan.stage is not None
    total = run_in_workers(plan.stage, plan.stage.elements(plan.inputs.items), 2)
    assert (total.done, total.rows.rows, total.rows.shards) == (("00000",), 12, 1)
    assert [r.rows for r in read_records(folder, "second")] == [12]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"runner": "NoSuchRunner"}, "runner 'NoSuchRunner' is not known to Beam"),
        ({"runner": "DirectRunner"}, "downloads and starts a binary of its own"),
        ({"beam_args": ("--no_such_option=1",)}, "knows no option no_such_option"),
    ],
)
def test_runners_and_options_that_do_not_exist_are_refused(source, tmp_path, settings, message):
    with pytest.raises(UsageError, match=message):
        run_job(source, tmp_path / "out", **settings)


def test_paths_names_and_times_may_be_given_as_single_values(source, tmp_path):
    result = clipsieve.run(
        source / "00000.parquet",
        str(tmp_path / "out"),
        **{**SETTINGS, "scorers": "clip, clip_depicts", "deadline": "1h"},
    )
    assert result.exit_code == 0
    names = read(tmp_path / "out", "wide").column_names
    assert {"clip_score", "clip_score_depicts"} <= set(names)
