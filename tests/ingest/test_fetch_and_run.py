"""`clipsieve run --ingest`: fetch and score at once."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clipsieve
from tests.pipelines.jobs import exit_code

TOML = """
allow_ranges = "127.0.0.0/8"
rows_per_shard = 10
processes = 1
threads = 8
retries = 0
"""


@pytest.fixture
def place(tmp_path, site) -> Path:
    """A folder with a list of 45 URLs, and settings of ingest."""
    urls = [site.url(f"/good/{row}.jpg") for row in range(45)]
    urls[3], urls[17], urls[18] = site.url("/status/404"), None, "http://10.0.0.1/x.jpg"
    urls[:10] = [site.url("/status/404")] * 10  # not one image in the first shard
    captions = [f"picture {row}" for row in range(45)]
    pq.write_table(
        pa.table({"url": pa.array(urls, pa.string()), "caption": captions}), tmp_path / "l.parquet"
    )
    (tmp_path / "ingest.toml").write_text(TOML)
    return tmp_path


def words(place: Path, *options: str, out: str = "out") -> list[str]:
    return [
        *("run", str(place / "shards"), str(place / out), "--scorers", "clip,density"),
        *("--model", "tiny", "--device", "cpu", "--dtype", "float32", "--threads", "2"),
        *("--ingest", str(place / "l.parquet"), "--ingest-config", str(place / "ingest.toml")),
        *("--run-id", "r", *options),
    ]


def tables(out: Path) -> dict[str, pa.Table]:
    """The content of all tables but those of history; revisions depend on times of the sources."""
    found = {}
    for path in sorted(out.rglob("*.parquet")):
        name = str(path.relative_to(out))
        if not name.startswith("_runs"):
            key = re.sub(r"(build=|density/rev=|part-\d+-)\w+", r"\1", name)
            found[key] = pq.read_table(path, partitioning=None)
    return found


def test_shards_are_embedded_as_they_come_and_scored_at_the_end(place, site, capsys):
    site.latency = 1.0
    result = place / "r.json"
    options = (
        "--log-format",
        "json",
        "--result-file",
        str(result),
        "--fail-if",
        "share_of('ok') < .1",
    )
    assert exit_code(words(place, *options)) == 0
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    ended = [(e["command"], e.get("done")) for e in events if e["event"] in ("result", "error")]
    assert ended[-1] == ("run", 0) and ("ingest", 5) in ended
    embedded = [done for command, done in ended if command == "embed"]
    assert sum(filter(None, embedded)) == 5 and len(embedded) >= 2
    states = clipsieve.connect(place / "out").sql(
        "SELECT status, count(*) FROM scores GROUP BY 1 ORDER BY 1"
    )
    assert states.fetchall() == [("fetch_failed", 12), ("ok", 33)]
    errors = clipsieve.connect(place / "out").sql(
        "SELECT DISTINCT error FROM samples WHERE status = 'fetch_failed' ORDER BY 1"
    )
    reasons = " ".join(row[0] for row in errors.fetchall())
    assert all(w in reasons for w in ("404", "NULL", "10.0.0.1 is not public"))
    assert json.loads(result.read_text())["exit_code"] == 0
    assert exit_code(["reconcile", str(place / "out")]) == 0


def test_the_result_is_that_of_the_two_commands(place, site):
    assert exit_code(words(place)) == 0
    ingesting = ["ingest", str(place / "l.parquet"), str(place / "other")]
    assert exit_code([*ingesting, "--config", str(place / "ingest.toml")]) == 0
    for path in (place / "shards").glob("*.parquet"):
        assert path.read_bytes() == (place / "other" / path.name).read_bytes()
    plain = words(place, out="plain")
    at = plain.index("--ingest")
    assert exit_code([*plain[:at], *plain[at + 4 :]]) == 0
    assert tables(place / "plain") == tables(place / "out")


def test_killed_at_any_moment_the_same_command_ends_in_the_same_tables(place, site):
    assert exit_code(words(place, out="calm")) == 0
    (place / "shards").rename(place / "calm-shards")
    site.requests.clear()
    site.latency = 0.05
    random.seed(5)
    for attempt in range(4):
        process = subprocess.Popen(
            [sys.executable, "-m", "clipsieve.cli", *words(place)],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(random.uniform(2.5, 6.0))
        process.send_signal(signal.SIGKILL if attempt % 2 else signal.SIGTERM)
        process.wait()
        if attempt % 2 == 0 and process.returncode != 0:
            assert process.returncode in (143, -signal.SIGTERM)
    assert exit_code(words(place)) == 0
    assert sorted(tables(place / "out")) == sorted(tables(place / "calm"))
    assert tables(place / "out") == tables(place / "calm")
    for path in (place / "calm-shards").glob("*.parquet"):
        assert path.read_bytes() == (place / "shards" / path.name).read_bytes()


def test_an_error_of_fetching_ends_the_command(place, site, capsys):
    (place / "l.parquet").write_bytes(b"no list")
    assert exit_code(words(place)) == 2
    assert "l.parquet" in capsys.readouterr().err
    assert not (place / "out" / "samples").exists()


def test_a_deadline_holds_for_both(place, site):
    urls = [site.url(f"/good/{row}.jpg") for row in range(400)]
    pq.write_table(pa.table({"url": urls, "caption": ["x"] * 400}), place / "l.parquet")
    site.latency = 0.3
    assert exit_code(words(place, "--deadline", "4")) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["{place}/shards/*.parquet"], "must be one folder of this machine"),
        (["{place}/a", "{place}/b"], "must be one folder of this machine"),
        (["{place}/shards", "--part", "1/2"], "part=1/2 is for shards that are there"),
        (["{place}/shards", "--dry-run"], "leave --dry-run out"),
    ],
)
def test_what_cannot_be_fetched_into_is_refused(place, change, message, capsys):
    given = words(place)
    changed = [word.format(place=place) for word in change]
    assert exit_code([given[0], *changed, *given[2:]]) == 2
    assert message in capsys.readouterr().err
