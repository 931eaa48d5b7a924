"""What a scheduler relies on: exit codes, the lock, signals, deadlines, dry runs, reconcile."""

import errno
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from clipsieve.demo.shards import write_shards
from clipsieve.errors import Locked
from clipsieve.store.folder import OutputFolder
from tests.pipelines.jobs import (
    SETTINGS,
    exit_code,
    leftovers,
    read,
    run_command,
    run_job,
    start,
    tables,
    truncate,
    wait_for,
    write_one,
)


@pytest.fixture
def done(tmp_path) -> tuple[Path, Path]:
    """Two scored shards: source and output."""
    source, out = tmp_path / "source", tmp_path / "out"
    write_one(source, "a", 20, seed=1)
    write_one(source, "b", 20, seed=2)
    run_job(source, out)
    return source, out


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, Path]:
    """Likewise, made once: tests must not change it."""
    folder = tmp_path_factory.mktemp("finished")
    write_one(folder / "source", "a", 20, seed=1)
    write_one(folder / "source", "b", 20, seed=2)
    run_job(folder / "source", folder / "out")
    return folder / "source", folder / "out"


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A copy of that output, to be damaged."""
    return Path(shutil.copytree(finished[1], tmp_path / "copied"))


def manifest(out: Path) -> dict:
    (path,) = (out / "_runs").glob("*.json")
    return json.loads(path.read_text())


def test_sigterm_finishes_the_shard_in_hand_while_others_are_locked_out(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    write_shards(source, 150, 15, seed=4)
    with start(run_command(source, out, "--batch-size", "1")) as process:
        wait_for(lambda: any(out.glob("samples/*.parquet")), "the first shard")
        process.send_signal(signal.SIGSTOP)  # holds the lock for as long as this test looks
        with pytest.raises(Locked, match=f"being written by process {process.pid}; wait"):
            run_job(source, out)
        assert exit_code(run_command(source, out)) == 75
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate()
    assert process.returncode == 143, said
    assert "stopped by SIGTERM" in said
    assert manifest(out)["status"] == "stopped"
    written = len(list(out.glob("samples/*.parquet")))
    assert manifest(out)["result"]["left"] == 15 - written > 0
    assert leftovers(out) == []
    result = run_job(source, out)
    assert (result.exit_code, result.skipped, result.done) == (0, written, 15 - written)
    assert read(out, "wide").num_rows == 150


def test_a_lock_outlives_no_holder_and_is_free_after_a_refusal(done):
    source, out = done
    with OutputFolder.open(out).lock():
        assert exit_code(run_command(source, out)) == 75
        assert exit_code(["score", str(out), "--scorers", "clip_depicts"]) == 75
        assert exit_code(["compact", str(out)]) == 75
    assert exit_code(run_command(source, out)) == 0


@pytest.mark.parametrize("wide", ["run", "embed"])
def test_a_deadline_leaves_what_it_did_not_begin_and_says_so(tmp_path, wide):
    source, out = tmp_path / "source", tmp_path / "out"
    write_one(source, "a", 20, seed=1)
    command = run_command(source, out, "--deadline", "0s")
    assert exit_code([wide, *command[1:]]) == 3
    assert (manifest(out)["status"], manifest(out)["result"]["left"]) == ("stopped", 1)
    assert tables(out) == {} and leftovers(out) == []
    assert run_job(source, out).exit_code == 0


def test_a_stop_after_the_last_shard_is_still_a_stop(done):
    source, out = done
    write_one(source, "c", 20, seed=3)
    assert exit_code(["embed", *run_command(source, out)[1:]]) == 0
    result = run_job(source, out, deadline=0.0)
    assert (result.left, result.exit_code, result.stopped) == (0, 3, "deadline reached")
    assert read(out, "wide").num_rows == 40
    assert run_job(source, out).exit_code == 0
    assert read(out, "wide").num_rows == 60


def test_a_dry_run_tells_the_plan_and_writes_nothing(tmp_path, done, capsys):
    source, out = tmp_path / "source", tmp_path / "new"
    assert exit_code(run_command(source, out, "--dry-run")) == 0
    assert not out.exists()
    plan = json.loads(capsys.readouterr().out)
    assert plan["todo"] == ["a", "b"] and plan["rows_to_do"] == 40
    assert plan["bytes_to_do"] == sum(p.stat().st_size for p in source.glob("*.parquet"))
    write_one(source, "c", 20, seed=3)
    _, out = done
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert exit_code(run_command(source, out, "--dry-run")) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["todo"], plan["done"]) == (["c"], 2)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    "words",
    [
        ["run", "nothing/*.parquet", "{out}"],
        ["run", "{source}", "{out}", "--deadline", "soon"],
        ["run", "{source}", "{out}", "--workers", "0"],
        ["run", "{source}", "{out}", "--scorers", "clip,beauty"],
        ["run", "{source}", "{out}", "--run-id", "../elsewhere"],
        ["run", "{source}", "{out}", "--no-such-option"],
        ["run", "{source}", "{out}", "--model", "no-such-model"],
        ["status", "{source}"],
        ["score", "{out}", "--scorers", "clip_ref"],
        ["score", "{out}", "--scorers", "density", "--option", "density.k=0"],
        ["score", "{out}", "--scorers", "density", "--option", "density.size=3"],
        ["score", "{out}", "--scorers", "density", "--option", "densty.k=3"],
        ["score", "{out}", "--scorers", "density", "--option", "density.reference=some"],
        ["score", "{out}", "--scorers", "clip_depicts", "--option", "density.k=3"],
        ["score", "{out}", "--scorers", "density", "--option", f"density.seed={2**64}"],
        ["score", "{out}", "--scorers", "density", "--option", "density.reference=2.5"],
        ["run", "{source}", "{out}", "--option", "density.reference=-3"],
        ["audit", "{out}", "--column", "density_none"],
        ["audit", "{out}", "--fraction", "0"],
    ],
    ids=" ".join,
)
def test_a_usage_error_is_exit_code_2_and_changes_no_table(finished, words, capsys):
    source, out = finished
    before = tables(out)
    given = [word.format(source=source, out=out) for word in words]
    assert exit_code(given) == 2
    assert capsys.readouterr().err.strip()
    assert tables(out) == before


def test_failed_shards_are_exit_code_3_and_named_in_status(done, capsys):
    source, out = done
    truncate(write_one(source, "c", 20, seed=3))
    assert exit_code(run_command(source, out)) == 3
    capsys.readouterr()
    assert exit_code(["status", str(out)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{out}: tiny  in float32"
    assert said[1] == "families: clip, density"
    assert said[2] == "done: 2 of 3 shards, 40 rows"
    assert "left: 0 shards" in said and "failed: 1 shards" in said
    assert any(re.match(rf"  c: cannot read {re.escape(str(source))}/c.parquet", s) for s in said)
    assert said[-1] == "scores view: 40 rows"


def test_status_says_when_the_scores_view_is_behind(done, capsys):
    source, out = done
    write_one(source, "c", 20, seed=3)
    assert exit_code(["embed", *run_command(source, out)[1:]]) == 0
    capsys.readouterr()
    exit_code(["status", str(out)])
    cure = f"score {out} --scorers density"
    assert f"scores view: 40 rows; it is behind: run `clipsieve {cure}`" in capsys.readouterr().out
    assert exit_code(cure.split()) == 0
    exit_code(["status", str(out)])
    assert "scores view: 60 rows\n" in capsys.readouterr().out


def test_status_counts_no_shard_whose_embeddings_are_of_another_model(done, capsys):
    _, out = done
    model = OutputFolder.open(out).require_manifest().embeddings
    assert model is not None
    (out / f"embeddings/{model.model}/rev={model.revision}/b.parquet").unlink()
    assert exit_code(["reconcile", str(out)]) == 1
    capsys.readouterr()
    assert exit_code(["status", str(out)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "done: 1 of 2 shards, 20 rows" in said and "left: 1 shards, from b" in said


def test_a_removed_source_leaves_when_it_is_asked_for(done, capsys):
    source, out = done
    (source / "b.parquet").rename(source / "b.away")
    assert exit_code(["reconcile", str(out)]) == 1
    assert f"clipsieve compact {out} --forget-missing" in capsys.readouterr().err
    assert exit_code(["compact", str(out)]) == 0
    assert read(out, "wide").num_rows == 40, "rows went unasked"
    assert exit_code(["compact", str(out), "--forget-missing"]) == 0
    said = capsys.readouterr().out
    assert said == f"removed shard b: its source is gone, {source}/b.parquet\n"
    assert read(out, "wide").num_rows == 20
    current = ("samples/b.parquet", "embeddings/*/*/b.parquet", "scores/*/*/b.parquet")
    assert not [path for pattern in current for path in out.glob(pattern)]
    assert exit_code(["reconcile", str(out)]) == 0
    (source / "a.parquet").rename(source / "a.away")
    capsys.readouterr()
    assert exit_code(["compact", str(out), "--forget-missing"]) == 2
    assert "the sources of all 1 shards" in capsys.readouterr().err
    assert read(out, "samples").num_rows == 20


def test_a_source_that_cannot_be_reached_is_kept(done, capsys, monkeypatch):
    source, out = done
    (source / "b.parquet").rename(source / "b.away")
    real_stat = os.stat

    def stat(path: Any, *args: Any, **options: Any) -> os.stat_result:
        if os.fspath(path) == str(source / "b.parquet"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real_stat(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", stat)
        assert exit_code(["compact", str(out), "--forget-missing"]) == 0
    said = capsys.readouterr().out
    uri = source / "b.parquet"
    assert said == f"kept shard b: its source exists or cannot be reached, {uri}\n"
    assert read(out, "wide").num_rows == 40


def test_all_shards_of_an_input_go_only_if_it_is_named(done, tmp_path, capsys):
    _, out = done
    mount = tmp_path / "mount"
    write_one(mount, "c", 10, seed=3)
    write_one(mount, "d", 10, seed=4)
    run_job(mount, out)
    mount.rename(tmp_path / "away")
    mount.mkdir()
    for made in (True, False):
        if not made:
            mount.rmdir()
        assert exit_code(["compact", str(out), "--forget-missing"]) == 2
        said = capsys.readouterr().err
        assert f"the sources of all 2 shards of input {mount}/*.parquet are gone" in said
        assert f"--forget-input '{mount}/*.parquet'" in said
        assert read(out, "samples").num_rows == 60
    assert exit_code(["compact", str(out), "--forget-input", f"{tmp_path}/other/*"]) == 2
    assert "is no input of" in capsys.readouterr().err
    assert exit_code(["compact", str(out), "--forget-input", f"{mount}/*.parquet"]) == 0
    assert capsys.readouterr().out.count("removed shard") == 2
    assert read(out, "wide").num_rows == read(out, "samples").num_rows == 40
    assert exit_code(["reconcile", str(out)]) == 0


def test_forgetting_handles_damage_and_what_was_interrupted_as_a_compaction_does(done, capsys):
    source, out = done
    ids = out.parent / "ids.txt"
    ids.write_text("\n".join(map(str, read(out, "samples")["uid"].to_pylist()[-3:])) + "\n")
    assert exit_code(["remove", str(out), str(ids), "--name", "few"]) == 0
    assert len(list(out.glob("removals/rev=*/b.parquet"))) == 1
    (source / "b.parquet").rename(source / "b.away")
    truncate(out / "dataset.json")
    truncate(one_file(out, "scores/clip/*/a.parquet"))
    left = out / f"samples/x.parquet.tmp-{'0' * 32}"
    left.write_bytes(b"")
    capsys.readouterr()
    exit_code(["compact", str(out), "--forget-missing"])
    said = capsys.readouterr()
    assert "damaged: dataset.json; restored from its copy" in said.err
    assert re.search(r"scores/clip/rev=\w+/a\.parquet is missing or damaged", said.err)
    assert "removed shard b: its source is gone" in said.err
    assert not left.exists()
    assert not [*out.glob("removals/rev=*/b.parquet"), *out.glob("samples/b.parquet")]


def test_what_a_damaged_ledger_says_of_its_source_removes_nothing(done, capsys):
    source, out = done
    (source / "b.parquet").rename(source / "b.away")
    ledger = out / "samples/b.parquet"
    table = pq.read_table(ledger)
    rewritten(ledger, table.slice(1))
    capsys.readouterr()
    exit_code(["compact", str(out), "--forget-missing"])
    assert "removed shard" not in capsys.readouterr().out
    assert ledger.exists()


def one_file(out: Path, pattern: str) -> Path:
    (path,) = out.glob(pattern)
    return path


def rewritten(path: Path, table) -> None:
    """Put `table` into `path` under the footer that is there."""
    footer = pq.read_schema(path).metadata
    pq.write_table(table.replace_schema_metadata(footer), path)


def drop_row(path: Path) -> None:
    rewritten(path, pq.read_table(path, partitioning=None).slice(1))


def swap_rows(path: Path) -> None:
    table = pq.read_table(path, partitioning=None)
    rewritten(path, table.take([1, 0, *range(2, table.num_rows)]))


DAMAGES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "samples file deleted": ("samples/b.parquet", Path.unlink),
    "scores file deleted": ("scores/clip/*/b.parquet", Path.unlink),
    "embeddings file deleted": ("embeddings/*/*/b.parquet", Path.unlink),
    "scores file truncated": ("scores/clip/*/b.parquet", truncate),
    "samples row dropped": ("samples/b.parquet", drop_row),
    "scores row dropped": ("scores/clip/*/b.parquet", drop_row),
    "embeddings row dropped": ("embeddings/*/*/b.parquet", drop_row),
    "scores rows swapped": ("scores/clip/*/b.parquet", swap_rows),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_reconcile_finds_a_damaged_file(copied, damage, capsys):
    out = copied
    assert exit_code(["reconcile", str(out)]) == 0
    said = capsys.readouterr().out
    assert "all 40 input rows of 2 shards are in the ledger exactly once" in said
    pattern, do = DAMAGES[damage]
    do(one_file(out, pattern))
    assert exit_code(["reconcile", str(out)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "1 of 2 shards do not add up"
    assert all(line.startswith("b (") for line in said[:-1]) and len(said) > 1


def test_reconcile_finds_shards_not_done_and_shards_that_changed(done, capsys):
    source, out = done
    write_one(source, "c", 20, seed=3)
    assert exit_code(["reconcile", str(out)]) == 1
    assert "not in the ledger: this shard is not done" in capsys.readouterr().err
    (source / "c.parquet").unlink()
    write_one(source, "b", 20, seed=4)  # as many rows, but others
    assert exit_code(["reconcile", str(out)]) == 1
    assert "source has changed since it was read" in capsys.readouterr().err
    run_job(source, out)
    (source / "a.parquet").unlink()
    assert exit_code(["reconcile", str(out)]) == 1
    assert "its source is no longer among the inputs" in capsys.readouterr().err


def test_weights_that_are_not_here_end_with_the_command_that_fetches_them(tmp_path):
    write_one(tmp_path / "source", "a", 20, seed=1)
    options = [w for n, v in SETTINGS.items() if n != "model" for w in (f"--{n}", str(v))]
    model = ["--model", "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K"]
    words = ["run", f"{tmp_path}/source", f"{tmp_path}/out", *options, *model]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": f"{tmp_path}/empty"}
    with start(words, env=offline) as process:
        _, said = process.communicate()
    assert process.returncode == 2
    assert (
        "hf download laion/CLIP-ViT-B-32-laion2B-s34B-b79K "
        "--local-dir laion_CLIP-ViT-B-32-laion2B-s34B-b79K\n" in said
    )
    assert "Traceback" not in said
    assert not tables(tmp_path / "out")
