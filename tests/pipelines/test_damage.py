"""Damaged files of a finished folder: found by `reconcile`, made again by the next `run`."""

import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clipsieve.demo.shards import write_shards
from tests.pipelines.jobs import exit_code, run_command, tables

SCORERS = "clip,density,density.lof,ood.msp"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Sources and the finished folder that tests copy, in one place."""
    root = tmp_path_factory.mktemp("damage")
    write_shards(root / "source", 90, 3, seed=4)
    assert exit_code(command(root)) == 0
    filtered = ["filter", str(root / "out"), "--where", "clip_score > 0.2", "--name", "keep"]
    assert exit_code(filtered) == 0
    assert exit_code(command(root)) == 0
    return root


@pytest.fixture
def out(made, tmp_path):
    """A copy of the folder, with its times; sources stay where they are."""
    shutil.copytree(made / "out", tmp_path / "out")
    return tmp_path / "out"


def command(root: Path, out: Path | None = None) -> list[str]:
    options = ("--scorers", SCORERS, "--run-id", "fixed")
    return run_command(root / "source", out or root / "out", *options)


def flip(path: Path) -> None:
    """Change a bit as a disk does: size and time stay."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 16
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def contents(out: Path) -> dict[str, bytes]:
    """Bytes of all tables and of what was learnt; without the history of runs."""
    return tables(out) | {str(p.relative_to(out)): p.read_bytes() for p in out.glob("fits/*/*")}


