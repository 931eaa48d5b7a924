"""Views and macros give the numbers that numpy gives, from anywhere."""

import dataclasses
import os
import signal
import threading
import time
from pathlib import Path

import duckdb
import numpy as np
import pytest

from clipsieve.errors import UsageError
from clipsieve.sql.connect import connect, run_query
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import Manifest
from tests.store.folders import make_folder, shard_of

SHARDS = [shard_of("a", 30, seed=1, no_image=[3, 7]), shard_of("b", 20, seed=2, no_text=[0])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made, _ = make_folder(tmp_path_factory.mktemp("it's an") / 'o"ut put', SHARDS)
    return Path(made.root)


@pytest.fixture(scope="module")
def score():
    """clip_score of all rows, NaN where there is none."""
    parts = []
    for shard in SHARDS:
        image, text = shard.pairs.image, shard.pairs.texts[""]
        with np.errstate(invalid="ignore"):
            cosine = (image.vectors * text.vectors).sum(1) / (
                np.linalg.norm(image.vectors, axis=1) * np.linalg.norm(text.vectors, axis=1)
            )
        parts.append(2.5 * np.maximum(cosine, 0))
    return np.concatenate(parts)


@pytest.fixture
def rows(folder, tmp_path, monkeypatch):
    """Rows of a query, from another working directory."""
    monkeypatch.chdir(tmp_path)
    connection = connect(folder)
    return lambda query: connection.sql(query).fetchall()


def test_every_view_has_its_rows(rows):
    counts = {
        name: rows(f"SELECT count(*) FROM {name}")[0][0]
        for name in ("scores", "score_columns", "samples", "embeddings", "clip", "runs", "shards")
    }
    assert counts == dict(
        scores=50, score_columns=2, samples=50, embeddings=50, clip=50, runs=1, shards=2
    )


def test_scores_are_those_of_numpy(rows, score):
    found = rows("SELECT clip_score FROM scores ORDER BY shard, row")
    values = np.array([np.nan if value is None else value for (value,) in found])
    assert np.allclose(values, score, atol=1e-6, equal_nan=True)


def test_published_name_is_an_alias(rows):
    query = "SELECT count(*) FROM scores WHERE clip_tiny_similarity_score = clip_similarity"
    assert rows(query) == [(47,)]


def test_cosine_of_stored_vectors_is_the_score(rows):
    query = """SELECT max(abs(array_inner_product(image_embedding, text_embedding)
                              - clip_similarity)), count(*)
               FROM embeddings JOIN scores USING (uid) WHERE clip_similarity IS NOT NULL"""
    ((worst, count),) = rows(query)
    assert count == 47 and worst < 2e-3


def test_keep_fractions(rows, score):
    t = 0.5
    ((of_all, of_scored),) = rows(
        f"SELECT keep_fraction(clip_score, {t}), keep_fraction_scored(clip_score, {t}) FROM scores"
    )
    assert of_all == pytest.approx((score >= t).sum() / 50)
    assert of_scored == pytest.approx((score >= t).sum() / 47)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.3, 1.0])
def test_threshold_for_keep_keeps_that_many(rows, score, fraction):
    ((threshold,),) = rows(f"SELECT threshold_for_keep(clip_score, {fraction}) FROM scores")
    scored = score[~np.isnan(score)].astype(np.float32)
    if threshold > 0:  # zeros are one big tie
        assert abs((scored >= np.float32(threshold)).sum() - fraction * 47) <= 1


