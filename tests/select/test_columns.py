"""Which columns predicates see: names, types and families that differ between shards."""

import datetime

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.errors import UsageError
from clipsieve.job.compact import compact
from tests.select.folders import InProcess, column, filtered, kept_rows, random_folder
from tests.store.folders import make_folder, path_of, shard_of


def folder_of(root, *tables, rows=6):
    """A compacted folder with a shard for each table of source columns."""
    made = [shard_of(f"s{n}", rows, seed=n, carried=table) for n, table in enumerate(tables)]
    folder, _ = make_folder(root, made, wide=False)
    compact(str(root), InProcess())
    return folder


def test_more_than_ten_thresholds_are_told_apart(tmp_path):
    folder = random_folder(tmp_path / "out", 5, "float32")
    ranks = " OR ".join(f"x = quantile_of(x, 0.{n:02})" for n in range(80, 94))
    result = filtered(folder, "many", f"({ranks}) AND x >= quantile_of(x, 0.5, g)")
    values, groups = column(folder, "x"), column(folder, "g")
    present = np.array([v for v in values if v is not None], np.float32)
    lines = {np.quantile(present, n / 100, method="inverted_cdf") for n in range(80, 94)}
    expected = []
    for value, group in zip(values, groups, strict=True):
        own = [v for v, g in zip(values, groups, strict=True) if g == group and v is not None]
        high = np.quantile(np.array(own, np.float32), 0.5, method="inverted_cdf") if own else None
        expected.append(value is not None and np.float32(value) in lines and value >= high)
    assert kept_rows(folder, result) == expected


def test_a_source_column_named_like_a_score_is_read(tmp_path):
    source = pa.table({"clip_score": pa.array([0.0, 1, 2, 3, 4, 5], pa.float32())})
    folder = folder_of(tmp_path / "out", source)
    result = filtered(folder, "own", "source_clip_score >= 3")
    assert kept_rows(folder, result) == [False] * 3 + [True] * 3
    ranked = [
        filtered(folder, way, "rank_in(source_clip_score) <= 2", thresholds=way)
        for way in ("driver", "stage")
    ]
    assert ranked[0].thresholds == ranked[1].thresholds and ranked[0].kept == 2


def test_a_family_that_lacks_the_first_shard_is_incomplete(tmp_path):
    folder = folder_of(tmp_path / "out", *[pa.table({"n": range(6)})] * 3)
    (path,) = path_of(folder, "scores/clip").glob("rev=*/s0.parquet")
    path.unlink()
    with pytest.raises(UsageError, match=r"'clip' has no scores for 1 of 3 shards, such as s0"):
        filtered(folder, "x", "clip_score > 0")
    assert filtered(folder, "y", "rank_in(n) <= 4").kept == 6  # ties; no score is read


def test_times_are_in_utc_whatever_the_machine_says(tmp_path, monkeypatch):
    times = pa.array(
        [datetime.datetime(2020, 1, 1, hour) for hour in (1, 5, 9, 13, 17, 21)],
        pa.timestamp("us", "UTC"),
    )
    folder = folder_of(tmp_path / "out", pa.table({"ts": times}))
    for zone in ("UTC", "America/New_York"):
        monkeypatch.setenv("TZ", zone)
        result = filtered(folder, f"t-{zone[:3]}", "ts < '2020-01-01 10:00:00'", dry_run=True)
        assert result.kept == 3


def test_columns_that_differ_in_case_only_are_refused(tmp_path):
    folder = folder_of(tmp_path / "out", pa.table({"Foo": range(6)}), pa.table({"foo": range(6)}))
    with pytest.raises(UsageError, match="one column as 'Foo' and as 'foo'"):
        filtered(folder, "x", "n > 1 OR foo > 2")


def test_columns_of_types_that_duckdb_cannot_read_do_not_matter(tmp_path):
    halves = pa.array(np.arange(6, dtype=np.float16))
    folder = folder_of(tmp_path / "out", pa.table({"h": halves, "n": range(6)}))
    assert filtered(folder, "n", "n >= 4").kept == 2
    assert filtered(folder, "h", "h >= 4").kept == 2


def test_zeros_of_both_signs_are_one_group(tmp_path):
    table = pa.table({"g": [0.0, -0.0, 0.0, -0.0, 1.0, 1.0], "n": range(6)})
    folder = folder_of(tmp_path / "out", table)
    for way in ("driver", "stage"):
        result = filtered(folder, way, "rank_in(n, g) <= 1", thresholds=way)
        assert result.kept == 2 and len(result.thresholds) == 2


@pytest.mark.parametrize("fraction", [0.5, 0.0001])
def test_resolved_thresholds_of_groups_run_over_the_view(tmp_path, fraction):
    from clipsieve.sql.connect import connect

    groups = 3 if fraction == 0.5 else 40
    table = pa.table({"g": [f"g{n % groups}" for n in range(120)], "n": range(120)})
    folder = folder_of(tmp_path / "out", table, rows=120)
    result = filtered(folder, "by", f"top_fraction(n, {fraction}, g)")
    (clause,) = result.resolved
    answer = connect(folder.root).sql(f"SELECT count(*) FROM scores WHERE {clause}").fetchall()
    assert answer == [(result.kept,)] and 0 < result.kept < 120


def test_a_union_is_of_sets_alone(tmp_path):
    folder = random_folder(tmp_path / "out", 8, "int32")
    first = kept_rows(folder, filtered(folder, "a", "x > 10"))
    second = kept_rows(folder, filtered(folder, "b", "x < 0"))
    both = kept_rows(folder, filtered(folder, "both", union=("a", "b")))
    assert both == [one or other for one, other in zip(first, second, strict=True)]
    assert not all(both)


def test_a_damaged_subset_stops_nothing_else(tmp_path):
    from clipsieve.sql.connect import connect

    folder = random_folder(tmp_path / "out", 8, "int32")
    filtered(folder, "good", "x > 10")
    filtered(folder, "bad", "x > 11")
    path_of(folder, "subsets/bad/subset.json").write_text("{}")
    path_of(folder, "subsets/1x").mkdir()
    path_of(folder, "subsets/1x/subset.json").write_text("{}")
    views = connect(folder.root)
    assert views.sql("SELECT subset FROM subsets").fetchall() == [("good",)]
    assert filtered(folder, "other", "x > 12").kept
    assert filtered(folder, "bad", "x > 11", replace=True).kept
    (path, *_) = path_of(folder, "subsets/bad").glob("rev=*/kept/*.parquet")
    content = path.read_bytes()
    path.write_bytes(content[:60] + b"\0" * 40 + content[100:])
    filtered(folder, "bad", "x > 11", replace=True)
    assert path.read_bytes() == content
    for each in path_of(folder, "subsets/bad").glob("rev=*/*/*.parquet"):
        each.unlink()
    names = connect(folder.root).sql("SELECT DISTINCT subset FROM kept ORDER BY 1").fetchall()
    assert names == [("good",), ("other",)]


def test_what_cannot_be_computed_leaves_nothing(tmp_path):
    folder = folder_of(tmp_path / "out", pa.table({"t": ["1"] * 6}), pa.table({"t": ["x"] * 6}))
    with pytest.raises(UsageError, match=r"shard s1: .*Could not convert string 'x'"):
        filtered(folder, "h", "CAST(t AS INTEGER) >= 1")
    assert not list(path_of(folder, "subsets").iterdir())
