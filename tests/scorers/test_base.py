"""What a batch computes for all its scorers equals a naive loop, and is computed once."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.errors import UsageError
from clipsieve.neighbours.lists import NeighbourLists
from clipsieve.scorers.base import (
    Embedded,
    NeighbourSpec,
    PairBatch,
    PromptSet,
    References,
    TextMap,
)
from clipsieve.scorers.clipscore import RefClipScore
from clipsieve.store.pairs import split_batch, with_lists

ROWS, DIM = 23, 5


def embedded(seed, rows=ROWS, missing=(2, 5)):
    rng = np.random.default_rng(seed)
    valid = ~np.isin(np.arange(rows), list(missing))
    scale = np.logspace(-15, 15, rows)[:, None]
    vectors = (rng.normal(size=(rows, DIM)) * scale * valid[:, None]).astype(np.float32)
    return Embedded(vectors, valid)


def naive_norm(vector):
    return sum(float(x) ** 2 for x in vector) ** 0.5


def naive_cosine(one, other):
    product = sum(float(x) * float(y) for x, y in zip(one, other, strict=True))
    return product / naive_norm(one) / naive_norm(other)


def test_norms_and_unit_vectors_equal_a_naive_loop():
    each = embedded(0)
    for row, vector in enumerate(each.vectors):
        norm = naive_norm(vector)
        assert each.norms()[row] == pytest.approx(norm, rel=1e-12)
        expected = [float(x) / norm if norm else 0.0 for x in vector]
        assert each.unit()[row].tolist() == pytest.approx(expected, rel=1e-12)
    assert each.norms().dtype == each.unit().dtype == np.float64
    assert (each.norms() == 0).tolist() == (~each.valid).tolist()


def test_norms_and_unit_vectors_are_computed_once():
    each = embedded(0)
    assert each.unit() is each.unit()
    assert each.norms() is each.norms()


def test_no_rows_have_no_norms():
    none = embedded(0, rows=0)
    assert none.norms().shape == (0,)
    assert none.unit().shape == (0, DIM)


PROMPTS = PromptSet(("a", "b", "c"), (("a",), ("b",), ("c",)))
OTHERS = PromptSet(("a",), (("a",),))


def unit_rows(seed, rows):
    vectors = np.random.default_rng(seed).normal(size=(rows, DIM))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def batch_with_prompts():
    prototypes = {PROMPTS: unit_rows(1, 3), OTHERS: unit_rows(2, 1)}
    uids = pa.array([str(row) for row in range(ROWS)])
    image, text = embedded(3), embedded(4, missing=(0, 5))
    return PairBatch(uids, image, {"": text}, prototypes=prototypes)


@pytest.mark.parametrize("prompts", [PROMPTS, OTHERS])
def test_cosines_with_classes_equal_a_naive_loop_and_are_nan_where_missing(prompts):
    batch = batch_with_prompts()
    for embeds, cosines in (
        (batch.image, batch.image_cosines(prompts)),
        (batch.texts[""], batch.text_cosines(prompts)),
    ):
        assert cosines.shape == (ROWS, len(prompts.names))
        assert cosines.dtype == np.float64
        for row, vector in enumerate(embeds.vectors):
            if not embeds.valid[row]:
                assert np.isnan(cosines[row]).all()
                continue
            expected = [naive_cosine(vector, each) for each in batch.prototypes[prompts]]
            assert cosines[row].tolist() == pytest.approx(expected, abs=1e-12)


def test_cosines_with_classes_are_computed_once_for_all_who_ask():
    batch = batch_with_prompts()
    image, text = batch.image_cosines(PROMPTS), batch.text_cosines(PROMPTS)
    assert batch.image_cosines(PROMPTS) is image
    assert batch.text_cosines(PROMPTS) is text
    equal = PromptSet(PROMPTS.names, PROMPTS.texts)
    assert batch.image_cosines(equal) is image
    assert not np.array_equal(image, text, equal_nan=True)


def test_rounding_never_leaves_the_range_of_a_cosine():
    rows = unit_rows(5, 400)
    prompts = PromptSet.from_templates([str(row) for row in range(400)])
    vectors = Embedded((rows * 3).astype(np.float32), np.ones(400, bool))
    close = vectors.unit()
    batch = PairBatch(pa.array(range(400)), vectors, prototypes={prompts: close})
    assert np.diag(close @ close.T).max() > 1  # or the test tests nothing
    assert batch.image_cosines(prompts).max() <= 1


def test_a_copy_with_neighbours_shares_the_cosines():
    batch = batch_with_prompts()
    cosines = batch.image_cosines(PROMPTS)
    spec = NeighbourSpec(k=1)
    copy = dataclasses.replace(batch, neighbours={spec: NeighbourLists.empty(ROWS, 1)})
    assert copy.image_cosines(PROMPTS) is cosines


# Splitting


def whole_batch():
    """A batch with everything that a batch can have."""
    rng = np.random.default_rng(6)
    counts = rng.integers(0, 4, ROWS)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    spec, other = NeighbourSpec(k=3, texts=True), NeighbourSpec(k=2)

    def lists(k):
        distances = np.sort(rng.random((ROWS, k)).astype(np.float32), axis=1)
        return NeighbourLists(distances, rng.integers(0, ROWS, (ROWS, k)))

    return PairBatch(
        uid=pa.array([f"u{row}" for row in range(ROWS)]),
        image=embedded(7),
        texts={"": embedded(8), "a ": embedded(9, missing=(1,))},
        references={"a ": References(embedded(10, rows=int(offsets[-1])), offsets)},
        captions=[f"caption {row}" if row % 4 else None for row in range(ROWS)],
        shard="s",
        start=100,
        prototypes={PROMPTS: unit_rows(11, 3)},
        neighbours={spec: lists(3), other: lists(2)},
        caption_neighbours={spec: lists(3)},
        image_sha256=pa.array([f"{row:064x}" if row % 5 else None for row in range(ROWS)]),
        image_phash=pa.array([row if row % 3 else None for row in range(ROWS)], pa.uint64()),
        clip_score=rng.random(ROWS).astype(np.float32),
    )


def same_embedded(one, other):
    return np.array_equal(one.vectors, other.vectors) and np.array_equal(one.valid, other.valid)


@pytest.mark.parametrize("rows", [1, 4, 22, 23, 24])
def test_pieces_of_a_batch_are_the_whole_in_every_field(rows):
    batch = whole_batch()
    assert batch.image_sha256 is not None and batch.image_phash is not None
    assert batch.clip_score is not None
    parts = list(split_batch(batch, rows))
    assert [len(part) for part in parts] == [min(rows, ROWS - at) for at in range(0, ROWS, rows)]
    for part, first in zip(parts, range(0, ROWS, rows), strict=True):
        at = slice(first, min(first + rows, ROWS))
        assert part.uid.to_pylist() == batch.uid.to_pylist()[at]
        assert part.captions == batch.captions[at]
        assert (part.shard, part.start) == ("s", 100 + first)
        assert part.prototypes == batch.prototypes
        assert same_embedded(part.image, batch.image.part(at))
        assert part.texts.keys() == batch.texts.keys()
        for prompt, text in part.texts.items():
            assert same_embedded(text, batch.texts[prompt].part(at))
        for row in range(len(part)):
            mine, whole = part.references["a "], batch.references["a "]
            low, high = mine.offsets[row : row + 2]
            first_whole, last_whole = whole.offsets[first + row : first + row + 2]
            owned = whole.embedded.part(slice(first_whole, last_whole))
            assert same_embedded(mine.embedded.part(slice(low, high)), owned)
        for lists, whole in (
            (part.neighbours, batch.neighbours),
            (part.caption_neighbours, batch.caption_neighbours),
        ):
            assert lists.keys() == whole.keys()
            for spec, each in lists.items():
                assert np.array_equal(each.distances, whole[spec].distances[at])
                assert np.array_equal(each.indices, whole[spec].indices[at])
        assert part.image_sha256 == batch.image_sha256[at]
        assert part.image_phash == batch.image_phash[at]
        assert part.clip_score is not None
        assert np.array_equal(part.clip_score, batch.clip_score[at])
        assert len(part.references["a "].embedded.valid) == part.references["a "].offsets[-1]
    known = {field.name for field in dataclasses.fields(PairBatch)} - {"_shared"}
    checked = {"uid", "image", "texts", "references", "captions", "columns", "shard", "start"}
    checked |= {"image_sha256", "image_phash", "clip_score"}
    assert known == checked | {"prototypes", "neighbours", "caption_neighbours"}


def test_pieces_do_not_share_cosines():
    whole = whole_batch()
    expected = whole.image_cosines(PROMPTS)
    parts = [part.image_cosines(PROMPTS) for part in split_batch(whole, 4)]
    assert np.allclose(np.concatenate(parts), expected, atol=1e-15, equal_nan=True)


def test_scores_of_references_do_not_depend_on_the_pieces():
    batch = whole_batch()
    batch = dataclasses.replace(
        batch,
        texts={RefClipScore.prompt: batch.texts["a "]},
        references={RefClipScore.prompt: batch.references["a "]},
    )
    whole = RefClipScore().score(batch, {})
    for rows in (1, 4):
        parts = [RefClipScore().score(part, {}) for part in split_batch(batch, rows)]
        for name, values in whole.items():
            joined = np.concatenate([part[name] for part in parts])
            assert np.array_equal(joined, values, equal_nan=True)


def test_a_batch_of_no_rows_is_one_piece():
    empty = PairBatch(pa.array([], pa.string()), embedded(0, rows=0))
    assert [len(part) for part in split_batch(empty, 5)] == [0]


# Keys


def test_every_field_of_a_prompt_set_changes_its_key():
    base = PromptSet(("a", "b"), (("x", "y"), ("z",)))
    others = [
        PromptSet(("a", "c"), base.texts),
        PromptSet(("b", "a"), base.texts),
        PromptSet(base.names, (("x", "y"), ("q",))),
        PromptSet(base.names, (("y", "x"), ("z",))),
        PromptSet(base.names, (("x",), ("y", "z"))),
        PromptSet(base.names, base.texts, normalize_texts=False),
        PromptSet(base.names, base.texts, normalize=False),
        PromptSet(base.names, base.texts, text_map=TextMap("map.npy", "0" * 64)),
        PromptSet(base.names, base.texts, text_map=TextMap("map.npy", "1" * 64)),
    ]
    assert len({each.key for each in (base, *others)}) == 1 + len(others)
    again = PromptSet(("a", "b"), (("x", "y"), ("z",)))
    assert (again.key, hash(again)) == (base.key, hash(base)) and again == base != others[0]
    # Of texts that are encoded alike, the means are kept once.
    assert len({each.texts_key for each in (base, *others)}) == 7
    assert len(dataclasses.fields(PromptSet)) == 5  # a new field must change the key too


def test_every_field_of_a_neighbour_specification_changes_its_key():
    base = NeighbourSpec(k=4)
    changes: dict[str, Any] = {"k": 5, "batch": 10, "seed": 1, "metric": "cosine", "texts": True}
    assert changes.keys() == {field.name for field in dataclasses.fields(NeighbourSpec)}
    keys = {dataclasses.replace(base, **{name: value}).key for name, value in changes.items()}
    assert len(keys | {base.key}) == 6
    assert NeighbourSpec(k=4).key == base.key


def test_templates_are_filled_for_every_name():
    prompts = PromptSet.from_templates(["cat", "{}"], ["a {}", "{} and {}"])
    assert prompts.names == ("cat", "{}")
    assert prompts.texts == (("a cat", "cat and cat"), ("a {}", "{} and {}"))
    assert PromptSet.from_templates(["dog"]).texts == (("a photo of a dog.",),)


@pytest.mark.parametrize("rows", [1, 4, 23])
def test_lists_of_another_batch_are_given_to_a_piece_which_keeps_its_cosines(rows):
    whole, other = whole_batch(), whole_batch()
    spec = NeighbourSpec(k=4)
    distances = np.arange(ROWS * 4, dtype=np.float32).reshape(ROWS, 4)
    lists = NeighbourLists(distances, np.ones((ROWS, 4), np.int64))
    other = dataclasses.replace(other, neighbours={spec: lists}, caption_neighbours={spec: lists})
    for part in split_batch(whole, rows):
        cosines = part.image_cosines(PROMPTS)
        given = with_lists(part, other)
        at = slice(part.start - 100, part.start - 100 + len(part))
        for side in (given.neighbours, given.caption_neighbours):
            assert side.keys() == {spec}
            assert np.array_equal(side[spec].distances, distances[at])
        assert given.image_cosines(PROMPTS) is cosines
        assert part.neighbours.keys() == whole.neighbours.keys()


@pytest.mark.parametrize(
    ("names", "texts"), [((), ()), (("a", "b"), (("x",),)), (("a",), ((),)), (("a",), (("x",), ()))]
)
def test_a_class_without_name_or_text_is_refused(names, texts):
    with pytest.raises(UsageError, match=rf"prompt set of {len(names)} names has \[.*\] texts"):
        PromptSet(names, texts)