def test_score_summary(rows, score):
    ((count, scored, low, high, mean, sd, quantiles),) = rows(
        "FROM score_summary('scores', 'clip_score')"
    )
    values = score[~np.isnan(score)]
    assert (count, scored) == (50, 47)
    assert [low, high, mean, sd] == pytest.approx(
        [values.min(), values.max(), values.mean(), values.std(ddof=1)], abs=1e-6
    )
    wanted = np.quantile(values, [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
    assert quantiles == pytest.approx(wanted, abs=1e-6)


def test_score_histogram(rows, score):
    found = {
        bin: count
        for bin, _, _, count in rows("FROM score_histogram('scores', 'clip_score', n:=5)")
    }
    values = score[~np.isnan(score)]
    counts, _ = np.histogram(values, bins=5)
    assert [found.get(number, 0) for number in range(5)] == counts.tolist()


def test_shards_have_states_as_a_map(rows):
    assert rows("SELECT states['missing_image'] FROM shards WHERE shard = 'a'") == [(2,)]


def test_files_in_the_folder_work_in_plain_duckdb(folder, monkeypatch):
    monkeypatch.chdir(folder)
    connection = duckdb.connect()
    for name in ("views", "macros"):
        connection.execute((folder / "sql" / f"{name}.sql").read_text())
    found = connection.sql("SELECT keep_fraction(clip_score, 0) FROM scores").fetchall()
    assert found == [(pytest.approx(0.94),)]


def test_views_without_files_are_left_out(tmp_path):
    folder, _ = make_folder(tmp_path / "out", SHARDS[:1], wide=False)
    names = {name for (name,) in connect(folder.root).sql("SHOW TABLES").fetchall()}
    assert names == {"score_columns", "samples", "embeddings", "clip", "runs", "shards"}
    empty = OutputFolder.open(tmp_path / "empty")
    empty.save_manifest(folder.require_manifest())
    assert connect(empty.root).sql("SHOW TABLES").fetchall() == []


def test_folder_without_dataset_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no clipsieve dataset"):
        connect(tmp_path)


@pytest.mark.parametrize("name", ["a,b", 'it\'s, [a] *? "name"\n%20#', "~{a,b}"])
def test_folder_of_any_name_has_views_from_anywhere(tmp_path, monkeypatch, name):
    folder, _ = make_folder(tmp_path / name, SHARDS[:1])
    make_folder(tmp_path / "its, a b", SHARDS)  # which a pattern without escapes could match
    monkeypatch.chdir(tmp_path)
    connection = connect(folder.root)
    assert connection.sql("SELECT count(*) FROM scores").fetchall() == [(30,)]
    assert connection.sql("SELECT count(*) FROM samples").fetchall() == [(30,)]
    assert connection.sql("SELECT count(*) FROM shards").fetchall() == [(1,)]


def test_relative_paths_in_queries_are_those_of_the_folder(rows):
    assert rows("SELECT count(*) FROM 'samples/*.parquet'") == [(50,)]


@pytest.mark.parametrize(
    "query", ["SELEC 1", "SELECT nothing FROM scores", "SELECT caption::INT FROM scores"]
)
def test_failing_query_is_a_usage_error(folder, query):
    with pytest.raises(UsageError, match="query failed: "):
        run_query(folder, query)


def test_query_without_a_result(folder):
    assert run_query(folder, "-- nothing") is None


def test_rows_of_an_answer_are_limited(folder):
    answer = run_query(folder, "SELECT row FROM scores ORDER BY uid", at_most=3)
    assert answer is not None
    assert (answer.columns, len(answer.rows)) == (["row"], 3)


def test_an_interrupt_ends_a_query(folder):
    query = "SELECT count(*) FROM range(999999) a, range(999999) b WHERE a.range * b.range % 7 = 3"
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    begin = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run_query(folder, query)
    assert time.monotonic() - begin < 30


def test_a_locked_query_reads_the_folder_and_nothing_else(folder, tmp_path):
    (tmp_path / "secret.csv").write_text("a\n1\n")
    whole = run_query(folder, "SELECT count(*) FROM scores", locked=True)
    assert whole is not None and whole.rows == [(50,)]
    for query in (f"FROM '{tmp_path}/secret.csv'", "FROM read_text('samples/../../../x')"):
        with pytest.raises(UsageError, match="query failed: Permission Error"):
            run_query(folder, query, locked=True)
    for query in (
        f"COPY (SELECT 1) TO '{tmp_path}/x.csv'",
        f"COPY (SELECT 1) TO '{folder}/x.csv'".replace("it's", "it''s"),
        "SET lock_configuration = false",
        "LOAD httpfs",
        f"ATTACH '{tmp_path}/x.db'",
        "SELECT 1; CREATE TABLE t AS SELECT 1",
    ):
        with pytest.raises(UsageError, match="a locked query reads only, and this has a statement"):
            run_query(folder, query, locked=True)
    assert os.listdir(tmp_path) == ["secret.csv"]


def test_missing_scores_say_why(tmp_path):
    empty = OutputFolder.open(tmp_path / "empty")
    empty.save_manifest(Manifest())
    with pytest.raises(UsageError, match="empty has no view scores: no shard is done; `"):
        run_query(empty.root, "SELECT * FROM scores")
    begun, manifest = make_folder(tmp_path / "begun", SHARDS[1:])
    begun.save_manifest(dataclasses.replace(manifest, wide=None))
    with pytest.raises(UsageError, match="no run has come to its end; run the same"):
        run_query(begun.root, "SELECT * FROM scores")
