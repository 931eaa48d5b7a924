"""Conditions of `fail_if`, on a folder with two runs whose figures are known."""

import pyarrow as pa
import pytest

from clipsieve.errors import UsageError
from clipsieve.schemas import footers
from clipsieve.schemas.run_metrics import RUN_METRICS
from clipsieve.sql.checks import check_query, run_check
from clipsieve.sql.views import write_sql
from clipsieve.store import names
from tests.store.folders import make_folder, shard_of

#: Run, time, metric, name, value.
VALUES = [
    ("one", 1.0, "share", "ok", 0.9),
    ("one", 1.0, "share", "fetch_failed", 0.1),
    ("one", 1.0, "mean", "clip_score", 1.5),
    ("two", 2.0, "share", "ok", None),
    ("two", 2.0, "share", "fetch_failed", None),
    ("two", 2.0, "mean", "clip_score", None),
    ("three", 3.0, "share", "ok", 0.75),
    ("three", 3.0, "share", "fetch_failed", 0.25),
    ("three", 3.0, "mean", "clip_score", 1.25),
    ("three", 3.0, "mean", "new_score", 3.0),
]


def write_metrics(folder, runs):
    for run in runs:
        rows = [dict(zip(RUN_METRICS.names, v, strict=True)) for v in VALUES if v[0] == run]
        footer = {footers.RUN_ID: run, footers.ROWS: str(len(rows))}
        table = pa.Table.from_pylist(rows, schema=RUN_METRICS)
        folder.write_table(names.run_metrics(run), table, footer)
    write_sql(folder, folder.require_manifest())


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> str:
    folder, _ = make_folder(tmp_path_factory.mktemp("checks") / "out", [shard_of("a", 12, seed=1)])
    write_metrics(folder, ["one", "two", "three"])
    return str(folder.root)


@pytest.mark.parametrize(
    ("check", "failed"),
    [
        ("share_of('fetch_failed') > 0.2", True),
        ("share_of('fetch_failed') > 0.25", False),
        ("share_of('ok') < 0.8 -- a comment", True),
        ("value_of('mean', 'clip_score') = 1.25", True),
        ("abs(change_of('mean', 'clip_score')) > 0.2", True),  # from 1.5: the run between has none
        ("abs(change_of('mean', 'clip_score')) > 0.25", False),
        ("change_of('mean', 'new_score') <> 0", False),  # NULL: there was none before
        ("(SELECT count(*) FROM samples) < 12", False),
        ("(SELECT count(*) FROM samples) < 13", True),
        ("NULL", False),
        ("SELECT 1 WHERE false", False),
    ],
)
def test_a_condition_fails_if_it_is_true(out, check, failed):
    result = run_check(out, check)
    assert (result.failed, result.rows) == (failed, 0)
    assert bool(result.detail) == failed


def test_a_condition_says_the_figures_that_it_names(out):
    check = "share_of('fetch_failed') > 0.2 AND abs(change_of('mean', 'clip_score')) > 0.2"
    detail = "share_of('fetch_failed') = 0.25, change_of('mean', 'clip_score') = -0.25"
    assert run_check(out, check).detail == detail
    assert run_check(out, "1 > 0").detail == "the condition is true"
    check = "share_of('ok') > 0 OR change_of('mean', 'new_score') > 0"
    assert run_check(out, check).detail.endswith("change_of('mean', 'new_score') = NULL")


def test_a_query_fails_by_the_rows_it_has_and_shows_how_many_and_the_first(out):
    result = run_check(out, 'FROM samples SELECT "row", shard ORDER BY "row"')
    assert (result.failed, result.rows, result.detail) == (True, 12, "first: row = 0, shard = a")
    assert result.line().endswith(": 12 rows, first: row = 0, shard = a")
    assert run_check(out, "SELECT * FROM samples WHERE false").line().startswith("check passed")


@pytest.mark.parametrize(
    ("check", "words"),
    [
        ("share_of('fetch_faild') > 0.1", "there is no row state fetch_faild"),
        ("value_of('mean', 'clip_scor') > 1", "has no mean of clip_scor for the last run"),
        ("change_of('men', 'clip_score') > 1", "has no men of clip_score for the last run"),
        ("SELECT * FROM nowhere", "nowhere"),
        ("no_such_column > 1", "no_such_column"),
        ("'x'::INT > 1", "Could not convert"),
        ("SELECT * FROM read_text('/etc/passwd')", "disabled by configuration"),
    ],
)
def test_a_check_that_cannot_be_evaluated_fails(out, check, words):
    result = run_check(out, check)
    assert result.failed and not result.rows
    assert result.detail.startswith("it cannot be evaluated: ") and words in result.detail


@pytest.mark.parametrize(
    ("check", "words"),
    [
        ("SELECT 1; SELECT 2", "holds 2 statements"),
        ("DROP TABLE samples", "is a statement DROP"),
        ("INSTALL httpfs", "is a statement"),
        ("1 > 0) OR (true", "neither a condition nor a query|goes on after its condition"),
        ("1 >", "neither a condition nor a query: Parser Error"),
        (" ", "is empty"),
        ("-- share_of('ok')", "is empty"),
    ],
)
def test_what_is_no_check_is_refused(check, words):
    with pytest.raises(UsageError, match=words):
        check_query(check)


def test_without_any_run_a_comparison_cannot_be_evaluated(tmp_path):
    folder, _ = make_folder(tmp_path / "out", [shard_of("a", 3, seed=1)])
    assert "share_of" in run_check(str(folder.root), "share_of('ok') < 1").detail
    write_metrics(folder, ["one"])
    assert run_check(str(folder.root), "share_of('ok') < 1").failed
    assert not run_check(str(folder.root), "change_of('share', 'ok') < 1").failed
