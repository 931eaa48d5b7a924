"""Names that are long, not UTF-8 or like ours go through a whole job, into a folder of any name."""

import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import clipsieve
from clipsieve.demo.shards import write_shards
from clipsieve.errors import UsageError
from clipsieve.exports.folder import ExportFolder
from clipsieve.formats.names import MAX_SHARD_BYTES
from clipsieve.job.status import status_lines
from clipsieve.schemas import footers
from clipsieve.store import names
from clipsieve.store.file_system import MARK
from clipsieve.store.folder import OutputFolder
from tests.pipelines.jobs import exit_code, leftovers, read, run_job, tables

ROWS = 8
OUT = "o,u't \"[x]*? %23#;$(x)\n\té"
LONG = "x" * 240
JAPANESE = "日" * 25
SHARDS = {
    b"a.parquet": "a",
    b"a.parquet.parquet": "a.parquet",
    b"a.tmp-x.parquet": "a.tmp-x",
    f"b{MARK}{'0' * 32}.parquet".encode(): f"b{MARK}{'0' * 32}",
    b"\xff.parquet": "%FF",
    b"%FF.parquet": "%25FF",
    b"\xe9/100%\x1b[2J.parquet": "%E9__100%25%1B%5B2J",
    f"{JAPANESE}/{JAPANESE}/{JAPANESE}.parquet".encode(): None,
    f"{LONG}.parquet".encode(): None,
    f"{LONG}y.parquet".encode(): None,
}


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """The inputs and the output folder of a run over shards of all these names."""
    place = tmp_path_factory.mktemp("names")
    (made,) = write_shards(place / "made", ROWS, 1, 5)
    pq.write_table(pq.read_table(made), place / "grouped.parquet", row_group_size=5)
    shards, out = place / "in", place / OUT
    for name in SHARDS:
        path = os.path.join(os.fsencode(shards), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        shutil.copyfile(place / "grouped.parquet" if len(name) > 240 else made, path)
    run = run_job(shards, out, inputs=(f"{shards}/**/*.parquet",), rows_per_item=5, scorers="clip")
    assert (run.exit_code, run.counts.rows) == (0, ROWS * len(SHARDS))
    return shards, out


def test_every_row_is_in_the_ledger_under_the_name_of_its_shard(job):
    _, out = job
    ledger = read(out, "samples").to_pydict()
    shards = set(ledger["shard"])
    assert {name for name in SHARDS.values() if name is not None} <= shards
    long = sorted(shards - set(SHARDS.values()))
    assert len(long) == 5 and len(shards) == len(SHARDS) + 2
    assert [name[-11:] for name in long if name.startswith("xx")] == [
        f".r{start:09d}" for _ in range(2) for start in (0, 5)
    ]
    assert all(name.isascii() and len(name) <= MAX_SHARD_BYTES for name in shards)
    assert set(ledger["shard"]) == {Path(p).stem for p in tables(out) if p.startswith("samples/")}
    assert leftovers(out) == []


def test_footers_have_the_whole_source(job):
    shards, out = job
    folder = OutputFolder.open(out)
    uris = {
        shard: folder.read_footer(names.samples(shard))[footers.SOURCE_URI]
        for shard in folder.shards()
    }
    assert uris["a"] == f"{shards}/a.parquet"
    assert uris["%FF"] == f"percent://{shards}/%FF.parquet"
    assert uris["%25FF"] == f"{shards}/%FF.parquet"
    assert uris["%E9__100%25%1B%5B2J"] == f"percent://{shards}/%E9/100%25\x1b[2J.parquet"
    assert f"{shards}/{LONG}y.parquet" in uris.values()


def test_a_second_run_finds_all_done(job):
    shards, out = job
    before = tables(out)
    for pattern in (f"{shards}/**/*.parquet", os.fsdecode(os.fsencode(shards) + b"/\xff.parquet")):
        again = run_job(shards, out, inputs=(pattern,), rows_per_item=5, scorers="clip")
        assert (again.exit_code, again.done, again.left) == (0, 0, 0)
    assert {name for name in tables(out)} == set(before)


def test_commands_work_on_a_folder_of_any_name(job, tmp_path, monkeypatch, capsys):
    _, out = job
    monkeypatch.chdir(tmp_path)
    assert exit_code(["reconcile", str(out)]) == 0
    assert any(f"done: {len(SHARDS) + 2} of" in line for line in status_lines(str(out)))
    kept = clipsieve.filter(str(out), name="keep", where="status = 'ok'")
    assert clipsieve.export(str(out), "keep", format="uids", to=f"{out}.txt").rows == kept.kept
    assert exit_code(["sql", str(out), "--catalog"]) == 0
    connection = clipsieve.connect(out)
    for view in ("samples", "scores", "embeddings", "clip"):
        counted = connection.sql(f"SELECT count(*) FROM {view}").fetchall()
        assert counted == [(ROWS * len(SHARDS),)]
    assert connection.sql("SELECT count(*) FROM kept").fetchall() == [(kept.kept,)]
    assert connection.sql("SELECT count(*) > 0 FROM runs").fetchall() == [(True,)]
    assert connection.sql("SELECT count(*) FROM shards WHERE uri[1:10] = 'percent://'").fetchall()


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("a\udcff", r"/a%FF \(escaped\) is not UTF-8"),
        ("x" * 300, "has a name of 300 bytes in its path, at most 255 are possible"),
        ("/".join(["x" * 200] * 20), "has a path of 4,.* bytes, with which paths of files in it"),
    ],
)
@pytest.mark.parametrize("command", ["run", "status", "sql", "filter"])
def test_an_output_folder_that_cannot_be_is_refused(tmp_path, capsys, command, out, message):
    words = {"run": [str(tmp_path)], "sql": ["SELECT 1"], "filter": ["--where", "true"]}
    place = str(tmp_path / out)
    given = words.get(command, [])
    assert exit_code([command, *([*given, place] if command == "run" else [place, *given])]) == 2
    with pytest.raises(UsageError, match=message):
        OutputFolder.open(place)
    assert os.listdir(tmp_path) == []


def test_an_export_file_whose_parts_could_not_be_named_is_refused(tmp_path):
    ExportFolder(tmp_path, "x" * 237)
    with pytest.raises(UsageError, match="choose one that is shorter by 1 bytes"):
        ExportFolder(tmp_path, "x" * 238)
