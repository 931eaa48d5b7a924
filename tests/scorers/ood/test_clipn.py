"""CTW and ATD against CLIPN's values, a plain reading of the formulas, and at the edges."""

import math

import numpy as np
import pytest

from clipsieve.errors import UsageError
from clipsieve.scorers.ood.clipn import ClipN, clipn_scores
from clipsieve.scorers.registry import make_scorer
from tests.scorers.ood import oracle

NAMES = [f"class {at}" for at in range(10)]


def write(folder, array, name="no.npy"):
    path = folder / name
    np.save(path, array)
    return str(path)


def scores(path, images, classes, missing=(), logit_scale=100.0, **options):
    scorer = ClipN(no_prototypes=path, classes=NAMES[: len(classes)], **options)
    batch = oracle.batch_of(images, {scorer.prompt_set: classes}, missing)
    context = oracle.context_of(images.shape[1], logit_scale=logit_scale)
    columns = scorer.score(batch, scorer.load({}, context))
    assert set(columns) == set(scorer.columns.names)
    return columns["ood_ctw"], columns["ood_atd"]


def naive(yes, no, scale):
    """Return 1 - CTW and 1 - ATD of one image, with the steps of the authors' code."""
    says_no = [1 / (1 + math.exp(scale * (y - n))) for y, n in zip(yes, no, strict=True)]
    powers = [math.exp(scale * y) for y in yes]
    atd = sum(q * p for q, p in zip(says_no, powers, strict=True)) / sum(powers)
    return says_no[max(range(len(yes)), key=lambda k: yes[k])], atd


