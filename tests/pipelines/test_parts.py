"""Parts of one run: arrays of jobs that write to one output folder at once."""

import json
import os
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.errors import Locked
from clipsieve.store.folder import OutputFolder
from clipsieve.store.part_locks import part_files
from tests.pipelines.jobs import (
    exit_code,
    identities,
    leftovers,
    run_command,
    run_job,
    start,
    tables,
    truncate,
    wait_for,
    write_one,
)

SHARDS = "abcdefg"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("parts") / "source"
    for seed, name in enumerate(SHARDS):
        write_one(folder, name, 12 + seed, seed)
    return folder


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory) -> dict[str, pa.Table]:
    """The tables of a run without parts, by name, without what names the run."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run_job(source, out, run_id="r")
    return values(out)


def values(out: Path) -> dict[str, pa.Table]:
    """The content of all tables but for the id of the run in their footers and of builds."""
    found = {}
    for name in tables(out):
        key = re.sub(r"build=[0-9a-f]+", "build", name)
        found[key] = pq.read_table(out / name, partitioning=None).replace_schema_metadata()
    return found


def embedded(out: Path) -> set[str]:
    return {path.stem for path in (out / "samples").glob("*.parquet")}


def part(source: Path, out: Path, text: str, *options: str) -> list[str]:
    return run_command(source, out, "--part", text, *options)


def test_parts_one_after_the_other_share_the_shards_and_the_last_does_the_rest(
    source, whole, tmp_path, capsys
):
    out = tmp_path / "out"
    assert exit_code(part(source, out, "2/3")) == 0
    assert embedded(out) == set("be")
    assert exit_code(part(source, out, "1/3")) == 0
    assert embedded(out) == set("adgbe") and not (out / "wide").exists()
    text = capsys.readouterr().err
    assert "part 1/3 is done; the last part computes what needs all shards" in text
    assert exit_code(part(source, out, "3/3", "--fail-if", "true")) == 4
    assert "part 3/3 is the last" in capsys.readouterr().err
    assert values(out) == whole
    assert leftovers(out) == [] and os.listdir(out / "_runs" / "parts") == []
    assert exit_code(["reconcile", str(out)]) == 0


def test_parts_at_once_end_in_the_tables_of_one_run(source, whole, tmp_path):
    out = tmp_path / "out"
    started = [start(part(source, out, f"{n}/4", "--run-id", "r")) for n in (1, 2, 3, 4)]
    ended = [(process.communicate()[1], process.returncode) for process in started]
    assert [code for _, code in ended] == [0, 0, 0, 0], ended
    assert sum("is the last" in text for text, _ in ended) >= 1
    assert values(out) == whole and leftovers(out) == []
    ids = {name.partition(".shards")[0] for name in os.listdir(out / "_runs") if ".shards" in name}
    assert {f"r.{n}-of-4" for n in (1, 2, 3, 4)} <= ids


def test_of_one_part_twice_and_of_parts_and_a_whole_run_only_one_works(source, tmp_path):
    out = tmp_path / "out"
    assert exit_code(part(source, out, "1/3")) == 0
    folder = OutputFolder.open(out)
    with part_files(folder.files, "2-of-3").lock():
        assert exit_code(part(source, out, "2/3")) == 75
        with pytest.raises(Locked, match=r"^part 2/3 of a run is writing to .*out \(.*process \d+"):
            with folder.lock():
                pass
        assert exit_code(run_command(source, out)) == 75
        assert exit_code(["compact", str(out)]) == 75
        assert exit_code(part(source, out, "3/3")) == 0
    with folder.lock():
        process = start(part(source, out, "2/3"))
        wait_for(lambda: (out / "_runs/parts/2-of-3/.lock").exists(), "the part")
        assert process.poll() is None  # it waits for the folder's lock
    process.communicate()
    assert process.returncode == 0 and (out / "wide").exists()


def test_a_part_that_is_killed_is_done_by_the_same_command_or_by_a_whole_run(
    source, whole, tmp_path
):
    out, other = tmp_path / "out", tmp_path / "other"
    process = start(part(source, out, "1/2"))
    wait_for(lambda: embedded(out), "a shard")
    process.kill()
    process.communicate()
    assert exit_code(part(source, out, "2/2")) == 0
    assert not (out / "wide").exists()  # the first has not ended
    shutil.copytree(out, other)
    before = identities(out)
    assert exit_code(part(source, out, "1/2")) == 0
    assert values(out) == whole
    assert {k: v for k, v in identities(out).items() if k in before and "samples" in k} == {
        k: v for k, v in before.items() if "samples" in k
    }
    assert exit_code(run_command(source, other)) == 0
    assert values(other) == whole and leftovers(other) == []


def test_what_an_earlier_array_left_does_not_count_for_a_larger_input(source, tmp_path):
    grown, out = tmp_path / "grown", tmp_path / "out"
    shutil.copytree(source, grown)
    assert exit_code(part(grown, out, "1/2")) == 0  # the second never ran
    write_one(grown, "h", 10, seed=9)
    assert exit_code(part(grown, out, "2/2")) == 0
    assert not (out / "wide").exists()
    assert exit_code(part(grown, out, "1/2")) == 0
    assert (out / "wide").exists() and embedded(out) == {*SHARDS, "h"}


def test_a_failed_shard_does_not_keep_the_others_from_being_finished(source, tmp_path, capsys):
    broken, out = tmp_path / "broken", tmp_path / "out"
    shutil.copytree(source, broken)
    truncate(broken / "b.parquet")
    assert exit_code(part(broken, out, "1/2")) == 0
    assert exit_code(part(broken, out, "2/2")) == 3
    assert (out / "wide").exists() and embedded(out) == set(SHARDS) - {"b"}


def test_a_part_of_no_shard_is_done_at_once(source, tmp_path):
    out = tmp_path / "out"
    for number in range(1, 9):
        assert exit_code(part(source, out, f"{number}/8")) == 0
    assert embedded(out) == set(SHARDS) and (out / "wide").exists()


def test_embed_has_parts_too_and_leaves_the_rest_to_run(source, whole, tmp_path):
    out = tmp_path / "out"
    for number in (1, 2):
        words = part(source, out, f"{number}/2")
        assert exit_code(["embed", *words[1:]]) == 0
    assert not (out / "wide").exists()
    assert exit_code(run_command(source, out)) == 0
    assert values(out) == whole


def test_other_arrays_and_engines(source, tmp_path, capsys):
    out = tmp_path / "out"
    words = part(source, out, "1/2")
    assert exit_code([*words, "--runner", "dask"]) == 2
    assert "deals the shards out itself" in capsys.readouterr().err
    assert exit_code([*words, "--dry-run"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["todo"] == list("aceg") and plan["shards"] == 4 and not out.exists()


def test_workers_of_a_part_do_not_sweep_what_others_write(source, tmp_path):
    out = tmp_path / "out"
    others = out / "samples" / f"z.parquet.tmp-{'0' * 32}"
    others.parent.mkdir(parents=True)
    others.write_bytes(b"of another part")
    assert exit_code(part(source, out, "1/2", "--workers", "2")) == 0
    assert others.exists()
    assert exit_code(run_command(source, out)) == 0
    assert not others.exists()
