"""Runs with their audit: planted copies come first, whatever the workers and the interruptions."""

import shutil

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import clipsieve
from clipsieve.demo.samples import Kind
from clipsieve.demo.shards import write_shards
from tests.pipelines.jobs import exit_code, run_job

TABLES = ("groups", "members", "copies")


def view(out, query):
    """Rows of a query, as mappings."""
    relation = clipsieve.connect(out).sql(query)
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


def planted_in(shards):
    """Uids of the planted copies of a sample dataset."""
    truth = pa.concat_tables([pq.read_table(p) for p in (shards / "_truth").glob("*.parquet")])
    is_planted = pc.equal(truth["kind"], str(Kind.REPEATED_CAPTION))
    return set(truth.filter(is_planted)["uid"].to_pylist())


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """A finished run of the sample data, and what its audit said."""
    root = tmp_path_factory.mktemp("audit")
    write_shards(root / "in", 1000, 2, 0)
    return root, run_job(root / "in", root / "out").findings


@pytest.fixture
def out(audited, tmp_path):
    """A copy of its own of the run's folder."""
    shutil.copytree(audited[0] / "out", tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("seed", [0, 3])
def test_the_planted_copies_of_the_sample_data_come_first_as_one_line(audited, tmp_path, seed):
    (root, findings), shards = audited, tmp_path / "in"
    out = root / "out"
    if seed:
        write_shards(shards, 1000, 2, seed)
        out = tmp_path / "out"
        findings = run_job(shards, out).findings
    planted = planted_in(shards if seed else root / "in")
    assert len(planted) == 20
    groups = view(out, "FROM audit_groups ORDER BY rank")
    first = groups[0]
    members = view(out, "FROM audit_members WHERE rank = 1")
    assert len({row["uid"] for row in members} & planted) >= 18
    assert len(members) == first["rows"] <= 22
    assert first["n_captions"] == 1
    others = view(out, "FROM audit_members WHERE rank > 1")
    assert not {row["uid"] for row in others} & planted
    assert f"first: {first['rows']} rows, {first['finding']}, {first['captions'][0]!r}" in findings


def test_a_run_that_finds_nothing_new_to_score_says_nothing_of_groups(audited, out):
    root, findings = audited
    assert findings.startswith("audit: ")
    again = run_job(root / "in", out)
    assert (again.done, again.findings) == (0, "")


def test_every_row_of_each_group_is_in_the_views(out):
    groups = view(out, "FROM audit_groups")
    counts = view(
        out, "SELECT rank, count(*) AS n, count(DISTINCT uid) AS uids FROM audit_members GROUP BY 1"
    )
    assert {row["rank"]: row["n"] for row in counts} == {row["rank"]: row["rows"] for row in groups}
    mean = "SELECT rank, avg(m.clip_similarity) AS mean FROM audit_members m GROUP BY 1"
    means = {row["rank"]: row["mean"] for row in view(out, mean)}
    for group in groups:
        if group["witness"] == "clip_similarity":
            assert group["witness_mean"] == pytest.approx(means[group["rank"]], rel=1e-5)
    joined = view(
        out,
        "SELECT count(*) AS n FROM audit_members m JOIN samples s USING (uid) "
        "JOIN scores c USING (uid) WHERE m.clip_similarity IS NOT DISTINCT FROM c.clip_similarity",
    )
    assert joined[0]["n"] >= sum(group["rows"] for group in groups)


def test_a_filter_by_the_predicate_of_a_group_drops_its_rows_and_no_other(out):
    groups = view(out, "FROM audit_groups ORDER BY rank LIMIT 4")
    assert len(groups) >= 2
    for group in groups:
        name = f"without{group['rank']}"
        assert exit_code(["filter", str(out), "--name", name, "--where", group["keep"]]) == 0
        files = sorted((out / "subsets" / name).glob("rev=*/dropped/*.parquet"))
        dropped = [
            uid
            for file in files
            for uid in pq.read_table(file, partitioning=None)["uid"].to_pylist()
        ]
        members = view(out, f"FROM audit_members WHERE rank = {group['rank']}")
        assert sorted(dropped) == sorted(row["uid"] for row in members)


def test_copies_of_a_run_equal_a_count_in_sql(out):
    expected = view(
        out,
        "SELECT image_sha256, count(*) AS n FROM samples WHERE image_sha256 IS NOT NULL "
        "GROUP BY 1 HAVING n > 1",
    )
    found = view(out, "FROM copies WHERE kind = 'image_bytes'")
    counts = {row["image_sha256"]: row["rows"] for row in found}
    assert counts == {row["image_sha256"]: row["n"] for row in expected} and counts


def test_two_workers_find_the_groups_of_one(tmp_path):
    shards = tmp_path / "in"
    write_shards(shards, 500, 4, 1)
    tables = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        run_job(shards, out, workers=workers)
        files = sorted(out.glob("audits/*.parquet"))
        assert [file.stem for file in files] == sorted(TABLES)
        tables.append([pq.read_table(file, partitioning=None) for file in files])
    assert all(table.num_rows for table in tables[0])
    assert all(one.equals(two) for one, two in zip(*tables, strict=True))


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
        assert connection.sql("FROM audit_groups").fetchall() is not None


@pytest.mark.parametrize("table", TABLES)
def test_a_run_stopped_before_its_audit_audits_when_it_is_run_again(audited, out, table):
    root, findings = audited
    paths = [out / "audits" / f"{name}.parquet" for name in TABLES]
    before = [path.read_bytes() for path in paths]
    (out / "audits" / f"{table}.parquet").unlink()
    again = run_job(root / "in", out)
    assert again.findings == findings != ""
    assert [path.read_bytes() for path in paths] == before


def test_a_run_over_more_shards_audits_all_of_them(audited, out, tmp_path):
    root, _ = audited
    write_shards(tmp_path / "made", 100, 1, 9)
    more = (tmp_path / "made" / "00000.parquet").rename(tmp_path / "00009.parquet")
    again = run_job(root / "in", out, inputs=(f"{root}/in/*.parquet", str(more)))
    assert again.findings.startswith("audit: ")
    (row,) = view(out, "SELECT count(*) AS n FROM samples")
    assert f" of {row['n']:,} rows in " in again.findings


def test_the_audit_of_a_run_is_that_of_the_command(out, capsys):
    before = {name: (out / "audits" / f"{name}.parquet").read_bytes() for name in TABLES}
    assert exit_code(["audit", str(out)]) == 0
    assert capsys.readouterr().out.startswith("audit: ")
    after = {name: (out / "audits" / f"{name}.parquet").read_bytes() for name in TABLES}
    assert after == before
