"""What is told on standard error, as text and as JSON lines."""

import json

from clipsieve.control import Snapshot
from clipsieve.job import reporter
from clipsieve.job.reporter import Reporter, progress_line


def test_json_lines_have_event_run_and_fields(capsys):
    Reporter("json", "r1").report("plan", "2 shards\nto do", todo=2, names=["a"])
    line = capsys.readouterr()
    assert line.out == ""
    value = json.loads(line.err)
    assert isinstance(value.pop("time"), float)
    wanted = {"event": "plan", "run_id": "r1", "text": "2 shards\nto do", "todo": 2, "names": ["a"]}
    assert value == wanted


def test_text_is_printed_as_it_is(capsys):
    text = "[red]model[/red] of " + "/long/path" * 30
    Reporter("text").report("model", text)
    assert capsys.readouterr().err == text + "\n"


def test_progress_is_a_json_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(reporter, "LINE_SECONDS", 0.01)
    taken = []

    def snapshot():
        taken.append(1)
        return Snapshot(rows=5, failed_rows=1, seconds={"read": 1.0})

    with Reporter("json").watching(snapshot, 10):
        while len(taken) < 2:
            pass
    first = json.loads(capsys.readouterr().err.splitlines()[0])
    assert (first["event"], first["rows"], first["total_rows"]) == ("progress", 5, 10)
    assert first["seconds"] == {"read": 1.0}


def test_progress_without_a_total_or_time():
    assert progress_line(Snapshot(), None, 0.0) == "0 rows · 0/s · 0 not ok"


def test_progress_names_failed_shards_and_never_a_negative_time():
    line = progress_line(Snapshot(12, failed_shards=2), 10, 1.0)
    assert "12/10 rows" in line and "0:00 left" in line and line.endswith(" · 2 shards failed")


def test_snapshots_add_up():
    a = Snapshot(1, 2, 3, 4, {"read": 1.0, "encode": 2.0})
    b = Snapshot(10, 20, 30, 40, {"read": 0.5})
    assert a + b == b + a == Snapshot(11, 22, 33, 44, {"read": 1.5, "encode": 2.0})
    assert (a + b).shares()["encode"] == 2.0 / 3.5


def test_within_a_muted_block_nothing_is_written(capsys):
    reporter = Reporter("text")
    with reporter.muted():
        reporter.report("plan", "again")
    reporter.report("plan", "once")
    assert capsys.readouterr().err == "once\n"
