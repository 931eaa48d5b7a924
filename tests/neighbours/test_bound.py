"""Bounds lie above the true scores, whatever is rounded, and not far above."""

import numpy as np
import pytest
import torch

from clipsieve.neighbours.bound import EXTRA, Frame


def vectors(kind, rows, dim, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, dim))
    if kind == "lengths":
        values *= 10 ** rng.uniform(-3, 3, (rows, 1))
    if kind == "offset":
        values = 100 + 0.01 * values
    if kind == "spikes":
        values **= 9
    if kind == "signs":
        # Rounding errors of one sign in all components, as bad as Cauchy and Schwarz allow.
        values = np.full((rows, dim), 1 + 2.0**-8 - 2.0**-20) * rng.choice([-1, 1], (rows, 1))
    return torch.from_numpy(values.astype(np.float32))


def scores(frame, queries, rows):
    """(R, B) true scores in float64, scaled as bounds are, and how much a query is scaled."""
    centre = frame.centre.double()
    x, y = queries.double() - centre, rows.double() - centre
    score = y @ x.T - y.square().sum(1)[:, None] / 2
    return score * frame.scale**2 + frame.middle


@pytest.mark.parametrize("kind", ["plain", "lengths", "offset", "spikes", "signs"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [1, 31, 512])
def test_bounds_are_above_true_scores(kind, dtype, dim):
    rows, queries = vectors(kind, 400, dim, 0), vectors(kind, 60, dim, 1)
    frame = Frame.from_rows(rows, dtype, 100)
    factor = frame.query_factor(queries)
    # Multiplied in float64: what a product with float32 sums may lose is allowed for besides.
    bounds = frame.row_factor(rows).double() @ factor.factor.double().T
    true = scores(frame, queries, rows) * (factor.multiple / frame.scale)
    assert bounds.shape == (400, 60)
    assert (bounds > true).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bounds_are_tight_in_proportion_to_both_lengths(dtype):
    rows, queries = vectors("lengths", 400, 64, 2), vectors("lengths", 60, 64, 3)
    frame = Frame.from_rows(rows, dtype, 100)
    factor = frame.query_factor(queries)
    bounds = frame.row_factor(rows).double() @ factor.factor.double().T
    relative = factor.multiple / frame.scale
    slack = (bounds - scores(frame, queries, rows) * relative) / (frame.scale**2 * relative)
    x = (queries - frame.centre).norm(dim=1)
    y = (rows - frame.centre).norm(dim=1)
    share = {torch.float32: 1e-4, torch.bfloat16: 0.02}[dtype]
    # The rest is the precision of the column for the length of the row.
    assert (slack <= share * y[:, None] * x + 1e-4 * y[:, None] ** 2 + 1e-6 * y.max() ** 2).all()


@pytest.mark.parametrize("kind", ["plain", "lengths", "offset"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_near_reaches_the_threshold(kind, dtype):
    rows, queries = vectors(kind, 500, 48, 4), vectors(kind, 40, 48, 5)
    frame = Frame.from_rows(rows, dtype, 100)
    factor = frame.query_factor(queries)
    distances = torch.cdist(queries.double(), rows.double()).float()
    kth = distances.kthvalue(10, dim=1).values
    score = factor.min_score(kth.double())
    shift = factor.set_shift(factor.shift_below(score))
    bounds = torch.empty(500, 40, dtype=dtype)
    factor.bounds(frame.row_factor(rows), bounds)
    threshold = factor.threshold(score, shift, dtype)
    passed = (bounds >= threshold).T
    assert passed[distances <= kth[:, None]].all()
    assert passed.sum() < 0.5 * passed.numel()
    assert (threshold > 0).all()


@pytest.mark.parametrize("kind", ["plain", "lengths", "offset", "spikes"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_min_score_is_below_the_score_of_every_row_at_that_rounded_distance(kind, dtype):
    rows, queries = vectors(kind, 400, 3, 9), vectors(kind, 60, 3, 10)
    rows[:60] = queries * (1 + 1e-6)
    frame = Frame.from_rows(rows, dtype, 100)
    factor = frame.query_factor(queries)
    distances = torch.cdist(
        rows.double(), queries.double(), compute_mode="donot_use_mm_for_euclid_dist"
    )
    assert (distances.float() < distances).any()
    # Of the vectors as products see them: shifted, and rounded to float32 by that.
    x, y = (queries - frame.centre).double(), (rows - frame.centre).double()
    score = (y @ x.T - y.square().sum(1)[:, None] / 2) * frame.scale + frame.middle / frame.scale
    for row in range(400):
        least = factor.min_score(distances[row].float().double())
        assert (least <= score[row] * factor.multiple).all()


@pytest.mark.parametrize("kind", ["plain", "lengths", "offset"])
def test_products_may_cut_off_their_results(kind):
    rows, queries = vectors(kind, 500, 48, 11), vectors(kind, 40, 48, 12)
    frame = Frame.from_rows(rows, torch.bfloat16, 100)
    factor = frame.query_factor(queries)
    exact = (frame.row_factor(rows).double() @ factor.factor.double().T).T
    for distance in (0.5, 0.9, 1.0):
        # A threshold right at each bound in turn: what is there must pass, cut off or not.
        shift = factor.set_shift(exact[:, 0] * distance)
        bounds = (exact - shift[:, None]).float()
        cut = (bounds.view(torch.int32) >> 16 << 16).view(torch.float32).bfloat16()
        for row in range(0, 500, 7):
            threshold = factor.threshold(exact[:, row], shift, torch.bfloat16)
            assert (cut[:, row] >= threshold).all()


def test_nothing_known_lets_everything_pass():
    rows, queries = vectors("lengths", 50, 8, 6), vectors("lengths", 9, 8, 7) * 1e6
    frame = Frame.from_rows(rows, torch.bfloat16, 100)
    factor = frame.query_factor(queries)
    bounds = torch.empty(50, 9, dtype=torch.bfloat16)
    factor.bounds(frame.row_factor(rows), bounds)
    score = factor.min_score(torch.full((9,), torch.inf, dtype=torch.float64))
    assert (bounds >= factor.threshold(score, torch.zeros(9).double(), torch.bfloat16)).all()
    assert bounds.isfinite().all()


def test_factors_are_aligned_and_hold_the_columns_of_the_vector():
    rows = vectors("plain", 10, 13, 8)
    factor = Frame.from_rows(rows, torch.float32, 100).row_factor(rows)
    assert factor.shape == (10, 24) and EXTRA == 6
    assert (factor[:, 13 + EXTRA :] == 0).all()
