"""Every command on an output folder in a store: as on disk, byte for byte."""

import logging
import re
import signal
import time
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

import clipsieve
from clipsieve.demo.shards import write_shards
from clipsieve.job.run import dry_run
from clipsieve.object_stores.files import ObjectStoreFiles
from clipsieve.pipelines.engine import make_engine
from clipsieve.settings import RunConfig
from clipsieve.store import names
from clipsieve.store.file_system import MARK
from clipsieve.store.files import LocalFiles
from clipsieve.store.folder import OutputFolder
from tests.engines.jobs import walk
from tests.object_stores.server import SECRET, kinds
from tests.pipelines.jobs import SETTINGS, exit_code, run_command, start, wait_for

#: What holds times, or how the job was called.
HISTORY = re.compile(r"_runs/|\.lock|dataset\.json|\.json$")


def every_file(files):
    """Content of all files but the history, by name."""
    return {name: files.read(name) for name in walk(files) if not HISTORY.search(name)}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, rows=60, shards=5)
    return folder


def run(shards, out, **settings):
    given = {**SETTINGS, "scorers": ["clip", "density", "ood.zero_shot"], **settings}
    return clipsieve.run([f"{shards}/*.parquet"], out, run_id="r1", **given)


@pytest.fixture(scope="module")
def on_disk(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("disk") / "out"
    run(shards, str(out))
    return LocalFiles(out)


@pytest.fixture(scope="module")
def store(server, shards):
    """A finished run in a store, which tests only read."""
    url = "s3://bucket/finished/out"
    result = run(shards, url)
    assert (result.exit_code, result.counts.rows) == (0, 60)
    return ObjectStoreFiles(url)


def test_a_run_writes_what_it_writes_on_disk(store, on_disk):
    stored, expected = every_file(store), every_file(on_disk)
    assert sorted(stored) == sorted(expected)
    assert [name for name in stored if stored[name] != expected[name]] == []
    assert not [name for name in walk(store) if MARK in name]


def test_worker_processes_write_the_same(server, shards, url, on_disk):
    assert run(shards, url, workers=2).exit_code == 0
    assert every_file(ObjectStoreFiles(url)) == every_file(on_disk)


def test_inputs_of_a_store_are_read_too(server, shards, on_disk):
    files = ObjectStoreFiles("s3://bucket/input")
    for path in sorted(shards.glob("*.parquet")):
        files.system.put_file(str(path), f"bucket/input/{path.name}")
    out = "s3://bucket/of-input/out"
    given = {**SETTINGS, "scorers": ["clip"]}
    result = clipsieve.run(["s3://bucket/input/*.parquet"], out, run_id="r1", **given)
    assert (result.exit_code, result.counts.rows) == (0, 60)
    assert clipsieve.run(["s3://bucket/input/*.parquet"], out, **given).skipped == 5
    ours = OutputFolder.open(out).read_table("samples/00001.parquet")
    theirs = pq.read_table(on_disk.path("samples/00001.parquet"))
    assert ours["uid"].equals(theirs["uid"])
    assert ours["image_sha256"].equals(theirs["image_sha256"])


def test_an_output_folder_among_its_inputs_is_refused(shards, url, capsys):
    files = ObjectStoreFiles(url)
    files.system.put_file(str(shards / "00000.parquet"), files._key("in/00000.parquet"))
    assert exit_code(["run", f"{url}/in", url]) == 2
    assert f"lies in the output folder {url};" in capsys.readouterr().err


def test_a_second_run_does_nothing_and_asks_little(store, shards, server):
    before = every_file(store)
    server.requests()
    result = run(shards, store.url())
    assert (result.skipped, result.done) == (5, 0)
    requests = server.requests()
    assert every_file(store) == before
    read = [r for r in requests if re.match(r"GET /bucket/finished/out/(samples|embed)", r)]
    assert len(read) <= 2  # one footer for each kind of file, of all shards
    assert kinds(requests)["PUT"] < 40


def test_without_kept_footers_planning_asks_for_one_footer_a_shard(store, shards, url, server):
    for name in walk(store):
        if name != names.FOOTERS and not name.startswith(".lock"):
            store.system.pipe_file(ObjectStoreFiles(url)._key(name), store.read(name))
    config = RunConfig((f"{shards}/*.parquet",), url, **SETTINGS)
    server.requests()
    plan = dry_run(config, make_engine(config))
    assert (plan["done"], plan["todo"]) == (5, [])
    read = [r for r in server.requests() if re.match(r"GET .*/(samples|embed\w*|scores)/", r)]
    assert sum("/samples/" in each for each in read) == len(read) == 5
    gone = next(n for n in walk(store) if n.startswith("embeddings/") and "00003" in n)
    ObjectStoreFiles(url).delete(gone)
    assert dry_run(config, make_engine(config))["todo"] == ["00003"]
    cut = next(n for n in walk(store) if n.startswith("scores/clip/") and "00001" in n)
    store.system.pipe_file(ObjectStoreFiles(url)._key(cut), store.read(cut)[:-9])
    assert dry_run(config, make_engine(config))["todo"] == ["00001", "00003"]


def query(text, out, capsys, *options):
    assert exit_code(["sql", out, text, "--format", "csv", *options]) == 0
    return capsys.readouterr().out.splitlines()


def test_sql_reads_a_store_as_it_reads_a_disk(store, on_disk, capsys):
    for text in (
        "SELECT status, count(*), round(avg(clip_score), 4) FROM scores GROUP BY 1 ORDER BY 1",
        "SELECT count(*), max(ood_max_logit) FROM ood",
        "SELECT count(*), count(DISTINCT uid) FROM samples",
        "SELECT shard, count(*) FROM scores JOIN embeddings USING (uid) GROUP BY 1 ORDER BY 1",
        "SELECT count(*) FROM shards",
        "SELECT * FROM score_columns ORDER BY 1",
        "SELECT rows FROM score_histogram('scores', 'clip_score', n := 4)",
    ):
        assert query(text, store.url(), capsys) == query(text, on_disk.url(), capsys), text
    views = "SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY 1"
    assert query(views, store.url(), capsys) == query(views, on_disk.url(), capsys)


def test_a_query_makes_only_the_views_it_names(store, capsys, server):
    server.requests()
    assert query("SELECT count(*) FROM scores", store.url(), capsys)[1] == "60"
    assert not [r for r in server.requests() if r.startswith(("GET", "HEAD")) and "/samples/0" in r]


def test_a_locked_query_reads_the_store_and_nothing_else(store, capsys, tmp_path):
    assert query("SELECT count(*) FROM scores", store.url(), capsys, "--locked")[1] == "60"
    ObjectStoreFiles("s3://bucket/private").system.pipe_file("bucket/private/a.csv", b"a\n1\n")
    secret = tmp_path / "a.csv"
    secret.write_text("a\n1\n")
    for place in ("s3://bucket/private/a.csv", str(secret)):
        words = ["sql", store.url(), f"SELECT * FROM read_csv('{place}')", "--locked"]
        assert exit_code(words) == 2
        assert "Permission" in capsys.readouterr().err


def test_connect_gives_all_views(store):
    with clipsieve.connect(store.url()) as connection:
        assert connection.sql("SELECT count(*) FROM samples").fetchall() == [(60,)]
        ((state, rows),) = connection.sql(
            "SELECT state, sum(rows) FROM shards WHERE state = 'done' GROUP BY 1"
        ).fetchall()
    assert (state, rows) == ("done", 60)


def test_a_catalog_of_a_store_is_a_file_of_this_machine(store, capsys, tmp_path):
    assert exit_code(["sql", store.url(), "--catalog"]) == 2
    assert "name a file of this machine" in capsys.readouterr().err
    place = tmp_path / "c.duckdb"
    assert exit_code(["sql", store.url(), "--catalog", str(place)]) == 0
    with duckdb.connect(str(place), read_only=True) as connection:
        connection.register_filesystem(store.query_system())
        assert connection.sql("SELECT count(*) FROM scores").fetchall() == [(60,)]


def test_status_and_reconcile_agree(store, capsys):
    assert exit_code(["status", store.url()]) == 0
    assert "done: 5 of 5 shards, 60 rows" in capsys.readouterr().out
    assert exit_code(["reconcile", store.url()]) == 0
    assert exit_code(["reconcile", store.url(), "--quick"]) == 0
    assert "60" in capsys.readouterr().out


def test_damage_is_named_and_mended(server, shards, url, capsys, on_disk):
    run(shards, url)
    files = ObjectStoreFiles(url)
    for name in ("samples/00001.parquet", "embeddings/", "scores/density/", "wide/"):
        place = name if name.endswith("parquet") else _first(files, name)
        content = bytearray(files.read(place))
        content[len(content) // 2] ^= 0xFF
        files.system.pipe_file(files._key(place), bytes(content))
    assert exit_code(["reconcile", url]) == 1
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("is damaged") >= 4
    assert run(shards, url).exit_code == 0
    assert exit_code(["reconcile", url]) == 0
    assert sorted(every_file(files)) == sorted(every_file(on_disk))
    assert every_file(files) == every_file(on_disk)


def _first(files, folder):
    return next(name for name in walk(files, folder.rstrip("/")))


def test_other_commands_work_there_as_on_disk(server, shards, url, on_disk, tmp_path, capsys):
    run(shards, url)
    local = tmp_path / "out"
    run(shards, str(local))
    ids = tmp_path / "ids.txt"
    uid = pq.read_table(on_disk.path("samples/00000.parquet"))["uid"][3].as_py()
    ids.write_text(f"{uid}\n")
    for out in (url, str(local)):
        for words in (
            ["score", out, "--scorers", "duplicates.caption", "--run-id", "r2"],
            ["filter", out, "--where", "top_fraction(clip_score, 0.4)", "--name", "k"],
            ["filter", out, "--where", "status = 'ok'", "--name", "s", "--runner", "FnApiRunner"],
            ["export", out, "s", "--format", "parquet", "--to", str(tmp_path / f"to-{len(out)}")],
            ["remove", out, str(ids), "--by", "uid", "--name", "l"],
            ["audit", out],
            ["compact", out],
        ):
            assert exit_code(words) == 0, (words, capsys.readouterr().err)
    files, disk = ObjectStoreFiles(url), LocalFiles(local)
    assert sorted(every_file(files)) == sorted(every_file(disk))
    capsys.readouterr()
    text = "SELECT count(*), round(sum(clip_score), 3) FROM scores"
    assert query(text, url, capsys) == query(text, str(local), capsys)
    kept = "SELECT subset, count(*), min(uid) FROM kept GROUP BY 1 ORDER BY 1"
    assert query(kept, url, capsys) == query(kept, str(local), capsys)


def test_credentials_are_in_no_object_and_no_message(store, shards, caplog, capsys):
    caplog.set_level(logging.DEBUG, logger="clipsieve")
    run(shards, store.url())
    exit_code(["run", f"{shards}/*.parquet", "s3://no-such-bucket/out", "--device", "cpu"])
    exit_code(["run", f"{shards}/*.parquet", f"s3://me:{SECRET}@bucket/out"])
    exit_code(["run", f"https://me:{SECRET}@localhost/a.tar", "s3://bucket/out"])
    words = run_command(shards, store.url(), "--run-id", "r9")
    exit_code([*words, "--", f"--s3_secret_access_key={SECRET}", "--s3_access_key_id", "AKIA-1"])
    captured = capsys.readouterr()
    written = [captured.out, captured.err, caplog.text]
    assert not [text for text in written if SECRET in text or "AKIA" in text]
    for name in walk(store):
        content = store.read(name)
        assert SECRET.encode() not in content and b"AKIA" not in content, name


def test_a_killed_driver_is_waited_for_and_then_taken_over(server, shards, url, on_disk, capsys):
    files = ObjectStoreFiles(url)
    options = ["--run-id", "r1", "--scorers", "clip,density,ood.zero_shot", "--lease", "3s"]
    words = [*run_command(shards, url)[:3]]
    for name, value in SETTINGS.items():
        words += [f"--{name}", str(value)] if name != "scorers" else []
    words += options
    driver = start(words)
    wait_for(lambda: files.list_files(names.SAMPLES), "the first shard")
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    assert exit_code(words) == 75
    assert "if it is dead, its lock ends in" in capsys.readouterr().err
    end = time.monotonic() + 60
    while (code := exit_code(words)) == 75 and time.monotonic() < end:
        time.sleep(0.3)
    assert code == 0, capsys.readouterr().err
    assert every_file(files) == every_file(on_disk)


def test_two_drivers_at_once_are_one(server, shards, url, on_disk):
    words = run_command(shards, url, "--run-id", "r1", "--scorers", "clip,density,ood.zero_shot")
    drivers = [start(words), start(words)]
    codes = sorted(driver.wait(120) for driver in drivers)
    for driver in drivers:
        driver.communicate()
    assert codes in ([0, 75], [0, 0])  # both end well if one begins when the other has ended
    assert every_file(ObjectStoreFiles(url)) == every_file(on_disk)


def test_where_the_store_is_gone_the_command_says_so(shards, capsys, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    words = run_command(shards, Path("x"))
    words[2] = "s3://elsewhere/out"
    assert exit_code(words) in (1, 2)
    error = capsys.readouterr().err
    assert "Traceback" not in error
