"""CLIPScore against the authors' code, by hand, against naive loops, and at its edges."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.scorers.base import Embedded, PairBatch, References
from clipsieve.scorers.clipscore import (
    PAPER_PROMPT,
    ClipScore,
    RefClipScore,
    clip_score,
    clip_score_scorer,
    cosine,
    depicts_scorer,
    ref_clip_score,
    reference_similarity,
)

#: Computed with jmhessel/clipscore@1036465 (MIT) and a stub encoder.
ORACLE = Path(__file__).parents[1] / "data" / "clipscore.npz"


def whole(vectors):
    vectors = np.asarray(vectors, np.float32)
    return Embedded(vectors, np.ones(len(vectors), bool))


def owned(lists, dim):
    """References from one list of vectors a row."""
    flat = [vector for vectors in lists for vector in vectors]
    offsets = np.cumsum([0, *(len(vectors) for vectors in lists)]).astype(np.int64)
    return References(whole(np.reshape(flat, (len(flat), dim))), offsets)


@pytest.fixture(scope="module")
def oracle():
    with np.load(ORACLE) as arrays:
        yield dict(arrays)


@pytest.fixture(scope="module")
def batch(oracle):
    refs = oracle["refs"]
    text = whole(oracle["text"])
    return PairBatch(
        pa.array(range(len(refs))),
        whole(oracle["image"]),
        {"": text, PAPER_PROMPT: text},
        {PAPER_PROMPT: owned(list(refs), refs.shape[2])},
    )


def test_clip_score_is_that_of_the_authors(oracle, batch):
    score = clip_score_scorer().score(batch, {})["clip_score"]
    assert np.abs(score - oracle["expected"]).max() <= 1e-6


def test_ref_clip_score_is_that_of_the_authors(oracle, batch):
    score = RefClipScore().score(batch, {})["ref_clip_score"]
    assert np.abs(score - oracle["refclipscore_expected"]).max() <= 1e-6


def test_cosine_by_hand():
    image = whole([[3, 4], [1, 0], [1, 0], [2, 2]])
    text = whole([[4, 3], [0, 5], [-2, 0], [1, 1]])
    assert cosine(image, text).tolist() == pytest.approx([24 / 25, 0, -1, 1])


def test_clip_score_by_hand():
    similarity = np.array([0.4, 0.0, -0.4, 1.0, np.nan])
    assert clip_score(similarity).tolist() == pytest.approx([1.0, 0, 0, 2.5, np.nan], nan_ok=True)
    assert clip_score(similarity, 1.0)[0] == pytest.approx(0.4)


def test_ref_clip_score_by_hand():
    # 2 * 1 * 0.5 / 1.5
    assert ref_clip_score(np.array([1.0]), np.array([0.5])).tolist() == pytest.approx([2 / 3])


@pytest.mark.parametrize("score", [0.0, 0.4])
def test_negative_reference_similarity_gives_zero(score):
    # The authors' code gives a negative value here, and divides by zero at score = -R.
    assert ref_clip_score(np.array([score]), np.array([-0.4])).tolist() == [0.0]


def test_ref_clip_score_is_undefined_where_either_is():
    score = ref_clip_score(np.array([np.nan, 0.5, np.nan]), np.array([0.5, np.nan, np.nan]))
    assert np.isnan(score).all()


def test_columns_equal_a_naive_loop():
    rng = np.random.default_rng(1)
    lists = [rng.normal(size=(rng.integers(0, 4), 5)) for _ in range(40)]
    image, text = rng.normal(size=(2, 40, 5))
    refs = owned(lists, 5)
    values = RefClipScore().score(
        PairBatch(
            pa.array(range(40)), whole(image), {PAPER_PROMPT: whole(text)}, {PAPER_PROMPT: refs}
        ),
        {},
    )

    def naive(a, b):
        return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))

    for row, own in enumerate(lists):
        best, ref_clip = values["clip_reference_similarity"][row], values["ref_clip_score"][row]
        if len(own) == 0:
            assert np.isnan(best) and np.isnan(ref_clip)
            continue
        score = 2.5 * max(naive(image[row], text[row]), 0)
        highest = max(naive(text[row], ref) for ref in own)
        positive = max(highest, 0)
        mean = 2 * score * positive / (score + positive) if score + positive else 0
        assert best == pytest.approx(highest, abs=1e-6)
        assert ref_clip == pytest.approx(mean, abs=1e-6)


def test_values_do_not_depend_on_the_length_of_vectors(oracle):
    image, text = oracle["image"], oracle["text"]
    lengths = np.logspace(-18, 18, len(image), dtype=np.float32)[:, None]
    scaled = cosine(whole(image * lengths), whole(text / lengths))
    assert np.allclose(scaled, cosine(whole(image), whole(text)), atol=1e-6)


def test_values_do_not_depend_on_order_or_split(oracle):
    image, text, refs = oracle["image"], oracle["text"], oracle["refs"]

    def score(rows):
        batch = PairBatch(
            pa.array(rows),
            whole(image[rows]),
            {PAPER_PROMPT: whole(text[rows])},
            {PAPER_PROMPT: owned(list(refs[rows]), refs.shape[2])},
        )
        return RefClipScore().score(batch, {})["ref_clip_score"]

    rows = np.arange(len(image))
    together = score(rows)
    shuffled = np.random.default_rng(0).permutation(rows)
    assert np.array_equal(score(shuffled), together[shuffled])
    parts = [score(part) for part in np.array_split(rows, [1, 7, 7, 50])]
    assert np.array_equal(np.concatenate(parts), together)


def test_order_of_references_does_not_matter(oracle):
    text, refs = whole(oracle["text"]), oracle["refs"]
    there, back = (owned(list(r), refs.shape[2]) for r in (refs, refs[:, ::-1]))
    assert np.array_equal(reference_similarity(text, there), reference_similarity(text, back))


def test_missing_and_zero_vectors_give_nan():
    vectors = np.array([[1, 0], [1, 0], [0, 0], [1, 0]], np.float32)
    image = Embedded(vectors, np.array([True, False, True, True]))
    text = Embedded(np.ones((4, 2), np.float32), np.array([True, True, True, False]))
    assert np.isnan(cosine(image, text)).tolist() == [False, True, True, True]


def test_rounding_never_leaves_the_range_of_a_cosine():
    vectors = np.random.default_rng(3).normal(size=(1000, 7))
    value = cosine(whole(vectors), whole(vectors * np.float32(0.1)))
    assert value.max() <= 1.0


def test_missing_references_of_a_row_do_not_count():
    text = whole([[1, 0], [1, 0], [1, 0]])
    flat = Embedded(
        np.array([[-1, 0], [0, 0], [0, 0], [1, 0]], np.float32),
        np.array([True, False, False, True]),
    )
    references = References(flat, np.array([0, 2, 3, 4]))
    value = reference_similarity(text, references)
    assert value.tolist() == pytest.approx([-1, np.nan, 1], nan_ok=True)


def test_a_missing_caption_has_no_reference_similarity():
    text = Embedded(np.zeros((1, 2), np.float32), np.array([False]))
    assert np.isnan(reference_similarity(text, owned([[[1, 0]]], 2))).all()


def test_no_rows_give_no_values():
    empty = whole(np.empty((0, 4)))
    references = owned([], 4)
    batch = PairBatch(
        pa.array([], pa.string()), empty, {PAPER_PROMPT: empty}, {PAPER_PROMPT: references}
    )
    assert [len(v) for v in RefClipScore().score(batch, {}).values()] == [0, 0]


def test_references_are_encoded_once_and_blank_ones_are_missing():
    asked = []

    def encode(texts):
        asked.extend(texts)
        return np.array([[len(text), 1.0] for text in texts], np.float32).reshape(-1, 2)

    references = References.encode(encode, [["a cat", None], [], ["", "a cat", " \n", "cats"]])
    assert sorted(asked) == ["a cat", "cats"]
    assert references.offsets.tolist() == [0, 2, 2, 6]
    assert references.embedded.valid.tolist() == [True, False, False, True, False, True]
    assert references.embedded.vectors[[0, 3, 5], 0].tolist() == [5, 5, 4]


def test_only_blank_references_are_none():
    references = References.encode(lambda texts: np.empty((0, 2), np.float32), [[""], [None]])
    assert np.isnan(reference_similarity(whole([[1, 0], [1, 0]]), references)).all()


def test_gathered_features_that_are_not_finite_or_zero_are_missing():
    features = np.array([[1, 2], [np.nan, 1], [0, 0], [np.inf, 1]], np.float32)
    found = Embedded.gather(features, np.array([0, 1, 2, 3, -1, 0]))
    assert found.valid.tolist() == [True, False, False, False, False, True]
    assert not found.vectors[1:5].any()


def test_unit_vectors_have_norm_one_and_missing_ones_are_zero():
    vectors = np.array([[1e-30, 0], [3e30, 4e30], [0, 0]], np.float32)
    unit = Embedded(vectors, np.array([True, True, False])).unit()
    assert np.linalg.norm(unit, axis=1).tolist() == pytest.approx([1, 1, 0])


def test_prompted_family_reads_its_own_texts_and_names_its_own_columns():
    scorer = ClipScore("clip_depicts", PAPER_PROMPT, "_depicts")
    texts = {"": whole([[0, 1]]), PAPER_PROMPT: whole([[1, 0]])}
    values = scorer.score(PairBatch(pa.array(["u"]), whole([[1, 0]]), texts), {})
    assert {name: value.tolist() for name, value in values.items()} == {
        "clip_similarity_depicts": [1.0],
        "clip_score_depicts": [2.5],
    }


@pytest.mark.parametrize("scorer", [clip_score_scorer(), depicts_scorer(), RefClipScore()])
def test_every_column_says_what_it_is(scorer):
    for field in scorer.columns:
        assert field.type == pa.float32()
        assert {b"doc", b"direction", b"range", b"source"} <= set(field.metadata)
