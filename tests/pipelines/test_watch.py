"""`clipsieve watch`: a folder that grows."""

import json
from pathlib import Path

from clipsieve.store.folder import OutputFolder
from tests.pipelines.jobs import exit_code, run_command, start, wait_for, write_one


def words(source: Path, out: Path, *options: str) -> list[str]:
    return ["watch", *run_command(source, out, *options)[1:], "--log-format", "json"]


def events(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def shards(out: Path) -> set[str]:
    return {path.stem for path in (out / "samples").glob("*.parquet")}


def finished(out: Path, count: int):
    """Whether so many runs have been written to the end, with their metrics."""
    return lambda: len(list((out / "_runs").glob("*.metrics.parquet"))) >= count


def test_it_waits_for_a_first_shard_scores_new_ones_and_ends_at_a_signal(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    process = start(words(source, out, "--every", "1", "--result-file", str(tmp_path / "r.json")))
    wait_for(lambda: (tmp_path / "r.json").exists(), "the first look")
    assert json.loads((tmp_path / "r.json").read_text())["exit_code"] == 2  # no input yet
    for at, name in enumerate("ab", start=1):
        write_one(source, name, 15, seed=at)
        wait_for(finished(out, at), f"shard {name}")
        assert name in shards(out)
    process.terminate()
    seen = events(process.communicate()[1])
    assert process.returncode == 143
    waits = [event for event in seen if event["event"] == "watch"]
    assert "no input matches" in waits[0]["text"] and "next look in 0:0" in waits[-1]["text"]
    assert {event["done"] for event in seen if event["event"] == "result"} >= {1}


def test_until_ends_it_with_the_code_of_the_last_run(tmp_path, capsys):
    source, out = tmp_path / "source", tmp_path / "out"
    write_one(source, "a", 15, seed=1)
    # The next look would be after the end.
    assert exit_code(words(source, out, "--every", "60", "--until", "55", "--fail-if", "true")) == 4
    assert [event["event"] for event in events(capsys.readouterr().err)].count("result") == 1


def test_a_deadline_within_a_run_leaves_the_rest_to_the_next_command(tmp_path, capsys):
    source, out = tmp_path / "source", tmp_path / "out"
    write_one(source, "a", 15, seed=1)
    assert exit_code(words(source, out, "--until", "0.01")) == 3
    assert shards(out) == set()
    assert events(capsys.readouterr().err)[-1]["stopped"] == "deadline reached"


def test_another_command_in_the_folder_is_waited_for(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    write_one(source, "a", 15, seed=1)
    with OutputFolder.open(out).lock():
        process = start(words(source, out, "--every", "1", "--result-file", str(tmp_path / "r")))
        wait_for(lambda: (tmp_path / "r").exists(), "the first look")
        assert json.loads((tmp_path / "r").read_text())["exit_code"] == 75
        assert not shards(out)
    wait_for(finished(out, 1), "the run")
    process.terminate()
    process.communicate()
    assert process.returncode == 143
