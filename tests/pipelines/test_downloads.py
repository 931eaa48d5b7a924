"""img2dataset's webdataset output, from a server to the ledger: failed rows have their reasons."""

import tarfile
from collections import Counter

import duckdb
import pyarrow.parquet as pq
import pytest

from clipsieve.formats.registry import count_rows, plan_input
from clipsieve.schemas.states import RowState
from tests.formats.files import all_rows
from tests.pipelines.downloads import FAILURES, ROWS, TARS, download, kind_of
from tests.pipelines.jobs import SETTINGS, exit_code


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    return download(tmp_path_factory.mktemp("downloads"))


def run_words(tars, out):
    common = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
    return ["run", str(tars), str(out), *common]


def query(columns, out):
    """Return columns of the ledger in the order of the list of urls."""
    table = f"read_parquet('{out}/samples/*.parquet')"
    with duckdb.connect() as connection:
        return connection.execute(f"SELECT {columns} FROM {table} ORDER BY source_row").fetchall()


def sidecar(tars, number):
    return pq.read_table(tars / f"{number:05d}.parquet")


def pictures(tars):
    """Return the pictures as img2dataset stored them, by key."""
    found = {}
    for path in tars.glob("*.tar"):
        with tarfile.open(path) as archive:
            for name in archive.getnames():
                file = archive.extractfile(name)
                if file is not None and name.endswith(".jpg"):
                    found[name.removesuffix(".jpg")] = file.read()
    return found


def test_every_row_of_a_sidecar_is_read_in_its_place(tars):
    plan = plan_input(str(tars))
    assert f"{TARS} Parquet files beside the tars taken as sidecars" in plan.description
    assert [count_rows(item) for item in plan.items] == [ROWS] * TARS
    rows = all_rows(plan)
    listed = [row for number in range(TARS) for row in sidecar(tars, number).to_pylist()]
    assert [row["source_row"] for row in rows] == [row["row"] for row in listed]
    stored = pictures(tars)
    assert len(stored) == sum(kind_of(number) == "picture" for number in range(ROWS * TARS))
    for row, expected in zip(rows, listed, strict=True):
        number, failure = expected["row"], row["failure"]
        kind = kind_of(number)
        assert row["image"] == stored.get(expected["key"])
        assert (row["caption"], row["uid"]) == (f"caption {number}", f"{number:032x}")
        names = ("url", "key", "error_message", "width", "height", "exif", "sha256")
        assert [row[name] for name in names] == [expected[name] for name in names]
        assert (row["source_status"], row["extra"]) == (expected["status"], None)
        if kind == "picture":
            assert failure is None
        else:
            assert (failure.state, failure.error) == (RowState.FETCH_FAILED, FAILURES[kind])


def test_failed_downloads_are_in_the_ledger_with_their_reasons(tars, tmp_path):
    out = tmp_path / "out"
    assert exit_code(run_words(tars, out)) == 0
    assert exit_code(["reconcile", str(out)]) == 0
    rows = query("status, error", out)
    expected = [
        ("ok", None) if kind == "picture" else ("fetch_failed", FAILURES[kind])
        for kind in map(kind_of, range(ROWS * TARS))
    ]
    assert rows == expected
    assert Counter(status for status, _ in rows)["fetch_failed"] > ROWS


def test_a_shard_is_done_again_when_its_sidecar_has_changed(tars, tmp_path, capfd):
    folder, out = tmp_path / "tars", tmp_path / "out"
    folder.mkdir()
    for path in tars.glob("0000[01]*"):
        (folder / path.name).write_bytes(path.read_bytes())
    assert exit_code(run_words(folder, out)) == 0
    rows = sidecar(tars, 1)
    successes = rows.filter([status == "success" for status in rows["status"].to_pylist()])
    pq.write_table(successes, folder / "00001.parquet")
    capfd.readouterr()
    assert exit_code(run_words(folder, out)) == 0
    assert "1 shards to do, 1 done before" in capfd.readouterr().err
    assert exit_code(["reconcile", str(out)]) == 0
    assert len(query("status", out)) == ROWS + successes.num_rows
