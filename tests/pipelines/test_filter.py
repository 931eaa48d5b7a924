"""Subsets of real runs: reasons, funnel, resume, workers, refusals."""

import json
import signal
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clipsieve
from clipsieve.demo.shards import write_shards
from clipsieve.errors import LedgerError, UsageError
from clipsieve.store.folder import OutputFolder
from clipsieve.store.reconcile import reconcile
from tests.pipelines.jobs import exit_code, leftovers, read, run_job, start, tables, wait_for

SHARDS, ROWS = 5, 300
WHERE = (
    "clip_score >= 0.7 AND top_fraction(clip_similarity, 0.6) "
    "AND density_kdist < quantile_of(density_kdist, 0.95)"
)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    root = tmp_path_factory.mktemp("filter")
    write_shards(root / "source", ROWS, SHARDS, seed=4)
    run_job(root / "source", root / "out")
    return root / "out"


@pytest.fixture
def out(scored, tmp_path):
    """A copy of its own of a finished folder."""
    import shutil

    shutil.copytree(scored, tmp_path / "out")
    return tmp_path / "out"


def subset_tables(out, name):
    """Bytes of the tables of a subset, by path within it."""
    below = out / "subsets" / name
    return {str(p.relative_to(below)): p.read_bytes() for p in sorted(below.rglob("*.parquet"))}


def rows_of(out, name, kind):
    files = sorted((out / "subsets" / name).glob(f"rev=*/{kind}/*.parquet"))
    return pa.concat_tables([pq.read_table(f, partitioning=None) for f in files])


