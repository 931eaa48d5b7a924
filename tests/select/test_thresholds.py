"""Thresholds of a whole folder against np.sort, by DuckDB here and by the stage."""

import numpy as np
import pytest

from clipsieve.errors import UsageError
from tests.select.folders import column, filtered, kept_rows, random_folder

KINDS = ["float32", "float64", "int32", "int64", "uint64", "int8", "constant"]


def expected_mask(values, groups, fraction):
    """DataComp's rule, per group: value >= -np.sort(-x)[int(n f)]; False for NULL."""
    mask = [False] * len(values)
    for group in set(groups):
        rows = [at for at, v in enumerate(values) if v is not None and groups[at] == group]
        if rows:
            own = np.array([values[at] for at in rows])
            ordered = np.sort(own)[::-1]
            threshold = ordered[min(int(len(own) * fraction), len(own) - 1)]
            for at in rows:
                mask[at] = bool(values[at] >= threshold)
    return mask


@pytest.mark.parametrize("case", range(50))
def test_thresholds_equal_a_sort(tmp_path, case):
    rng = np.random.default_rng(1000 + case)
    folder = random_folder(tmp_path / "out", case, KINDS[case % len(KINDS)])
    fraction = float(rng.choice([0.01, 0.29, 0.3, 0.5, 1.0]))
    grouped = case % 3 == 0
    values = column(folder, "x")
    groups = column(folder, "g") if grouped else [None] * len(values)
    where = f"top_fraction(x, {fraction}{', g' if grouped else ''})"
    scanned = filtered(folder, "by-driver", where, thresholds="driver", dry_run=True)
    staged = filtered(folder, "by-stage", where, seed=case, thresholds="stage", dry_run=case % 5)
    assert scanned.thresholds == staged.thresholds
    expected = expected_mask(values, groups, fraction)
    assert scanned.kept == staged.kept == sum(expected)
    if not case % 5:
        assert kept_rows(folder, staged) == expected
    present = [v for v in values if v is not None]
    if not grouped:
        (row,) = scanned.thresholds
        ordered = np.sort(np.array(present))[::-1]
        assert float(row["threshold"]) == pytest.approx(float(ordered[row["rank"] - 1]), rel=1e-7)
        assert row["rows"] == len(present)


@pytest.mark.parametrize("way", ["driver", "stage"])
def test_quantiles_and_ranks_are_exact(tmp_path, way):
    folder = random_folder(tmp_path / "out", 7, "float32")
    values = column(folder, "x")
    present = np.array([v for v in values if v is not None], np.float32)
    result = filtered(folder, "q", "x < quantile_of(x, 0.75) AND rank_in(x) > 3", thresholds=way)
    line = np.quantile(present, 0.75, method="inverted_cdf")
    greater = [-1 if v is None else int((present > np.float32(v)).sum()) for v in values]
    expected = [
        v is not None and np.float32(v) < line and greater[at] >= 3 for at, v in enumerate(values)
    ]
    assert kept_rows(folder, result) == expected
    assert 0 < sum(expected) < len(expected)


def test_of_a_subset_only_its_rows_are_ranked(tmp_path):
    folder = random_folder(tmp_path / "out", 3, "float64")
    first = filtered(folder, "first", "x > 0")
    second = filtered(folder, "second", "top_fraction(x, 0.2)", base="first")
    values = [
        v if kept else None
        for v, kept in zip(column(folder, "x"), kept_rows(folder, first), strict=True)
    ]
    assert kept_rows(folder, second) == expected_mask(values, [None] * len(values), 0.2)


def test_a_column_without_a_value_is_refused(tmp_path):
    folder = random_folder(tmp_path / "out", 3, "float64")
    for way in ("driver", "stage"):
        with pytest.raises(UsageError, match=r"top_fraction\(.*is NULL in every row"):
            filtered(folder, "k", "top_fraction(nullif(x, x), 0.2)", thresholds=way)
    assert not (tmp_path / "out" / "subsets").exists()
