"""The metrics file, read by the client library's own parser."""

import os
import stat

import pytest
from prometheus_client.parser import text_string_to_metric_families

from clipsieve.errors import StorageError
from clipsieve.job.prometheus import LAST_SUCCESS, RunGauges, write_metrics

GAUGES = RunGauges(
    "run",
    "/data/out",
    0,
    12.5,
    {"ok": 90, "fetch_failed": 10},
    {"ok": 9},
    {"done": 1, "skipped": 2, "failed": 0, "left": 0},
    4.5,
    0,
)


def samples(path):
    families = text_string_to_metric_families(path.read_text())
    return {
        (s.name, *(v for k, v in sorted(s.labels.items()) if k not in ("command", "out"))): s.value
        for family in families
        for s in family.samples
        if s.labels["command"] == "run" and s.labels["out"] == "/data/out"
    }


def test_every_gauge_is_there_with_type_and_help(tmp_path):
    path = tmp_path / "x.prom"
    write_metrics(str(path), GAUGES)
    read = samples(path)
    assert read["clipsieve_rows", "ok"] == 90 and read["clipsieve_rows", "fetch_failed"] == 10
    assert read["clipsieve_new_rows", "ok"] == 9
    assert [read["clipsieve_shards", s] for s in ("done", "skipped", "failed", "left")] == [
        1,
        2,
        0,
        0,
    ]
    assert read["clipsieve_rows_per_second",] == 4.5
    assert read["clipsieve_duration_seconds",] == 12.5
    assert read["clipsieve_exit_code",] == 0 and read["clipsieve_failed_checks",] == 0
    assert read["clipsieve_last_run_timestamp_seconds",] == read[LAST_SUCCESS,] > 1.7e9
    for family in text_string_to_metric_families(path.read_text()):
        assert family.type == "gauge" and family.documentation
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o644
    assert os.listdir(tmp_path) == ["x.prom"]


def test_the_last_success_is_kept_over_failures_and_replaced_by_a_success(tmp_path):
    path = tmp_path / "x.prom"
    write_metrics(str(path), RunGauges("run", "/data/out", 4, 1.0))
    assert (LAST_SUCCESS,) not in samples(path)
    write_metrics(str(path), GAUGES)
    first = samples(path)[LAST_SUCCESS,]
    for code in (1, 75, 143):
        write_metrics(str(path), RunGauges("run", "/data/out", code, 1.0))
        assert (
            samples(path)[LAST_SUCCESS,] == first and samples(path)["clipsieve_exit_code",] == code
        )
    write_metrics(str(path), GAUGES)
    assert samples(path)[LAST_SUCCESS,] > first
    write_metrics(str(path), RunGauges("run", "/other", 1, 1.0))
    assert LAST_SUCCESS not in path.read_text()


def test_labels_hold_any_path(tmp_path):
    path = tmp_path / "x.prom"
    out = 'a "b"\\c\nd'
    write_metrics(str(path), RunGauges("run", out, 0, 1.0))
    (sample,) = (
        sample
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
        if sample.name == LAST_SUCCESS
    )
    assert sample.labels["out"] == out


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(StorageError, match=r"metrics file .* cannot be written"):
        write_metrics(str(tmp_path / "nowhere" / "x.prom"), GAUGES)


def test_what_an_earlier_file_holds_may_be_anything(tmp_path):
    path = tmp_path / "x.prom"
    path.write_bytes(b"\xff{{{ no metrics")
    write_metrics(str(path), RunGauges("run", "/data/out", 1, 1.0))
    assert samples(path)["clipsieve_exit_code",] == 1
