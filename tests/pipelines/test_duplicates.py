"""Duplicates of the demo data through the whole job: planted copies are found, and no others."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clipsieve
from clipsieve.demo.shards import write_shards
from tests.pipelines.jobs import read, run_job, tables
from tests.scorers.duplicates.naive import (
    Row,
    caption_key,
    check_columns,
    equal_groups,
    phash_groups,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demo shards in `source`; output folders before they are scored, after, and with all."""
    root = tmp_path_factory.mktemp("duplicates")
    write_shards(root / "source", 400, 4, seed=4)
    run_job(root / "source", root / "before", scorers="clip", run_id="fixed")
    shutil.copytree(root / "before", root / "scored")
    score(root / "scored", "duplicates")
    shutil.copytree(root / "scored", root / "out")
    score(root / "out", "duplicates.embedding")
    return root


def score(out: Path, scorers: str, workers: int = 1) -> None:
    settings = {"device": "cpu", "run_id": f"run-{scorers}", "workers": workers}
    assert clipsieve.score(out, scorers, **settings).exit_code == 0


def wide_rows(out: Path) -> list[Row]:
    rows: list[Row] = read(out, "wide").to_pylist()
    return rows


def test_columns_are_those_of_a_computation_in_memory(folder: Path) -> None:
    rows = wide_rows(folder / "out")
    assert len(rows) == 400
    check_columns(rows, "duplicate_bytes", equal_groups(rows, lambda row: row["image_sha256"]))
    check_columns(rows, "duplicate_caption", equal_groups(rows, caption_key))
    check_columns(rows, "duplicate", phash_groups(rows, 4))


def test_hashes_of_the_ledger_are_those_of_the_source(folder: Path) -> None:
    ledger = read(folder / "out", "samples").to_pylist()
    # As img2dataset does, the source has the sha256 of the bytes that it stored.
    for row in ledger:
        assert row["image_sha256"] == (row["sha256"] if row["image_sha256"] else None)
        assert (row["image_phash"] is None) == (row["image_width"] is None)


def test_planted_copies_are_found(folder: Path) -> None:
    rows = {row["uid"]: row for row in wide_rows(folder / "out")}
    files = sorted((folder / "source" / "_truth").glob("*.parquet"))
    truth = pa.concat_tables([pq.read_table(file) for file in files]).to_pylist()
    near = []
    for each in truth:
        copy, original = rows[each["uid"]], rows.get(each["duplicate_of"])
        if each["kind"] == "exact_duplicate":
            assert original is not None
            for prefix in ("duplicate_bytes", "duplicate", "duplicate_embedding"):
                assert copy[f"{prefix}_group"] == original[f"{prefix}_group"] is not None
        if each["kind"] == "near_duplicate":
            assert original is not None
            group = copy["duplicate_group"]
            near.append(group is not None and group == original["duplicate_group"])
    assert len(near) >= 5 and sum(near) >= 0.6 * len(near)


def test_two_workers_write_the_same_bytes(folder: Path) -> None:
    one, two = folder / "scored", folder / "before"
    score(two, "duplicates", workers=2)
    assert tables(one) == tables(two)
    fits = sorted(file.relative_to(one) for file in (one / "fits").rglob("*.npz"))
    assert len(fits) == 3
    for fit in fits:
        assert (one / fit).read_bytes() == (two / fit).read_bytes()


def test_views_show_the_columns(folder: Path) -> None:
    with clipsieve.connect(folder / "out") as connection:
        query = """
            SELECT count(*) FILTER (duplicate_first), count(DISTINCT duplicate_group),
                count(*) FILTER (duplicate_group IS NULL AND duplicate_first)
            FROM scores
        """
        first, groups, alone = connection.sql(query).fetchall()[0]
        assert first == groups + alone > 300
        query = "SELECT count(*) FROM score_columns WHERE family = 'duplicates'"
        assert connection.sql(query).fetchall() == [(12,)]