KINDS = (
    "samples/*.parquet",
    "embeddings/*/*/*.parquet",
    "scores/clip/*/*.parquet",
    "scores/density/*/*.parquet",
    "scores/ood/*/*.parquet",
    "wide/*/*.parquet",
    "fits/density/*.npz",
    "fits/density/*.json",
    "prompts/*/*/*.npz",
    "audits/*.parquet",
    "sql/views.sql",
    "_runs/dataset.copy",
    "_runs/files.parquet",
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_found_and_the_file_made_again(made, out, capfd, kind):
    path = min(out.glob(kind))
    flip(path)
    name = str(path.relative_to(out))
    assert exit_code(["reconcile", str(out)]) == 1
    assert f"{name} is damaged: its bytes do not match the sha256" in capfd.readouterr().err
    assert exit_code(command(made, out)) == 0
    told = capfd.readouterr().err
    assert f"damaged: {name}: " in told or name == "_runs/files.parquet"
    assert contents(out) == contents(made / "out")
    assert exit_code(["reconcile", str(out)]) == 0
    assert not list(out.rglob("*.damaged"))


def test_damaged_records_of_the_run_that_is_repeated_are_moved_aside(made, out, capfd):
    path = out / "_runs" / "fixed.shards.jsonl"
    content = path.read_bytes().replace(b'"uri"', b'"wri"', 1)
    assert content != path.read_bytes()
    path.write_bytes(content)
    assert exit_code(["reconcile", str(out)]) == 1
    assert exit_code(command(made, out)) == 0
    assert "damaged: _runs/fixed.shards.jsonl: " in capfd.readouterr().err
    assert (out / "_runs" / "fixed.shards.jsonl.damaged").read_bytes() == content
    assert exit_code(["reconcile", str(out)]) == 0
    assert contents(out) == contents(made / "out")


def test_a_damaged_manifest_is_restored_from_its_copy(made, out, capfd):
    before = (out / "dataset.json").read_bytes()
    flip(out / "dataset.json")
    for words in (["reconcile"], ["status"], ["sql", "SELECT 1"], ["audit"]):
        name, *rest = words
        assert exit_code([name, str(out), *rest]) == 2
        message = r"dataset.json is damaged: its bytes do not match the sha256 in it; repeat the"
        assert message in capfd.readouterr().err
    assert exit_code(["compact", str(out)]) == 0
    assert "damaged: dataset.json; restored from its copy" in capfd.readouterr().err
    assert (out / "dataset.json").read_bytes() == before
    flip(out / "dataset.json")
    assert exit_code(command(made, out)) == 0
    assert (out / "dataset.json").read_bytes() == before


def test_two_damaged_manifests_are_refused(made, out, capfd):
    flip(out / "dataset.json")
    flip(out / "_runs" / "dataset.copy")
    before = tables(out)
    assert exit_code(command(made, out)) == 2
    assert "and its copy _runs/dataset.copy too; restore one of them" in capfd.readouterr().err
    assert tables(out) == before


def test_what_only_a_lost_source_could_make_again_stays_and_is_told(made, out, capfd):
    flip(out / "samples" / "00002.parquet")
    damaged = (out / "samples" / "00002.parquet").read_bytes()
    assert exit_code(["reconcile", str(out)]) == 1
    words = command(made, out)
    words[1] = f"{made}/source/0000[01].parquet"
    assert exit_code(words) == 1
    told = capfd.readouterr().err
    assert "still damaged: samples/00002.parquet: its bytes do not match the sha256 in it" in told
    assert (out / "samples" / "00002.parquet").read_bytes() == damaged


def test_a_damaged_subset_is_made_again_by_its_filter(made, out, capfd):
    path = min(out.glob("subsets/keep/*/kept/*.parquet"))
    flip(path)
    assert exit_code(["reconcile", str(out)]) == 1
    assert f"{path.relative_to(out)} is damaged" in capfd.readouterr().err
    words = ["filter", str(out), "--where", "clip_score > 0.2", "--name", "keep"]
    assert exit_code(words) == 0
    assert f"damaged: {path.relative_to(out)}" in capfd.readouterr().err
    assert contents(out) == contents(made / "out")
    assert exit_code(["reconcile", str(out)]) == 0


def test_scores_of_a_damaged_page_are_not_shown(out, capfd):
    path = min(out.glob("wide/*/*.parquet"))
    flip(path)
    os.utime(path)
    assert exit_code(["sql", str(out), "FROM scores"]) == 2
    assert f"view scores is left out: {path} is damaged" in capfd.readouterr().err
    assert exit_code(["compact", str(out)]) == 0
    assert exit_code(["sql", str(out), "SELECT count(*) FROM scores"]) == 0


def test_a_run_leaves_a_subset_to_its_filter_and_says_so(made, out, capfd):
    path = min(out.glob("subsets/keep/*/kept/*.parquet"))
    flip(path)
    os.utime(path)
    damaged = path.read_bytes()
    assert exit_code(command(made, out)) == 1
    told = capfd.readouterr().err
    assert f"still damaged: {path.relative_to(out)}: " in told
    assert f"make the subset again: clipsieve filter {out} ... --name keep" in told
    assert path.read_bytes() == damaged
    words = ["filter", str(out), "--where", "clip_score > 0.2", "--name", "keep"]
    assert exit_code(words) == 0
    assert exit_code(command(made, out)) == 0
    assert contents(out) == contents(made / "out")


def test_compact_and_embed_leave_scores_to_run_and_say_so(made, out, capfd):
    path = min(out.glob("scores/density/*/*.parquet"))
    flip(path)
    os.utime(path)
    damaged = path.read_bytes()
    name, *words = command(made, out)
    at = words.index("--scorers")
    for commands in (["compact", str(out)], ["embed", *words[:at], *words[at + 2 :]]):
        assert exit_code(commands) == 1, commands
        assert f"still damaged: {path.relative_to(out)}: " in capfd.readouterr().err
        assert path.read_bytes() == damaged
    assert exit_code([name, *words]) == 0
    assert contents(out) == contents(made / "out")


def test_a_damaged_file_of_an_earlier_revision_is_removed(made, out, capfd):
    (revision,) = out.glob("scores/density/rev=*")
    old = revision.with_name("rev=0123456789ab")
    shutil.copytree(revision, old)
    path = min(old.glob("*.parquet"))
    flip(path)
    assert exit_code(["reconcile", str(out)]) == 1
    assert exit_code(command(made, out)) == 0
    assert "of a revision that is not in use; removed" in capfd.readouterr().err
    assert not path.exists() and exit_code(["reconcile", str(out)]) == 0


def test_a_damaged_ledger_does_not_give_its_shard_to_another_source(made, out, tmp_path, capfd):
    write_shards(tmp_path / "other", 20, 1, seed=9)
    flip(out / "samples" / "00000.parquet")
    os.utime(out / "samples" / "00000.parquet")
    before = tables(out)
    words = command(made, out)
    words[1] = f"{tmp_path}/other/00000.parquet"
    assert exit_code(words) == 2
    assert f"which is the output of {made}/source/00000.parquet" in capfd.readouterr().err
    assert tables(out) == before


def test_a_run_id_that_is_used_again_does_not_hide_damage(made, out, capfd):
    flip(out / "samples" / "00000.parquet")
    assert exit_code(["reconcile", str(out)]) == 1
    words = command(made, out)
    words[1] = f"{made}/source/0000[12].parquet"
    assert exit_code(words) == 1
    assert exit_code(["reconcile", str(out)]) == 1
    assert exit_code(command(made, out)) == 0
    assert exit_code(["reconcile", str(out)]) == 0
    assert contents(out) == contents(made / "out")


def test_a_lost_manifest_is_restored_from_its_copy(made, out, capfd):
    before = (out / "dataset.json").read_bytes()
    (out / "dataset.json").unlink()
    assert exit_code(["status", str(out)]) == 2
    assert "has lost its dataset.json; repeat the `clipsieve run`" in capfd.readouterr().err
    words = command(made, out)
    at = words.index("--scorers")
    assert exit_code([*words[:at], *words[at + 2 :], "--scorers", "clip"]) == 0
    assert (out / "dataset.json").read_bytes() == before


def test_a_damaged_removal_list_stops_the_run_before_anything_is_moved(made, out, tmp_path, capfd):
    (first,) = pq.read_table(out / "samples" / "00000.parquet")["uid"].slice(0, 1).to_pylist()
    (tmp_path / "ids.txt").write_text(f"{first}\n")
    words = ["remove", str(out), str(tmp_path / "ids.txt"), "--name", "gone"]
    assert exit_code(words) == 0
    flip(out / "removals" / "gone" / "ids.parquet")
    flip(min(out.glob("wide/*/*.parquet")))
    assert exit_code(["reconcile", str(out)]) == 1
    assert exit_code(command(made, out)) == 1
    assert "removals/gone/ids.parquet is damaged" in capfd.readouterr().err
    assert not list(out.rglob("*.damaged"))


def test_a_dry_run_counts_a_damaged_shard_as_to_do(made, out, capfd):
    flip(out / "samples" / "00001.parquet")
    os.utime(out / "samples" / "00001.parquet")
    before = tables(out)
    assert exit_code([*command(made, out), "--dry-run"]) == 0
    assert '"00001"' in capfd.readouterr().out
    assert tables(out) == before
