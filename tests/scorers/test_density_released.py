"""Released density scores against the authors' code, a plain reading of it, and at the edges."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from clipsieve.errors import UsageError
from clipsieve.scorers import density_released
from clipsieve.scorers.base import Embedded, PairBatch
from clipsieve.scorers.density_released import ReleasedDensity, nearest, released_scores
from clipsieve.store.pairs import split_batch
from tests.scorers import naive_density as naive

#: Values of HanxunH/Detect-CLIP-Backdoor-Samples@ff2399a (MIT) with a stub encoder (`_release`),
#: of its published definitions in float64 (`_textbook`) and of scikit-learn, for 512 made vectors.
ORACLE = Path(__file__).parents[1] / "data" / "density.npz"

NAMES = {"kdist": "k_distance", "slof": "slof", "dao": "dao", "lid": "lid_mle"}


@pytest.fixture(scope="module")
def pairs():
    """24 images and captions; some images alike, captions a little apart as CLIP's are."""
    rng = np.random.default_rng(4)
    images, texts = rng.normal(size=(2, 24, 3)).astype(np.float32)
    images[5], images[9:13] = images[2], images[8]
    return images, texts + np.float32(0.3)


@pytest.fixture(scope="module")
def oracle():
    with np.load(ORACLE) as arrays:
        yield dict(arrays)


def reading(images, texts, k):
    """The released order of operations: remove own columns, sort, look up among all rows.

    The released sort is not a stable one; with ties its order is open.
    """
    images = torch.from_numpy(images)
    reference = images if texts is None else torch.cat([images, torch.from_numpy(texts)])
    exact = "donot_use_mm_for_euclid_dist"
    rows = []
    for i in range(len(images)):
        near = torch.cdist(images[i : i + 1], reference, compute_mode=exact)[0]
        mine = {i} if texts is None else {i, i + len(images)}
        rows.append(near[[c for c in range(len(reference)) if c not in mine]])
    ascending, numbers = torch.sort(torch.stack(rows), dim=1, stable=True)
    full = torch.sort(torch.cdist(reference, reference, compute_mode=exact), dim=1)[0]

    def lid(rows):
        return -k / (rows[:, :k] / rows[:, k : k + 1] + 1e-4).log().sum(dim=1)

    looked_up = numbers[:, :k]
    ratio = ascending[:, k : k + 1] / full[:, k][looked_up]
    logs = lid(full)[looked_up] * ratio.log()
    mean = ascending[:, :k].mean(dim=1)
    found = {
        "k_distance": ascending[:, k],
        "slof": torch.nan_to_num(ratio.mean(dim=1), nan=1000, posinf=1000, neginf=0),
        "dao": torch.nan_to_num(logs.mean(dim=1), nan=1000, posinf=1000, neginf=0),
        "lid_mle": lid(ascending),
        "lid_mom": mean / (ascending[:, k] - mean),
    }
    return {name: value.numpy() for name, value in found.items()}


@pytest.mark.parametrize("k", [8, 16])
@pytest.mark.parametrize("reference", ["image", "pair"])
def test_scores_are_those_of_the_authors(oracle, reference, k):
    texts = oracle["text"] if reference == "pair" else None
    scores = released_scores(oracle["image"], texts, k, lid_k=k)
    for theirs, ours in NAMES.items():
        expected = oracle[f"{theirs}_k{k}_{reference}_release"]
        np.testing.assert_allclose(scores[ours], expected, rtol=1e-4, err_msg=ours)
        assert scores[ours].dtype == np.float32


