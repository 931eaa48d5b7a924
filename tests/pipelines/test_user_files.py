"""No command removes, hides or replaces what is not its own."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve import connect
from clipsieve.errors import UsageError
from clipsieve.store.folder import OutputFolder
from tests.pipelines.jobs import exit_code, run_command, run_job, write_one

TEMPORARY = f"x.tmp-{'0' * 32}"


def test_a_refused_run_removes_no_file_of_the_user(tmp_path):
    home = tmp_path / "home"
    mine = [home / "p" / "thesis.tmp-final.txt", home / "samples" / TEMPORARY, home / TEMPORARY]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    assert exit_code(run_command(tmp_path / "nothing", home)) == 2
    assert exit_code(["score", str(home), "--scorers", "clip"]) == 2
    assert [path.read_text() for path in mine] == ["mine"] * 3


def test_a_run_removes_only_its_own_temporary_files(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    write_one(source, "a", 20, seed=1)
    mine = [out / "p" / TEMPORARY, out / "samples" / "notes.tmp-final", out / TEMPORARY]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    run_job(source, out)
    run_job(source, out)
    exit_code(["score", str(out), "--scorers", "density", "--refit"])
    assert [path.read_text() for path in mine] == ["mine"] * 3


def test_an_empty_output_folder_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "samples" / TEMPORARY
    mine.parent.mkdir()
    mine.write_text("mine")
    write_one(tmp_path / "source", "a", 20, seed=1)
    with pytest.raises(UsageError, match="out is empty, which would mean the current folder"):
        run_job(tmp_path / "source", "")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="output folder '' is empty"):
        OutputFolder.open("")
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("workers", [1, 2])
def test_shards_and_runs_may_be_named_like_temporary_files(tmp_path, workers):
    source, out = tmp_path / "source", tmp_path / "out"
    write_one(source, "a", 20, seed=1)
    write_one(source, "b.tmp-1", 30, seed=2)
    write_one(source, f"c.tmp-{'0' * 32}", 10, seed=3)
    with pytest.raises(
        UsageError, match=r"run_id 'monday\.tmp-b' becomes a file name; .* no '\.tmp-'"
    ):
        run_job(source, out, workers=workers, run_id="monday.tmp-b")
    assert not out.exists()
    run_job(source, out, workers=workers, run_id="monday.tmp_b")
    exit_code(["score", str(out), "--scorers", "density", "--refit"])
    rows = connect(str(out)).sql("SELECT shard, count(*) FROM scores GROUP BY 1 ORDER BY 1")
    expected = [("a", 20), ("b.tmp-1", 30), (f"c.tmp-{'0' * 32}", 10)]
    assert rows.fetchall() == expected
    assert (out / "_runs" / "monday.tmp_b.json").exists()
    assert exit_code(["reconcile", str(out)]) == 0


def test_no_column_of_the_source_stands_in_for_a_score(tmp_path):
    source, out, plain = tmp_path / "source", tmp_path / "out", tmp_path / "plain"
    path = write_one(source, "a", 20, seed=1)
    run_job(source, plain)
    table = pq.read_table(path)
    names = ["CLIP_Score", "clip_tiny_similarity_score", "Density_kdist", "DENSITY_KDIST"]
    for value, name in enumerate(names, 7):
        table = table.append_column(name, pa.array([float(value)] * table.num_rows))
    pq.write_table(table, path)
    run_job(source, out)
    query = "SELECT clip_score, clip_tiny_similarity_score, density_kdist FROM scores ORDER BY row"
    expected = connect(str(plain)).sql(query).fetchall()
    assert connect(str(out)).sql(query).fetchall() == expected
    kept = 'SELECT DISTINCT "source_CLIP_Score", source_clip_tiny_similarity_score FROM scores'
    assert connect(str(out)).sql(kept).fetchall() == [(7.0, 8.0)]
    columns = [name.lower() for name in connect(str(out)).sql("FROM scores").columns]
    assert len(set(columns)) == len(columns)
