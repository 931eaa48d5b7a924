"""Runs with their audit: planted copies come first, whatever the workers and the interruptions."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import clipsieve
from clipsieve.demo.samples import Kind
from clipsieve.demo.shards import write_shards
from tests.pipelines.jobs import run_job


@pytest.mark.parametrize("seed", [0, 3])
def test_the_planted_copies_of_the_sample_data_come_first_as_one_line(tmp_path, seed):
    shards, out = tmp_path / "in", tmp_path / "out"
    write_shards(shards, 1000, 2, seed)
    result = run_job(shards, out)
    truth = pa.concat_tables([pq.read_table(p) for p in (shards / "_truth").glob("*.parquet")])
    is_planted = pc.equal(truth["kind"], str(Kind.REPEATED_CAPTION))
    planted = set(truth.filter(is_planted)["uid"].to_pylist())
    assert len(planted) == 20
    query = clipsieve.connect(out).sql("FROM density_groups ORDER BY rank")
    groups = [dict(zip(query.columns, row, strict=True)) for row in query.fetchall()]
    first, second = groups[:2]
    assert first["size"] >= 18 and first["n_captions"] == 1
    assert set(first["uids"]) <= planted
    assert first["evidence"] > 2 * second["evidence"]
    assert [g["caption"] for g in groups].count(first["caption"]) == 1
    assert f"first: {first['size']} rows, {first['caption']!r}" in result.findings
    again = run_job(shards, out)
    assert (again.done, again.findings) == (0, "")


def test_two_workers_find_the_groups_of_one(tmp_path):
    shards = tmp_path / "in"
    write_shards(shards, 500, 4, 1)
    tables = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        run_job(shards, out, workers=workers)
        (path,) = out.glob("audits/**/*.parquet")
        tables.append(pq.read_table(path, partitioning=None))
    assert tables[0].num_rows > 1
    assert tables[0].equals(tables[1])


def test_rows_that_gain_or_lose_their_embedding_gain_and_lose_their_score(tmp_path):
    shards, out = tmp_path / "in", tmp_path / "out"
    write_shards(shards / "small", 60, 1, 1, size=32)
    write_shards(shards / "large", 60, 1, 2, size=64)
    pattern = {"inputs": (f"{shards}/*/*.parquet",)}
    for side in (40, 200, 40):
        run_job(shards, out, **pattern, max_image_side=side)
        connection = clipsieve.connect(out)
        scored, embedded = connection.sql(
            "SELECT count(density_kdist), count(image_width) FILTER (status = 'ok') FROM scores"
        ).fetchall()[0]
        assert scored >= embedded > 40
        assert (scored > 70) == (side == 200)
        assert connection.sql("FROM density_groups").fetchall() is not None


def test_a_run_stopped_before_its_audit_audits_when_it_is_run_again(tmp_path):
    shards, out = tmp_path / "in", tmp_path / "out"
    write_shards(shards, 200, 2, 1)
    first = run_job(shards, out)
    (groups,) = out.glob("audits/**/groups.parquet")
    before = groups.read_bytes()
    groups.unlink()
    again = run_job(shards, out)
    assert again.findings == first.findings != ""
    assert groups.read_bytes() == before
