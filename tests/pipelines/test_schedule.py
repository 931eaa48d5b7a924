"""What a scheduler reads: checks, result and metrics files, events, and the history of runs."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from prometheus_client.parser import text_string_to_metric_families

import clipsieve
from clipsieve.job.prometheus import LAST_SUCCESS
from clipsieve.schemas.events import EVENTS, json_schema
from clipsieve.store.folder import OutputFolder
from tests.pipelines.jobs import exit_code, run_command, run_job, start, truncate, write_one

SCHEMA = jsonschema.Draft202012Validator(json_schema())


@pytest.fixture
def place(tmp_path) -> Path:
    """A folder with `source`, two shards, and `out`, where they are scored."""
    write_one(tmp_path / "source", "a", 40, seed=1)
    write_one(tmp_path / "source", "b", 40, seed=2)
    run_job(tmp_path / "source", tmp_path / "out")
    return tmp_path


def events(text: str) -> list[dict[str, Any]]:
    """The lines of standard error, each of which must be an event of the schema."""
    parsed = [json.loads(line) for line in text.splitlines()]
    for event in parsed:
        SCHEMA.validate(event)
    return parsed


def gauges(path: Path) -> dict[str, float]:
    families = text_string_to_metric_families(path.read_text())
    names = ((s.labels.get("state", ""), s) for family in families for s in family.samples)
    return {f"{s.name} {state}".strip(): s.value for state, s in names}


def value(out: Path, expression: str) -> Any:
    (row,) = clipsieve.connect(out).sql(f"SELECT {expression}").fetchall()
    return row[0]


def test_a_failing_check_ends_with_its_code_after_all_is_written_and_the_next_day_works(
    place, capsys
):
    source, out = place / "source", place / "out"
    files = ["--metrics-file", str(place / "m.prom"), "--result-file", str(place / "r.json")]
    words = run_command(source, out, *files, "--log-format", "json")
    write_one(source, "c", 30, seed=3)
    check = "FROM samples WHERE shard = 'c' AND status = 'ok'"
    passing = "share_of('ok') < 0.1"
    assert exit_code([*words, "--fail-if", passing, "--fail-if", check]) == 4
    last = events(capsys.readouterr().err)[-1]
    assert last["event"] == "result" and last["exit_code"] == 4 and last["done"] == 1
    assert [c["failed"] for c in last["checks"]] == [False, True]
    assert f"check failed: {check}: {last['checks'][1]['rows']} rows, first: " in last["text"]
    content = json.loads((place / "r.json").read_text())
    SCHEMA.validate(content)
    assert {**content, "time": 0, "text": last["text"]} == {**last, "time": 0}
    assert gauges(place / "m.prom")["clipsieve_failed_checks"] == 1
    assert LAST_SUCCESS not in gauges(place / "m.prom")
    assert exit_code(["reconcile", str(out)]) == 0
    assert value(out, "(SELECT count(*) FROM scores)") == 110
    capsys.readouterr()

    assert exit_code([*words, "--fail-if", passing, "--fail-if", "share_of('ok') < 2"]) == 0
    last = events(capsys.readouterr().err)[-1]
    assert (last["exit_code"], last["done"], last["skipped"]) == (0, 0, 3)
    read = gauges(place / "m.prom")
    assert read["clipsieve_exit_code"] == 0 and read[LAST_SUCCESS] > 1.7e9
    assert read["clipsieve_shards skipped"] == 3
    assert sum(n for name, n in read.items() if name.startswith("clipsieve_rows ")) == 110
    history = OutputFolder.open(out).files
    (run,) = [n for n in history.list_files("_runs") if n == f"{last['run_id']}.json"]
    assert len(json.loads(history.read(f"_runs/{run}"))["result"]["checks"]) == 2


def test_shares_are_of_the_rows_of_this_run_and_changes_since_the_run_before(place):
    source, out = place / "source", place / "out"
    for seed in range(3):
        first = value(out, "value_of('mean', 'clip_score')")
        assert value(out, "value_of('rows', 'all')") == (80 if not seed else 20)
        write_one(source, f"new-{seed}", 20, seed=10 + seed)
        result = run_job(source, out)
        shard = f"FROM scores WHERE shard = 'new-{seed}'"
        mean = value(out, f"(SELECT avg(clip_score::DOUBLE) {shard})")
        assert value(out, "value_of('mean', 'clip_score')") == pytest.approx(mean, rel=1e-12)
        change = value(out, "change_of('mean', 'clip_score')")
        assert change == pytest.approx(mean - first, rel=1e-9)
        ok = result.new_counts.states["ok"] / 20
        assert value(out, "share_of('ok')") == ok
        total = value(out, "value_of('total_rows', 'all')")
        assert total == result.counts.rows == 100 + 20 * seed
    run_job(source, out)  # nothing new: compared with nothing
    assert value(out, "share_of('ok')") is None
    assert value(out, "value_of('mean', 'clip_score')") is None


def test_rows_of_a_stopped_run_and_of_embed_are_measured_by_the_next_run(place):
    source, out = place / "source", place / "out"
    write_one(source, "c", 20, seed=5)
    words = run_command(source, out)
    assert exit_code(["embed", *words[1:]]) == 0
    assert value(out, "value_of('rows', 'all')") == 20
    write_one(source, "d", 10, seed=6)
    run_job(source, out)
    assert value(out, "value_of('rows', 'all')") == 30
    assert value(out, "value_of('scored', 'clip_score')") == value(
        out, "(SELECT count(clip_score) FROM scores WHERE shard IN ('c', 'd'))"
    )


@pytest.mark.parametrize("words", [["--fail-if", "1 >"], ["--fail-if", "DROP TABLE x"]])
def test_what_is_no_check_is_refused_before_anything_is_done(place, words, capsys):
    result = place / "r.json"
    command = run_command(place / "source", place / "new", *words, "--result-file", str(result))
    assert exit_code(command) == 2
    assert "fail_if" in capsys.readouterr().err and not (place / "new").exists()
    content = json.loads(result.read_text())
    assert (content["event"], content["exit_code"]) == ("error", 2)
    SCHEMA.validate(content)


def test_errors_are_events_and_files_too(place, capsys):
    files = ["--metrics-file", str(place / "m.prom"), "--result-file", str(place / "r.json")]
    nothing = place / "nothing"
    words = run_command(nothing, place / "new", *files, "--log-format", "json")
    assert exit_code(words) == 2
    (error,) = events(capsys.readouterr().err)
    assert (error["event"], error["exit_code"]) == ("error", 2)
    assert error["error"].startswith(f"no input matches '{nothing}/*.parquet'")
    assert json.loads((place / "r.json").read_text())["error"] == error["error"]
    assert gauges(place / "m.prom")["clipsieve_exit_code"] == 2
    with OutputFolder.open(place / "out").lock():
        assert exit_code(run_command(place / "source", place / "out", *files)) == 75
    assert "is being written by process" in capsys.readouterr().err
    assert gauges(place / "m.prom")["clipsieve_exit_code"] == 75


def test_damaged_files_and_failed_shards_are_events_of_the_schema(place, capsys):
    source, out = place / "source", place / "out"
    shard = write_one(source, "c", 20, seed=4)
    truncate(shard)
    (out / "dataset.json").write_text("{}")
    words = run_command(source, out, "--log-format", "json", "--workers", "2")
    assert exit_code([*words, "--fail-if", "false"]) == 3
    kinds = {event["event"] for event in events(capsys.readouterr().err)}
    assert {"damaged", "input", "plan", "result"} <= kinds


def test_score_has_checks_files_and_events(place, capsys):
    out = place / "out"
    files = ["--metrics-file", str(place / "m.prom"), "--result-file", str(place / "r.json")]
    words = ["score", str(out), "--scorers", "clip_depicts", "--log-format", "json", *files]
    check = "FROM score_columns WHERE scorer = 'clip_depicts'"
    assert exit_code([*words, "--fail-if", check]) == 4
    last = events(capsys.readouterr().err)[-1]
    assert (last["event"], last["command"], last["exit_code"]) == ("result", "score", 4)
    assert json.loads((place / "r.json").read_text())["checks"] == last["checks"]
    assert gauges(place / "m.prom")["clipsieve_shards done"] == 2
    assert exit_code([*words, "--fail-if", "false"]) == 0


def test_a_signal_is_in_the_files(place):
    for seed in range(6):
        write_one(place / "source", f"s{seed}", 100, seed=20 + seed)
    result = place / "r.json"
    words = run_command(place / "source", place / "new", "--result-file", str(result))
    process = start([*words, "--log-format", "json", "--fail-if", "true"])
    assert process.stderr is not None
    for line in process.stderr:
        if json.loads(line)["event"] == "plan":
            break
    process.terminate()
    rest = events(process.communicate()[1])
    assert process.returncode == 143
    content = json.loads(result.read_text())
    assert (content["exit_code"], content["stopped"], content["checks"]) == (143, "SIGTERM", [])
    assert rest[-1]["exit_code"] == 143


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--metrics-file", "x.txt", "does not end in .prom"),
        ("--metrics-file", "nowhere/x.prom", "is in a folder that does not exist"),
        ("--result-file", "nowhere/x.json", "is in a folder that does not exist"),
        ("--part", "0/3", "is not one of 1/N to N/N"),
        ("--part", "4/3", "is not one of 1/N to N/N"),
        ("--part", "x", "is not one of 1/N to N/N"),
    ],
)
def test_wrong_settings_are_refused(place, option, value, message, capsys, monkeypatch):
    monkeypatch.chdir(place)
    assert exit_code(run_command(place / "source", place / "new", option, value)) == 2
    assert message in capsys.readouterr().err


def test_every_event_that_the_code_reports_is_in_the_schema_and_the_other_way_round():
    root = Path(clipsieve.__file__).parent
    text = "\n".join(path.read_text() for path in root.rglob("*.py"))
    reported = set(re.findall(r'\breport(?:_lines|_result)?\(\s*"([a-z_]+)"', text))
    assert reported | {"part", "result"} == set(EVENTS)
