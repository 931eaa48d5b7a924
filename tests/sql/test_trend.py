"""How runs compare: against figures computed from the rows themselves."""

import numpy as np
import pytest

from clipsieve.errors import UsageError
from clipsieve.sql.trend import read_trend
from tests.pipelines.jobs import read, run_job, write_one


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trend")
    source, out = folder / "source", folder / "out"
    for seed, rows in enumerate([60, 40]):
        write_one(source, f"s{seed}", rows, seed)
        run_job(source, out)
    run_job(source, out)  # nothing new
    return out


def scores(out, shard, column):
    table = read(out, "wide")
    of_shard = table["shard"].to_numpy(zero_copy_only=False) == shard
    values = table[column].to_numpy(zero_copy_only=False)[of_shard].astype(np.float64)
    return np.sort(values[~np.isnan(values)])


def quantile(values, share):
    return values[int(np.ceil(share * len(values))) - 1]


def test_runs_are_newest_first_and_a_run_without_new_rows_is_compared_with_nothing(out):
    runs = read_trend(str(out)).runs
    columns = dict(zip(runs.columns, zip(*runs.rows, strict=True), strict=True))
    assert columns["rows"] == (0, 40, 60)
    means = [scores(out, shard, "clip_score").mean() for shard in ("s1", "s0")]
    assert columns["clip_score"][0] is None and columns["change"] == (
        None,
        pytest.approx(means[0] - means[1], abs=1e-4),
        None,
    )
    assert columns["clip_score"][1:] == pytest.approx(means, abs=1e-4)
    assert columns["ok %"][0] is None and 80 < columns["ok %"][1] <= 100


def test_columns_that_moved_most_are_first_by_the_distance_of_quartiles(out):
    columns = read_trend(str(out)).columns
    shifts = [row[3] for row in columns.rows]
    assert [abs(s) for s in shifts] == sorted((abs(s) for s in shifts), reverse=True)
    assert len(shifts) > 4
    for name, before, now, shift in columns.rows:
        old, new = scores(out, "s0", name), scores(out, "s1", name)
        assert (before, now) == (quantile(old, 0.5), quantile(new, 0.5))
        spread = quantile(old, 0.75) - quantile(old, 0.25)
        assert shift == pytest.approx((now - before) / spread)


def test_after_one_run_nothing_has_moved_and_before_there_is_an_error(tmp_path):
    write_one(tmp_path / "source", "a", 20, seed=1)
    run_job(tmp_path / "source", tmp_path / "out")
    trend = read_trend(str(tmp_path / "out"))
    assert len(trend.runs.rows) == 1 and not trend.columns.rows
    for path in (tmp_path / "out" / "_runs").glob("*.metrics.parquet"):
        path.unlink()
    with pytest.raises(UsageError, match=r"has no metrics of runs; the next `clipsieve run`"):
        read_trend(str(tmp_path / "out"))
