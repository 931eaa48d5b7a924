"""Figures of score columns, against NumPy."""

import numpy as np
import pytest

from clipsieve.schemas.run_metrics import QUANTILES, SCORE_METRICS
from clipsieve.sql.score_figures import score_figures
from clipsieve.store.folder import OutputFolder
from tests.pipelines.jobs import read
from tests.sql.folders import make_scored_folder


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures") / "out"
    make_scored_folder(folder)
    return folder


def expected(values):
    """The figures of a column whose NULLs are NaN, by definition."""
    scored = np.sort(values[~np.isnan(values)].astype(np.float64))
    figures = {
        "scored": len(scored),
        "null_share": 1 - len(scored) / len(values),
        "mean": scored.mean(),
        "stddev": scored.std(ddof=1),
        "min": scored[0],
        "max": scored[-1],
    }
    for name, share in QUANTILES.items():
        figures[name] = scored[max(int(np.ceil(share * len(scored))) - 1, 0)]
    return figures


@pytest.mark.parametrize("shards", [{"a", "b", "c"}, {"b"}, {"a", "c"}])
def test_figures_are_those_of_the_rows_of_the_shards(out, shards):
    figures = score_figures(OutputFolder.open(out), shards)
    table = read(out, "wide")
    of_shards = np.isin(table["shard"].to_numpy(zero_copy_only=False), sorted(shards))
    assert {"clip_score", "density_kdist"} <= set(figures)
    for column, values in figures.items():
        assert tuple(values) == SCORE_METRICS
        numbers = table[column].to_numpy(zero_copy_only=False)[of_shards].astype(np.float64)
        assert values == pytest.approx(expected(numbers), rel=1e-12, abs=1e-15), column


def test_no_shard_gives_no_figures_but_every_name(out):
    figures = score_figures(OutputFolder.open(out), set())
    assert set(figures) == set(score_figures(OutputFolder.open(out), {"a"}))
    assert all(
        values == {**dict.fromkeys(SCORE_METRICS), "scored": 0} for values in figures.values()
    )


def test_quantiles_of_many_rows_are_those_of_a_sample_and_the_rest_is_exact(out):
    folder = OutputFolder.open(out)
    exact, sampled = (score_figures(folder, {"a", "b", "c"}, most) for most in (125, 40))
    for column in exact:
        for metric in SCORE_METRICS:
            if metric not in QUANTILES:
                assert sampled[column][metric] == exact[column][metric]
    low, high, middle = (exact["clip_score"][name] or 0.0 for name in ("q05", "q95", "q50"))
    difference = (sampled["clip_score"]["q50"] or 0.0) - middle
    assert sampled != exact and abs(difference) < (high - low) / 2
    assert sampled == score_figures(folder, {"c", "b", "a"}, 40)