@pytest.mark.parametrize("rows", [7, 100])
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("copies", [1, 3, 9])
def test_scores_are_those_of_a_plain_reading_of_the_code(rows, paired, copies):
    rng = np.random.default_rng(rows + copies)
    images, texts = rng.normal(size=(2, rows, 8)).astype(np.float32)
    images[rows // 2 :] = images[rng.integers(max(1, rows // copies), size=rows - rows // 2)]
    texts = texts if paired else None
    scores, expected = released_scores(images, texts, 4, lid_k=4), reading(images, texts, 4)
    for name, value in expected.items():
        finite = np.where(np.isfinite(value), value, np.nan)
        np.testing.assert_allclose(scores[name], finite, rtol=1e-6, atol=1e-6, err_msg=name)


def test_lid_has_neighbours_of_its_own():
    images = np.random.default_rng(0).normal(size=(90, 8)).astype(np.float32)
    scores, deeper = released_scores(images), released_scores(images, k=64)
    assert np.array_equal(scores["lid_mle"], deeper["lid_mle"])
    assert not np.array_equal(scores["k_distance"], deeper["k_distance"])


def test_identical_images_score_a_thousand():
    scores = released_scores(np.ones((6, 3), np.float32), k=2, lid_k=2)
    assert scores["slof"].tolist() == [1000] * 6
    assert scores["dao"].tolist() == [1000] * 6
    assert scores["k_distance"].tolist() == [0] * 6
    assert np.isnan(scores["lid_mle"]).all()


@pytest.mark.parametrize("paired", [False, True])
def test_a_score_needs_more_than_k_others(paired):
    vectors = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    others = 8 if paired else 4
    batch = (vectors[0], vectors[1] if paired else None)
    enough = released_scores(*batch, k=others - 1, lid_k=others)
    assert np.isfinite([enough[name] for name in ("k_distance", "slof", "dao")]).all()
    assert np.isnan([enough["lid_mle"], enough["lid_mom"]]).all()
    lacking = released_scores(*batch, k=others, lid_k=others - 1)
    assert np.isnan([lacking[name] for name in ("k_distance", "slof", "dao")]).all()
    assert np.isfinite([lacking["lid_mle"], lacking["lid_mom"]]).all()


@pytest.mark.parametrize("rows", [0, 1, 2])
@pytest.mark.parametrize("paired", [False, True])
def test_tiny_batches_are_undefined(rows, paired):
    vectors = np.ones((rows, 3), np.float32)
    for value in released_scores(vectors, vectors if paired else None).values():
        assert value.shape == (rows,)
        assert np.isnan(value).all()


def test_a_row_that_is_not_finite_is_refused():
    images = np.ones((4, 2), np.float32)
    texts = images.copy()
    texts[2, 1] = np.inf
    with pytest.raises(UsageError, match="texts row 2 is not finite"):
        released_scores(images, texts)


def test_wrong_shapes_and_numbers_are_refused():
    images = np.ones((4, 2), np.float32)
    with pytest.raises(UsageError, match=r"\(4, 2\) and texts of shape \(3, 2\) are not pairs"):
        released_scores(images, images[:3])
    with pytest.raises(UsageError, match=r"shape \(B, D\), got \(2,\)"):
        released_scores(images[0])
    with pytest.raises(UsageError, match="at least 1, got 0 and 64"):
        released_scores(images, k=0)
    with pytest.raises(UsageError, match="at least 1, got 16 and -1"):
        released_scores(images, lid_k=-1)
    with pytest.raises(UsageError, match=r"valid of shape \(1,\) does not go with"):
        released_scores(images, valid=np.ones(1, bool))


@pytest.mark.parametrize("paired", [False, True])
def test_missing_rows_are_undefined_and_in_no_reference(pairs, paired):
    images, texts = pairs[0].copy(), pairs[1].copy()
    valid = np.arange(24) % 5 != 0
    images[0], images[10], texts[~valid] = np.nan, 0, np.inf
    scores = released_scores(images, texts if paired else None, 4, 7, valid=valid)
    kept = released_scores(images[valid], texts[valid] if paired else None, 4, 7)
    assert scores.keys() == {"k_distance", "slof", "dao", "lid_mle", "lid_mom"}
    for name, value in kept.items():
        assert np.isnan(scores[name][~valid]).all()
        assert np.array_equal(scores[name][valid], value)
        assert scores[name].dtype == np.float32


@pytest.mark.parametrize("block", [1, 100, 1 << 22])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_nearest_rows_are_those_of_naive_loops(monkeypatch, block, k):
    monkeypatch.setattr(density_released, "_BLOCK", block)
    rng = np.random.default_rng(0)
    # Whole numbers: many ties, and distances that both ways round alike.
    queries = rng.integers(3, size=(20, 3)).astype(float)
    reference = rng.integers(3, size=(30, 3)).astype(float)
    own = rng.integers(-1, 30, size=(20, 2))
    distances, indices = nearest(queries, reference, own, k)
    expected = naive.lists(queries, reference, own, k)
    assert np.array_equal(distances, expected[0])
    assert np.array_equal(indices, expected[1])


def test_equal_rows_far_from_the_origin_are_at_distance_zero():
    rows = np.full((3, 100), 1e4, np.float32) + np.float32(0.1)
    distances, indices = nearest(rows, rows, np.arange(3)[:, None], 2)
    assert distances.dtype == np.float32
    assert distances.tolist() == [[0, 0]] * 3
    assert indices.tolist() == [[1, 2], [0, 2], [0, 1]]


def test_an_empty_reference_gives_no_neighbours():
    distances, indices = nearest(np.ones((2, 3)), np.ones((0, 3)), np.zeros((2, 0), int), 2)
    assert np.isposinf(distances).all()
    assert (indices == -1).all()


@pytest.mark.parametrize("paired", [False, True])
def test_the_scorer_gives_the_scores_of_consecutive_batches(paired):
    rng = np.random.default_rng(3)
    images, texts = rng.normal(size=(2, 300, 8)).astype(np.float32)
    present, captioned = rng.random((2, 300)) > 0.1
    images[~present], texts[~captioned] = 0, 0
    scorer = ReleasedDensity(batch=128, k=4, lid_k=7, texts=paired)
    uids = pa.array([str(row) for row in range(300)])
    whole = PairBatch(uids, Embedded(images, present), {"": Embedded(texts, captioned)})
    columns = scorer.score(whole, {})
    assert list(columns) == scorer.columns.names
    valid = present & captioned if paired else present
    for first in (0, 128, 256):
        rows = slice(first, first + 128)
        batch = images[rows], texts[rows] if paired else None
        expected = released_scores(*batch, 4, 7, valid=valid[rows])
        for column, name in (("kdist", "k_distance"), ("dao", "dao"), ("lid_mom", "lid_mom")):
            values = columns[f"density_released_{column}"][rows]
            assert np.array_equal(values, expected[name], equal_nan=True)
    # In the batches that the engine cuts a long shard into, the rows of a batch stay together.
    parts = [scorer.score(part, {})["density_released_dao"] for part in split_batch(whole, 256)]
    assert np.array_equal(np.concatenate(parts), columns["density_released_dao"], equal_nan=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 1000}, "batch .* power of two up to 16384, got 1000"),
        ({"batch": 32768}, "batch .* power of two up to 16384"),
        ({"k": 0}, "k .* at least 1, got 0"),
        ({"lid_k": True}, "lid_k .* got True"),
        ({"texts": 1}, "texts .* true or false, got 1"),
    ],
)
def test_options_of_the_scorer_out_of_range_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        ReleasedDensity(**options)
