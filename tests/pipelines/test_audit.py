"""The audit of a whole folder: planted copies come first, and the table says what was printed."""

import dataclasses
import io
import json
import math
import re

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import clipsieve
from clipsieve.cli import main
from clipsieve.demo.samples import Kind
from clipsieve.demo.shards import write_shards
from clipsieve.errors import LedgerError, Locked, UsageError
from clipsieve.pipelines.audit import audit
from clipsieve.pipelines.audit import main as audit_main
from clipsieve.schemas import footers
from clipsieve.store import dataset as datasets
from clipsieve.store.layout import Layout
from clipsieve.store.lock import exclusive
from clipsieve.store.parquet import read_footer, write_table
from tests.audit.folders import COLUMN, REVISION, Row, direction, write_folder, write_scores
from tests.pipelines.jobs import exit_code, run_job


def ordinary(count, start=0):
    """Rows of low scores, different captions and pictures."""
    rng = np.random.default_rng(start)
    return [
        Row(f"o{n:04}", n / 10_000, f"caption {n}", rng.normal(size=8).tolist(), f"http://o/{n}")
        for n in range(start, start + count)
    ]


CAKES = [
    Row(f"cake{n}", 5.0, "Birthday cake" + "!" * (n % 3), direction(1, n / 100), f"http://c/{n}")
    for n in range(12)
]
PAIR = [Row(f"pair{n}", 8.0, "a pair", direction(2), f"http://p/{n}") for n in range(2)]
FAILED = [Row(f"failed{n}", None, "Birthday cake", (), f"http://f/{n}") for n in range(5)]
ROWS = [*ordinary(300), *CAKES, *PAIR, *FAILED]


@pytest.fixture
def folder(tmp_path):
    """Two shards with planted copies and an honest pair of duplicates."""
    return write_folder(tmp_path / "out", {"a": ROWS[:150], "b": ROWS[150:]}).root


def groups_in(folder):
    """Rows of the view, as mappings."""
    relation = clipsieve.connect(folder).sql("FROM density_groups")
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


def test_planted_copies_are_the_first_group_and_the_pair_comes_after(folder):
    result = audit(folder)
    assert [group.size for group in result.groups] == [12, 2]
    assert (result.scored, result.suspicious) == (314, 32)
    assert result.summary() == (
        "audit: 32 of 314 scored rows by density_kdist in 2 groups; first: 12 rows, 'Birthday cake'"
    )


def test_table_holds_what_the_result_says(folder):
    result = audit(folder)
    found = groups_in(folder)
    assert [row.pop("rank") for row in found] == [1, 2]
    for row, group in zip(found, result.groups, strict=True):
        for name, value in dataclasses.asdict(group).items():
            expected = list(value) if isinstance(value, tuple) else value
            if isinstance(value, float):
                expected = pytest.approx(value, rel=1e-6)
            assert row[name] == expected, name
        assert set(row) == {field.name for field in dataclasses.fields(group)}
    cake = found[0]
    assert cake["uids"] == [f"cake{n}" for n in (0, 1, 10, 11, 2)]
    assert cake["urls"] == [f"http://c/{n}" for n in (0, 1, 10, 11, 2)]
    assert cake["rows"] == 12  # the failed rows have no score and do not count
    assert cake["share"] == pytest.approx(12 / 314)


def test_evidence_is_that_of_the_formula(folder):
    first, _ = audit(folder).groups
    tail = 32 / 314
    expected = -12 * math.log(14 / 314) - 12 * tail * (1 - math.log(tail))
    assert first.evidence == pytest.approx(expected)


def test_footer_says_how_the_table_was_made(folder):
    result = audit(folder, fraction=0.05)
    footer = read_footer(result.path)
    assert result.path == folder / "audits" / "density" / f"rev={REVISION}" / "groups.parquet"
    assert footer[footers.FAMILY] == "density_groups"
    assert (footer[footers.REVISION], footer[footers.ROWS]) == (REVISION, "2")
    parameters = json.loads(footer[footers.PARAMETERS])
    assert {k: parameters[k] for k in ("column", "fraction", "scored_rows", "suspicious_rows")} == {
        **{"column": COLUMN, "fraction": 0.05},
        **{"scored_rows": 314, "suspicious_rows": 32},
    }
    assert parameters["line"] == pytest.approx(result.line)


def test_split_into_shards_and_order_of_rows_change_no_byte(tmp_path):
    rng = np.random.default_rng(0)
    tables = set()
    for count in (1, 2, 7):
        rows = [ROWS[n] for n in rng.permutation(len(ROWS))]
        parts = {f"s{n}": rows[n::count] for n in range(count)}
        layout = write_folder(tmp_path / f"out{count}", parts)
        audit(layout.root)
        table = pq.read_table(layout.groups("density", REVISION), partitioning=None)
        buffer = io.BytesIO()
        with pa.ipc.new_stream(buffer, table.schema) as stream:
            stream.write_table(table.combine_chunks())
        tables.add(buffer.getvalue())
    assert len(tables) == 1


def test_equal_scores_are_ordered_by_uid_in_the_type_of_the_source(tmp_path):
    rows = [Row(uid, 5.0, "copy", direction(1)) for uid in (30, 4, 200)]
    rows += [Row(1000 + n, n / 1000, f"c{n}", direction(n % 7, n)) for n in range(40)]
    layout = write_folder(tmp_path / "out", {"a": rows})
    assert audit(layout.root).groups[0].uids == (4, 30, 200)
    field = pq.read_schema(layout.groups("density", REVISION)).field("uids")
    assert field.type == pa.list_(pa.int64())


