"""The audit of a whole folder: planted copies come first, and the table says what was printed."""

import dataclasses
import io
import json
import math
import re

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clipsieve
from clipsieve.cli import main
from clipsieve.errors import LedgerError, Locked, UsageError
from clipsieve.job.audit import audit
from clipsieve.schemas import footers
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import FamilyEntry, ScorerEntry
from tests.audit.folders import COLUMN, REVISION, Row, direction, write_folder, write_scores
from tests.pipelines.jobs import exit_code, manifest_of


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
    write_folder(tmp_path / "out", {"a": ROWS[:150], "b": ROWS[150:]})
    return tmp_path / "out"


def groups_table(root) -> str:
    """Path of the table of groups."""
    return OutputFolder.open(root).files.url(names.groups("density", REVISION))


def save_families(root, families) -> None:
    """Let the manifest name other families."""
    manifest = dataclasses.replace(manifest_of(root), families=families)
    OutputFolder.open(root).save_manifest(manifest)


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
    footer = OutputFolder.open(folder).read_footer(names.groups("density", REVISION))
    path = folder / "audits" / "density" / f"rev={REVISION}" / "groups.parquet"
    assert result.path == str(path)
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
        made = write_folder(tmp_path / f"out{count}", parts)
        audit(made.root)
        table = pq.read_table(groups_table(made.root), partitioning=None)
        buffer = io.BytesIO()
        with pa.ipc.new_stream(buffer, table.schema) as stream:
            stream.write_table(table.combine_chunks())
        tables.add(buffer.getvalue())
    assert len(tables) == 1


def test_equal_scores_are_ordered_by_uid_in_the_type_of_the_source(tmp_path):
    rows = [Row(uid, 5.0, "copy", direction(1)) for uid in (30, 4, 200)]
    rows += [Row(1000 + n, n / 1000, f"c{n}", direction(n % 7, n)) for n in range(40)]
    made = write_folder(tmp_path / "out", {"a": rows})
    assert audit(made.root).groups[0].uids == (4, 30, 200)
    field = pq.read_schema(groups_table(made.root)).field("uids")
    assert field.type == pa.list_(pa.int64())


def test_source_without_urls_has_null_ones(tmp_path):
    made = write_folder(tmp_path / "out", {"a": ROWS}, urls=False)
    assert audit(made.root).groups[0].urls == (None,) * 5
    assert groups_in(made.root)[0]["urls"] == [None] * 5


def test_copies_without_captions_are_a_group(tmp_path):
    rows = [dataclasses.replace(row, caption=None) for row in CAKES]
    made = write_folder(tmp_path / "out", {"a": [*ordinary(200), *rows]})
    (group,) = audit(made.root).groups
    assert (group.caption, group.size, group.n_captions) == (None, 12, 0)
    assert groups_in(made.root)[0]["caption"] is None


def test_nothing_in_common_is_an_empty_table_and_a_clear_line(tmp_path):
    rows = [Row(f"u{n}", n / 100, f"caption {n}", direction(n + 1)) for n in range(6)]
    made = write_folder(tmp_path / "out", {"a": rows})
    result = audit(made.root)
    assert result.groups == () and groups_in(made.root) == []
    assert result.summary().endswith("no two of them share a caption or a picture")


def test_no_scored_row_is_an_empty_table_and_a_clear_line(tmp_path):
    made = write_folder(tmp_path / "out", {"a": FAILED})
    result = audit(made.root)
    assert (result.scored, result.suspicious, result.line) == (0, 0, None)
    assert groups_in(made.root) == []
    assert result.summary() == "audit: none of 0 scored rows stands out by density_kdist"


def test_an_audit_replaces_the_one_before(folder):
    audit(folder)
    before = groups_in(folder)
    for name, rows in {"a": ROWS[:150], "b": ROWS[150:]}.items():
        scores = [None if row.score is None else -row.score for row in rows]
        write_scores(OutputFolder.open(folder), name, {COLUMN: scores})
    audit(folder)
    assert groups_in(folder) != before


def test_another_revision_of_the_scores_hides_the_audit_of_this_one(folder):
    audit(folder)
    newer = FamilyEntry("ab" * 4, {"density": ScorerEntry("cd" * 4)})
    save_families(folder, {**manifest_of(folder).families, "density": newer})
    with pytest.raises(duckdb.CatalogException, match="density_groups does not exist"):
        groups_in(folder)


def test_folder_without_density_is_refused_with_the_command(tmp_path):
    made = write_folder(tmp_path / "out", {"a": ROWS[:5]})
    save_families(made.root, {})
    cure = re.escape(f"clipsieve score {made.root} --scorers density")
    with pytest.raises(UsageError, match=f"holds no density scores to audit; .*{cure}"):
        audit(made.root)


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
    (folder / names.scores("density", REVISION, "b")).unlink()
    with pytest.raises(LedgerError, match=r"b\.parquet is missing or damaged"):
        audit(folder)


def test_scores_of_other_rows_are_refused(folder):
    out, name = OutputFolder.open(folder), names.scores("density", REVISION, "b")
    out.write_table(name, out.read_table(name), {**out.read_footer(name), footers.UID_HASH: "0"})
    with pytest.raises(LedgerError, match="has other uids than"):
        audit(folder)


def test_score_without_a_vector_is_refused(folder):
    rows = ROWS[150:]
    write_scores(OutputFolder.open(folder), "b", {COLUMN: [9.0] * len(rows)})
    with pytest.raises(LedgerError, match="lacks vectors of 5 rows that have a score"):
        audit(folder)


def test_folder_that_is_being_written_is_left_alone(folder):
    with OutputFolder.open(folder).lock(), pytest.raises(Locked):
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
    made = write_folder(tmp_path / "out", {"a": [*ordinary(200), *rows]}, urls=False)
    with pytest.raises(SystemExit):
        main(["audit", str(made.root)])
    lines = capsys.readouterr().out.splitlines()
    assert any("[red]two lines[/red]" in line and "cake0" in line for line in lines)


def test_command_begins_with_the_summary_and_refuses_an_unknown_column(folder, capsys):
    assert exit_code(["audit", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("audit: 32 of 314 scored rows")
    assert exit_code(["audit", str(folder), "--column", "none"]) == 2
    assert "'none' is not among" in capsys.readouterr().err
