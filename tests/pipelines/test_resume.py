"""A process killed at any moment, and the same command again."""

import json
import os
import random
import signal
from functools import partial
from pathlib import Path

import pytest

from clipsieve.demo.shards import write_shards
from clipsieve.store.folder import OutputFolder
from clipsieve.store.records import DONE, read_records
from tests.pipelines.jobs import (
    exit_code,
    identities,
    leftovers,
    run_command,
    run_job,
    start,
    tables,
    wait_for,
)

SHARDS = 12
FILES_A_SHARD = 3  # ledger, embeddings, one family
KILLS = 3


def finished(out: Path) -> dict[str, tuple[int, int]]:
    """The files of the shards whose ledger, written last, is there."""
    done = {path.stem for path in (out / "samples").glob("*.parquet")}
    return {path: at for path, at in identities(out).items() if Path(path).stem in done}


def has_files(out: Path, count: int) -> bool:
    """Whether that many files of shards are there."""
    return len(identities(out)) >= count


def test_a_job_killed_again_and_again_ends_with_the_bytes_of_an_undisturbed_one(tmp_path):
    source, calm, killed = tmp_path / "source", tmp_path / "calm", tmp_path / "killed"
    write_shards(source, 144, SHARDS, seed=9)
    settings = {"run_id": "fixed", "batch_size": 4}
    run_job(source, calm, **settings)
    command = run_command(source, killed, "--run-id", "fixed", "--batch-size", "4")
    rng = random.Random(20)
    kept: dict[str, tuple[int, int]] = {}
    for at in range(KILLS):
        # Any file may be the last one written: ledgers are no likelier than the others.
        low = len(kept) + 1
        files = rng.randrange(low, low + SHARDS * FILES_A_SHARD // (KILLS + 1))
        process = start(command)
        with process:
            wait_for(partial(has_files, killed, files), f"{files} files")
            process.kill()
        assert process.returncode == -signal.SIGKILL, f"kill {at} came too late"
        now = finished(killed)
        assert kept.items() <= now.items(), "a finished shard was written again"
        kept = now
    assert kept and len(finished(killed)) < SHARDS * FILES_A_SHARD
    assert exit_code(command) == 0
    assert kept.items() <= identities(killed).items()
    assert tables(killed) == tables(calm)
    assert (killed / "dataset.json").read_bytes() == (calm / "dataset.json").read_bytes()
    assert leftovers(killed) == []
    records = [r for r in read_records(OutputFolder.open(killed)) if r.state == DONE]
    encoded = [r.shard for r in records if r.seconds > 0]
    assert len(encoded) == len(set(encoded)), "a shard was encoded twice after its record"
    manifest = json.loads((killed / "_runs" / "fixed.json").read_text())
    assert manifest["status"] == "ok"


def test_a_kill_between_the_files_of_a_shard_redoes_that_shard_alone(tmp_path):
    source, calm, out = tmp_path / "source", tmp_path / "calm", tmp_path / "out"
    write_shards(source, 60, 3, seed=9)
    run_job(source, calm, run_id="fixed")
    run_job(source, out, run_id="fixed")
    before = identities(out)
    (out / "samples" / "00001.parquet").unlink()
    os.truncate(next(out.glob("scores/clip/*/00002.parquet")), 100)
    result = run_job(source, out, run_id="fixed")
    assert (result.done, result.skipped) == (2, 1)
    first = {path: at for path, at in before.items() if path.endswith("00000.parquet")}
    assert first.items() <= identities(out).items()
    assert tables(out) == tables(calm)


@pytest.mark.parametrize("stage", ["wide", "sql"])
def test_a_kill_before_the_end_of_compaction_is_made_good(tmp_path, stage):
    source, calm, out = tmp_path / "source", tmp_path / "calm", tmp_path / "out"
    write_shards(source, 30, 2, seed=9)
    run_job(source, calm, run_id="fixed")
    run_job(source, out, run_id="fixed")
    folder = out / stage
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    assert run_job(source, out, run_id="fixed").skipped == 2
    assert tables(out) == tables(calm)
    assert {"macros.sql", "views.sql"} <= {p.name for p in (out / "sql").iterdir()}