def test_source_without_urls_has_null_ones(tmp_path):
    layout = write_folder(tmp_path / "out", {"a": ROWS}, urls=False)
    assert audit(layout.root).groups[0].urls == (None,) * 5
    assert groups_in(layout.root)[0]["urls"] == [None] * 5


def test_copies_without_captions_are_a_group(tmp_path):
    rows = [dataclasses.replace(row, caption=None) for row in CAKES]
    layout = write_folder(tmp_path / "out", {"a": [*ordinary(200), *rows]})
    (group,) = audit(layout.root).groups
    assert (group.caption, group.size, group.n_captions) == (None, 12, 0)
    assert groups_in(layout.root)[0]["caption"] is None


def test_nothing_in_common_is_an_empty_table_and_a_clear_line(tmp_path):
    rows = [Row(f"u{n}", n / 100, f"caption {n}", direction(n + 1)) for n in range(6)]
    layout = write_folder(tmp_path / "out", {"a": rows})
    result = audit(layout.root)
    assert result.groups == () and groups_in(layout.root) == []
    assert result.summary().endswith("no two of them share a caption or a picture")


def test_no_scored_row_is_an_empty_table_and_a_clear_line(tmp_path):
    layout = write_folder(tmp_path / "out", {"a": FAILED})
    result = audit(layout.root)
    assert (result.scored, result.suspicious, result.line) == (0, 0, None)
    assert groups_in(layout.root) == []
    assert result.summary() == "audit: none of 0 scored rows stands out by density_kdist"


def test_an_audit_replaces_the_one_before(folder):
    audit(folder)
    before = groups_in(folder)
    for name, rows in {"a": ROWS[:150], "b": ROWS[150:]}.items():
        scores = [None if row.score is None else -row.score for row in rows]
        write_scores(Layout.at(folder), name, {COLUMN: scores})
    audit(folder)
    assert groups_in(folder) != before


def test_another_revision_of_the_scores_hides_the_audit_of_this_one(folder):
    audit(folder)
    layout = Layout.at(folder)
    dataset = datasets.require(layout)
    datasets.save(layout, dataclasses.replace(dataset, families={"density": "newer"}))
    with pytest.raises(duckdb.CatalogException, match="density_groups does not exist"):
        groups_in(folder)


def test_folder_without_density_is_refused_with_the_command(tmp_path):
    layout = write_folder(tmp_path / "out", {"a": ROWS[:5]})
    dataset = datasets.require(layout)
    datasets.save(layout, dataclasses.replace(dataset, families={}))
    cure = re.escape(f"clipsieve score {layout.root} --scorers density")
    with pytest.raises(UsageError, match=f"holds no density scores to audit; .*{cure}"):
        audit(layout.root)


def test_unknown_column_is_refused_with_those_there_are(folder):
    with pytest.raises(UsageError, match=r"'density_x' is not among .*; take one of density_kdist"):
        audit(folder, column="density_x")


@pytest.mark.parametrize("settings", [{"fraction": 0.0}, {"near_cosine": 0.0}, {"near_cosine": 2}])
def test_settings_out_of_range_are_refused(folder, settings):
    with pytest.raises(UsageError, match="must be above 0 and at most 1, got"):
        audit(folder, **settings)
    assert not (folder / "audits").exists()


def test_folder_without_a_dataset_is_refused_and_not_made(tmp_path):
    with pytest.raises(UsageError, match="holds no clipsieve dataset"):
        audit(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_shard_without_scores_is_refused(folder):
    Layout.at(folder).scores("density", REVISION, "b").unlink()
    with pytest.raises(LedgerError, match=r"b\.parquet is missing or damaged"):
        audit(folder)


def test_scores_of_other_rows_are_refused(folder):
    path = Layout.at(folder).scores("density", REVISION, "b")
    footer = {**read_footer(path), footers.UID_HASH: "0"}
    write_table(path, pq.read_table(path, partitioning=None), footer)
    with pytest.raises(LedgerError, match="has other uids than"):
        audit(folder)


def test_score_without_a_vector_is_refused(folder):
    rows = ROWS[150:]
    write_scores(Layout.at(folder), "b", {COLUMN: [9.0] * len(rows)})
    with pytest.raises(LedgerError, match="lacks vectors of 5 rows that have a score"):
        audit(folder)


def test_folder_that_is_being_written_is_left_alone(folder):
    with exclusive(Layout.at(folder)), pytest.raises(Locked):
        audit(folder)


def test_command_prints_one_line_a_group(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert exit_code(["audit", str(folder), "--top", "1"]) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "Birthday" in line and "audit:" not in line]
    assert line.split()[:5] == ["1", "12", "12", "3.82%", "5"]
    assert "a pair" not in out
    assert '"FROM density_groups"' in out


def test_captions_are_one_line_whatever_is_in_them(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    rows = [dataclasses.replace(row, caption="[red]two\nlines[/red]") for row in CAKES]
    layout = write_folder(tmp_path / "out", {"a": [*ordinary(200), *rows]}, urls=False)
    with pytest.raises(SystemExit):
        main(["audit", str(layout.root)])
    lines = capsys.readouterr().out.splitlines()
    assert any("[red]two lines[/red]" in line and "cake0" in line for line in lines)


def test_module_can_be_run_by_itself(folder, capsys):
    assert audit_main([str(folder)]) == 0
    assert capsys.readouterr().out.startswith("audit: 32 of 314 scored rows")
    assert audit_main([str(folder), "--column", "none"]) == 2
    assert "'none' is not among" in capsys.readouterr().err


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
