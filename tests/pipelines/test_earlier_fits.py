"""A run says when it scores new shards by what a scorer learnt of other rows before."""

import datetime
import json
import shutil

import pytest

import clipsieve
from clipsieve.demo.shards import write_shards
from tests.pipelines.jobs import run_job


def references(capfd):
    """The events `reference` of all runs since the last call."""
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    return [line for line in lines if line["event"] == "reference"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Three shards; the last waits beside the others."""
    folder = tmp_path_factory.mktemp("in")
    write_shards(folder, 240, 3, 1)
    (folder / "00002.parquet").rename(folder / "00002.waiting")
    return folder


def test_new_shards_are_said_to_be_scored_by_the_earlier_reference(shards, tmp_path, capfd):
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(shards, source)
    given = {"log_format": "json"}
    run_job(source, out, **given)
    assert references(capfd) == []
    (source / "00002.waiting").rename(source / "00002.parquet")
    run_job(source, out, **given)
    (event,) = references(capfd)
    today = datetime.datetime.now(datetime.UTC).date()
    assert abs((datetime.date.fromisoformat(event["since"]) - today).days) <= 1
    assert (event["scorer"], event["shards"], event["learned_rows"]) == ("density", 1, 160)
    assert event["text"].startswith(
        f"density: 1 new shard is scored by what was learnt, in use since {event['since']}, of "
        "160 rows of 2 shards"
    )
    # Said once: nothing is scored by it any more.
    run_job(source, out, **given)
    assert references(capfd) == []


def test_a_fit_of_all_rows_is_no_earlier_one(shards, tmp_path, capfd):
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(shards, source)
    run_job(source, out)
    (source / "00002.waiting").rename(source / "00002.parquet")
    run_job(source, out)
    capfd.readouterr()
    clipsieve.score(str(out), ["density"], refit=True, log_format="json")
    assert references(capfd) == []


def test_runs_whose_names_are_no_times_leave_the_date_out(shards, tmp_path, capfd):
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(shards, source)
    run_job(source, out, run_id="nightly-1")
    (source / "00002.waiting").rename(source / "00002.parquet")
    capfd.readouterr()
    run_job(source, out, run_id="nightly-2", log_format="json")
    (event,) = references(capfd)
    assert event["since"] is None and "by what was learnt of 160 rows" in event["text"]