def naive(out):
    """Reason of every row, None if it is kept, from the wide table alone."""
    rows = read(out, "wide").to_pylist()
    similarities = sorted(r["clip_similarity"] for r in rows if r["clip_similarity"] is not None)
    line = similarities[::-1][int(len(similarities) * 0.6)]
    distances = sorted(r["density_kdist"] for r in rows if r["density_kdist"] is not None)
    high = distances[-(-len(distances) * 95 // 100) - 1]
    tests = [
        ("clip_score >= 0.7", "clip_score", lambda v: v >= 0.7),
        ("top_fraction(clip_similarity, 0.6)", "clip_similarity", lambda v: v >= line),
        (
            "density_kdist < quantile_of(density_kdist, 0.95)",
            "density_kdist",
            lambda v: v < high,
        ),
    ]
    reasons = {}
    for row in rows:
        reason = None
        for text, column, passes in tests:
            if row[column] is None:
                state = "" if row["status"] == "ok" else f" ({row['status']})"
                reason = f"{text} is NULL{state}"
            elif not passes(row[column]):
                reason = text
            if reason:
                break
        reasons[row["shard"], row["row"]] = reason
    return reasons


def test_every_row_is_kept_or_dropped_with_its_first_reason(out):
    result = clipsieve.filter(out, "keep", WHERE)
    expected = naive(out)
    kept = {(r["shard"], r["row"]) for r in rows_of(out, "keep", "kept").to_pylist()}
    dropped = {
        (r["shard"], r["row"]): r["reason"] for r in rows_of(out, "keep", "dropped").to_pylist()
    }
    assert kept == {row for row, reason in expected.items() if reason is None}
    assert dropped == {row: reason for row, reason in expected.items() if reason is not None}
    assert len(set(dropped.values())) >= 4 and len(kept) > 20
    assert (result.rows, result.kept, result.dropped) == (ROWS, len(kept), len(dropped))
    assert sum(line["lost"] for line in result.funnel) == len(dropped)
    assert sum(row["rows"] for row in result.overlaps) == ROWS
    views = clipsieve.connect(out)
    counted = (
        "SELECT (SELECT count(*) FROM kept), (SELECT count(*) FROM dropped), kept FROM subsets"
    )
    assert views.sql(counted).fetchall() == [(len(kept), len(dropped), len(kept))]
    joined = "SELECT count(*) FROM scores SEMI JOIN kept USING (shard, row)"
    assert views.sql(joined).fetchall() == [(len(kept),)]
    assert views.sql("SELECT lost FROM funnel ORDER BY step").fetchall() == [
        (line["lost"],) for line in result.funnel
    ]


def test_the_resolved_predicate_keeps_the_same_rows_in_sql(out):
    result = clipsieve.filter(out, "keep", WHERE)
    where = " AND ".join(f"({clause})" for clause in result.resolved)
    (answer,) = clipsieve.connect(out).sql(f"SELECT count(*) FROM scores WHERE {where}").fetchall()
    assert answer == (result.kept,)


def test_two_workers_and_repetition_give_the_same_bytes(out):
    clipsieve.filter(out, "one", WHERE, thresholds="stage")
    clipsieve.filter(out, "two", WHERE, thresholds="stage", workers=2)
    first, second = subset_tables(out, "one"), subset_tables(out, "two")
    assert first == second and len(first) == 2 * SHARDS + 3
    before = (out / "subsets/one/subset.json").read_bytes()
    clipsieve.filter(out, "one", WHERE)
    assert subset_tables(out, "one") == first
    assert (out / "subsets/one/subset.json").read_bytes() == before


def test_a_killed_filter_goes_on_with_the_same_bytes(out):
    clipsieve.filter(out, "calm", WHERE)
    words = ["filter", str(out), "--name", "killed", "--where", WHERE]
    for files in (1, 4):
        with start(words) as process:
            wait_for(partial(_has_files, out / "subsets/killed", files), "files of a subset")
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert not (out / "subsets/killed/subset.json").exists()
        listed = clipsieve.connect(out).sql("SELECT subset FROM subsets").fetchall()
        assert listed == [("calm",)]
    assert exit_code(words) == 0
    assert subset_tables(out, "killed") == subset_tables(out, "calm")
    assert leftovers(out) == []


def _has_files(folder, count):
    return len(list(folder.rglob("*.parquet"))) >= count


def test_set_algebra_of_subsets(out):
    clipsieve.filter(out, "a", "clip_score >= 1.0")
    clipsieve.filter(out, "b", "density_kdist < quantile_of(density_kdist, 0.5)")
    clipsieve.filter(out, "c", "image_width >= 1 AND rank_in(clip_score) <= 40")
    sets = {
        name: {(r["shard"], r["row"]) for r in rows_of(out, name, "kept").to_pylist()}
        for name in "abc"
    }
    clipsieve.filter(out, "d", base="a", intersect=["b"], union=["c"])
    clipsieve.filter(out, "e", "clip_score >= 0.5", base="a", subtract=["b", "c"])
    made = {
        name: {(r["shard"], r["row"]) for r in rows_of(out, name, "kept").to_pylist()}
        for name in "de"
    }
    assert made["d"] == (sets["a"] & sets["b"]) | sets["c"]
    assert made["e"] == sets["a"] - sets["b"] - sets["c"]
    reasons = set(rows_of(out, "e", "dropped")["reason"].to_pylist())
    assert {"not in a", "in b", "in c"} <= reasons


def test_reconcile_proves_that_nothing_is_lost(out):
    clipsieve.filter(out, "keep", WHERE)
    assert exit_code(["reconcile", str(out)]) == 0
    folder = OutputFolder.open(out)
    (path, *_) = sorted((out / "subsets/keep").glob("rev=*/dropped/*.parquet"))
    table = pq.read_table(path, partitioning=None)
    name = str(path.relative_to(out))
    folder.write_table(name, table.slice(1), folder.read_footer(name))
    assert exit_code(["reconcile", str(out)]) == 1
    accounts = [a for a in _accounts(folder) if a.problems]
    assert [a.shard for a in accounts] == [path.stem]
    assert "are not the" in accounts[0].problems[0] and "subset keep" in accounts[0].problems[0]


def _accounts(folder):
    from clipsieve.formats.registry import count_rows
    from clipsieve.job.inputs import recorded_items

    manifest = folder.require_manifest()
    return reconcile(folder, manifest, recorded_items(manifest), count_rows)


def test_a_name_belongs_to_one_definition(out):
    clipsieve.filter(out, "keep", "clip_score >= 0.7")
    before = subset_tables(out, "keep")
    with pytest.raises(UsageError, match=r"'keep' is there with another definition .*--replace"):
        clipsieve.filter(out, "keep", "clip_score >= 0.8")
    assert subset_tables(out, "keep") == before
    result = clipsieve.filter(out, "keep", "clip_score >= 0.8", replace=True)
    assert len(list((out / "subsets/keep").glob("rev=*"))) == 1
    assert rows_of(out, "keep", "kept").num_rows == result.kept


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"where": "clip_scor >= 1"}, "did you mean clip_score"),
        ({"where": "clip_score >= 99"}, "none of 300 rows would be kept"),
        ({"where": "top_fraction(clip_score, 30)"}, "at most 1, got 30"),
        ({"base": "nothing"}, "has no subset 'nothing'; it has none yet"),
        ({}, "nothing says what to keep"),
        ({"name": "a b", "where": "clip_score > 1"}, "becomes a folder"),
        ({"name": None, "where": "clip_score > 1"}, "no name; give --name"),
        ({"where": "clip_score > 1", "recipe": "laion2b"}, "both given"),
        ({"where": "clip_score > 1", "parameters": ["a=1"]}, "parameters are of a recipe"),
        ({"where": "clip_score > 1", "thresholds": "here"}, "thresholds must be one of"),
        ({"where": "keep_first_of(duplicate_group)"}, "'duplicate_group', which is not there"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(out, settings, message):
    before = tables(out)
    with pytest.raises(UsageError, match=message):
        clipsieve.filter(out, **{"name": "x", **settings})
    assert tables(out) == before
    assert leftovers(out) == []


def test_a_dry_run_writes_nothing(out, capfd):
    before = _files(out)
    assert exit_code(["filter", str(out), "--dry-run", "--where", WHERE]) == 0
    shown = capfd.readouterr().out
    assert "kept" in shown and "nothing written" in shown and "█" in shown
    assert _files(out) == before


def _files(out):
    """Bytes of every file but those of runs."""
    files = [p for p in out.rglob("*") if p.is_file() and "_runs" not in p.parts]
    return {str(p): p.read_bytes() for p in files}


def test_scores_that_lack_a_shard_and_subsets_of_other_shards_are_refused(out, tmp_path):
    clipsieve.filter(out, "keep", "clip_score >= 0.7")
    more = tmp_path / "more"
    (path,) = write_shards(more, 20, 1, seed=8)
    path.rename(more / "later.parquet")
    settings = {"model": "tiny", "device": "cpu", "dtype": "float32", "scorers": "clip,density"}
    words = [word for key, value in settings.items() for word in (f"--{key}", value)]
    assert exit_code(["embed", f"{more}/*.parquet", str(out), *words]) == 0
    with pytest.raises(
        UsageError, match=r"'density' has no scores for 1 of 6 shards, such as later"
    ):
        clipsieve.filter(out, "d", "density_kdist > 1")
    with pytest.raises(UsageError, match="'keep' was made before shards were added"):
        clipsieve.filter(out, "d", base="keep", where="clip_score > 1")
    result = clipsieve.filter(out, "keep", "clip_score >= 0.7")
    assert result.rows == ROWS + 20


def test_a_damaged_score_file_is_named(out):
    (path, *_) = sorted((out / "scores/clip").glob("rev=*/*.parquet"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises((LedgerError, UsageError), match=path.stem):
        clipsieve.filter(out, "x", "clip_score > 0.1")
    assert not (out / "subsets").exists()


def test_the_description_says_how_the_subset_was_made(out):
    result = clipsieve.filter(out, "keep", WHERE)
    described = json.loads((out / "subsets/keep/subset.json").read_text())
    assert described["definition"]["where"].startswith("(clip_score >= 0.7) AND (top_fraction")
    assert [step["resolved"] for step in described["steps"]] == list(result.resolved)
    assert described["kept"] + described["dropped"] == described["rows"] == ROWS
    assert set(described["families"]) == {"clip", "density"}