def test_scores_are_those_of_clipn(tmp_path):
    data = oracle.load()
    # The file's rows need not have unit norm.
    no = data["no_classes"] * np.arange(1, 11)[:, None]
    ctw, atd = scores(write(tmp_path, no), data["images"], data["classes"])
    np.testing.assert_allclose(1 - ctw, data["ctw"], rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(1 - atd, data["atd"], rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_scores_are_those_of_a_plain_loop(count, scale):
    rng = np.random.default_rng(count)
    yes, no = rng.uniform(-1, 1, size=(2, 20, count))
    expected = [naive(y, n, scale) for y, n in zip(yes, no, strict=True)]
    ctw, atd = clipn_scores(yes, no, scale)
    np.testing.assert_allclose(np.stack([ctw, atd], axis=1), expected, rtol=1e-12)
    if count == 1:
        np.testing.assert_array_equal(ctw, atd)


def test_neither_end_is_rounded_away():
    yes, no = np.array([[0.9, 0.1], [0.1, 0.0]]), np.array([[-0.1, 0.0], [0.9, 0.9]])
    ctw, atd = clipn_scores(yes, no, 100.0)
    np.testing.assert_allclose(ctw[0], np.exp(-100.0), rtol=1e-12)
    assert 0 < ctw[0] < atd[0] < 1e-30  # 1 - (1 - x) would be 0
    assert ctw[1] == 1.0 and atd[1] <= 1.0


def test_the_first_of_equally_likely_classes_counts():
    yes, no = np.array([[0.3, 0.3]]), np.array([[0.1, 0.5]])
    ctw, atd = clipn_scores(yes, no, 10.0)
    np.testing.assert_allclose(ctw, 1 / (1 + np.exp(2.0)))
    np.testing.assert_allclose(atd, 0.5)


def test_the_order_of_classes_does_not_matter():
    yes, no = np.random.default_rng(0).uniform(-1, 1, size=(2, 30, 12))
    order = np.random.default_rng(1).permutation(12)
    one, two = clipn_scores(yes, no, 30.0), clipn_scores(yes[:, order], no[:, order], 30.0)
    np.testing.assert_allclose(one, two, rtol=1e-13)


def test_rows_without_image_have_no_score(tmp_path):
    path = write(tmp_path, oracle.random_rows(0, 2, 8).astype(np.float16))
    classes = oracle.random_rows(1, 2, 8)
    images = oracle.random_rows(2, 4, 8)
    for column in scores(path, images, classes, missing=[0, 2]):
        np.testing.assert_array_equal(np.isnan(column), [True, False, True, False])
    assert [len(column) for column in scores(path, images[:0], classes)] == [0, 0]


def test_the_scale_is_the_models_or_the_users(tmp_path):
    path = write(tmp_path, oracle.random_rows(0, 3, 8))
    images, classes = oracle.random_rows(1, 5, 8), oracle.random_rows(2, 3, 8)
    given = scores(path, images, classes, scale=20)
    np.testing.assert_array_equal(given, scores(path, images, classes, logit_scale=20.0))
    assert not np.array_equal(given, scores(path, images, classes))


def test_archives_with_the_array_are_read(tmp_path):
    no, data = oracle.random_rows(0, 3, 8), oracle.random_rows(1, 4, 8)
    images, classes = data, oracle.random_rows(2, 3, 8)
    expected = scores(write(tmp_path, no), images, classes)
    np.savez(tmp_path / "only.npz", anything=no)
    np.savez(tmp_path / "named.npz", other=data, no_prototypes=no)
    for name in ("only.npz", "named.npz"):
        np.testing.assert_array_equal(scores(str(tmp_path / name), images, classes), expected)


def test_the_content_of_the_file_is_recorded(tmp_path):
    one = write(tmp_path, np.eye(3), "one.npy")
    same = write(tmp_path, np.eye(3), "same.npy")
    other = write(tmp_path, np.eye(3)[::-1], "other.npy")
    records = [ClipN(no_prototypes=p, classes=NAMES[:3]).parameters() for p in (one, same, other)]
    assert records[0] == records[1] != records[2]
    assert len(records[0]["no_prototypes"]) == 64
    assert ClipN(no_prototypes=one, classes=NAMES[:3], scale=5).parameters() != records[0]


@pytest.mark.parametrize("value", [None, "", 3])
def test_the_file_must_be_given(value):
    with pytest.raises(UsageError, match=r"--option ood.clipn.no_prototypes=FILE"):
        make_scorer("ood.clipn", {"classes": NAMES, "no_prototypes": value})


def test_a_scale_must_be_above_zero(tmp_path):
    with pytest.raises(UsageError, match=r"option scale of scorer ood.clipn must be a number"):
        ClipN(no_prototypes="x.npy", scale=-1)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((4, 8)), r"no.npy have shape \(4, 8\), and there are 3 classes; give a row"),
        (np.ones(8), r"shape \(8,\), and there are 3 classes"),
        (np.ones((3, 8), int), r"finite floating-point numbers, its type is int64"),
        (np.full((3, 8), np.nan), r"must hold finite floating-point numbers"),
        (np.array([[1.0, 0], [0, 0], [1, 1]]), r"row 2 is zero; give each class a vector"),
        (np.ones((3, 0)), r"row 1 is zero"),
        (np.array([[None]]), r"is no .npy or .npz file"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path, array, message):
    scorer = ClipN(no_prototypes=write(tmp_path, array), classes=NAMES[:3])
    with pytest.raises(UsageError, match=message):
        scorer.parameters()


def test_vectors_of_another_model_are_refused(tmp_path):
    scorer = ClipN(no_prototypes=write(tmp_path, np.ones((3, 8))), classes=NAMES[:3])
    with pytest.raises(
        UsageError, match=r"\(3, 8\), .* have 16 components; give those of the same"
    ):
        scorer.load({}, oracle.context_of(16))


def test_files_of_another_kind_are_refused(tmp_path):
    (tmp_path / "text.npy").write_text("a photo")
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04" + bytes(40))
    np.savez(tmp_path / "many.npz", a=np.ones((3, 8)), b=np.ones((3, 8)))
    messages = {
        "missing.npy": r"missing.npy cannot be read \(No such file",
        "text.npy": r"text.npy is no .npy or .npz file",
        "torn.npz": r"torn.npz is no .npy or .npz file",
        "many.npz": r"holds the arrays \['a', 'b'\]; name one of them no_prototypes",
    }
    for name, message in messages.items():
        scorer = ClipN(no_prototypes=str(tmp_path / name), classes=NAMES[:3])
        with pytest.raises(UsageError, match=message):
            scorer.parameters()
