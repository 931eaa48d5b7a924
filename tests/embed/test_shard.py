"""Rows in, a scored shard out: states, duplicates, order, failures."""

import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pytest
import torch

from clipsieve.clip.decode import DecodedImage
from clipsieve.clip.encode import Encoder
from clipsieve.clip.model import load_model
from clipsieve.control import Control
from clipsieve.embed import prepare
from clipsieve.embed.commit import embeddings_table, samples_table
from clipsieve.embed.prepare import Begin, Chunk, End, Preparer
from clipsieve.embed.shard import ShardBuilder
from clipsieve.errors import ShardError
from clipsieve.formats.base import InputFormat, RowBatch, SourceConfig, SourceFingerprint, WorkItem
from clipsieve.formats.uid import row_uid
from clipsieve.schemas.states import RowFailure, RowState
from clipsieve.scorers.columns import score_columns, scores_table
from clipsieve.scorers.registry import make_scorer

SOURCE = SourceConfig(
    InputFormat.PARQUET,
    "parquet",
    "jpg",
    "caption",
    None,
    None,
    (),
    pa.schema([]),
    (),
    None,
    1 << 20,
)


def item(name):
    return WorkItem(
        name, f"/in/{name}", InputFormat.PARQUET, 0, None, SourceFingerprint(1, "1", None)
    )


def decode(image):
    """A picture of one colour, from its first byte; or a failure."""
    if not image or image.startswith(b"bad"):
        return RowFailure(RowState.DECODE_ERROR, "damaged")
    pixels = torch.full((3, 64, 64), image[0], dtype=torch.uint8)
    return DecodedImage(pixels, 80, 60, (1 << 63) + image[0])


class Counting(Encoder):
    """Counts what it encodes."""

    def __init__(self, model, batch_size=4):
        super().__init__(model, batch_size)
        self.images = self.texts = 0

    def start_images(self, pixels):
        self.images += len(pixels)
        return super().start_images(pixels)

    def encode_tokens(self, tokens):
        self.texts += len(tokens)
        return super().encode_tokens(tokens)


@pytest.fixture(scope="module")
def model():
    return load_model("tiny", None, torch.device("cpu"), "float32")


def rows(images, captions, start=0, **more):
    carried = more.pop("carried", pa.table({"n": pa.array(range(len(images)))}).select([]))
    return RowBatch(start, images, captions, carried, **more)


def preparer(read, pool, model, chunk_rows=3, control=None):
    free = threading.Event()
    free.set()
    return Preparer(
        read, decode, model.tokenize, pool, free, chunk_rows, control or Control("embed")
    )


def embed(encoder, batches, source=SOURCE):
    """One finished shard of `batches`."""
    builder = ShardBuilder(item("s"), source, encoder, Control("embed"))
    with ThreadPoolExecutor(2) as pool:
        work = preparer(lambda _: iter(batches), pool, encoder.model)
        for event in work.events([item("s")]):
            if isinstance(event, Chunk):
                builder.add(event)
    return builder.finish()


def clip_scores(shard):
    """The table of the scores that come with the embeddings."""
    scorer, pairs = make_scorer("clip", {}), shard.pairs
    columns = score_columns(scorer, "rev", scorer.score(pairs, {}), len(pairs))
    return scores_table(pairs.uid, columns)


def test_equal_images_and_captions_are_encoded_once(model):
    encoder = Counting(model)
    images = [b"a", b"b", b"a", b"a", b"c", b"b"] * 3
    captions = ["x", "y", "x", "z", "x", "y"] * 3
    shard = embed(encoder, [rows(images[:7], captions[:7]), rows(images[7:], captions[7:], 7)])
    assert (encoder.images, encoder.texts) == (3, 3)
    alone = Encoder(model)
    for row, caption in enumerate(captions):
        text = shard.pairs.texts[""].vectors[row]
        assert np.allclose(text, alone.encode_texts([caption])[0], atol=1e-5)
        pixels = decode(images[row]).pixels[None]
        image = alone.encode_images(pixels)[0]
        assert np.allclose(shard.pairs.image.vectors[row], image, atol=1e-4)
    assert shard.states == [RowState.OK] * 18
    assert shard.widths.tolist() == [80] * 18


def test_hashes_of_each_row_are_in_the_ledger(model):
    images = [b"a", b"b", b"bad", None, b"", b"a", b"zz", b"a"]
    captions = ["x", "y", "x", "x", "x", None, "z", "x"]
    batch = rows(images, captions, failures={6: RowFailure(RowState.FETCH_FAILED, "404")})
    ledger = samples_table(embed(Encoder(model), [batch]))
    digests = [sha256(image).hexdigest() if image else None for image in images]
    assert ledger["image_sha256"].to_pylist() == digests
    first, second = (1 << 63) + ord("a"), (1 << 63) + ord("b")
    expected = [first, second, None, None, None, first, None, first]
    assert ledger["image_phash"].to_pylist() == expected


FETCH = RowFailure(RowState.FETCH_FAILED, "404")
BYTES = RowFailure(RowState.INVALID_CAPTION, "not UTF-8")


@pytest.mark.parametrize(
    ("image", "caption", "said", "state", "error"),
    [
        (b"a", "x", None, RowState.OK, None),
        (None, "x", None, RowState.MISSING_IMAGE, "the source has no image bytes"),
        (None, "x", FETCH, RowState.FETCH_FAILED, "404"),
        (b"bad", "x", None, RowState.DECODE_ERROR, "damaged"),
        (b"bad", None, None, RowState.DECODE_ERROR, "damaged"),
        (b"bad", "x", BYTES, RowState.DECODE_ERROR, "damaged"),
        (None, "", BYTES, RowState.MISSING_IMAGE, "the source has no image bytes"),
        (None, None, FETCH, RowState.FETCH_FAILED, "404"),
        (b"a", None, None, RowState.EMPTY_CAPTION, "caption is NULL"),
        (b"a", "", None, RowState.EMPTY_CAPTION, "caption is blank: ''"),
        (b"a", " \n\u3000", None, RowState.EMPTY_CAPTION, "caption is blank: ' \\n\\u3000'"),
        (b"a", "x\ufffd", BYTES, RowState.INVALID_CAPTION, "not UTF-8"),
        (b"a", "long " * 800, None, RowState.OK, None),
    ],
)
def test_state_of_a_row(model, image, caption, said, state, error):
    failures = {1: said} if said else {}
    shard = embed(Encoder(model), [rows([b"z", image], ["first", caption], failures=failures)])
    assert shard.states == [RowState.OK, state]
    assert shard.errors == [None, error]
    usable = image == b"a"
    assert shard.pairs.image.valid.tolist() == [True, usable]
    assert shard.heights.tolist() == [60, 60 if usable else 0]
    assert shard.counts() == ({"ok": 2} if state is RowState.OK else {"ok": 1, str(state): 1})
    scores = clip_scores(shard)
    assert scores["clip_score"].is_valid().to_pylist() == [True, state is RowState.OK]


def test_text_of_a_row_without_image_is_still_encoded(model):
    shard = embed(Encoder(model), [rows([None], ["a cat"])])
    assert shard.pairs.texts[""].valid.tolist() == [True]


def test_shard_without_rows(model):
    shard = embed(Encoder(model), [])
    assert (len(shard.pairs), shard.counts()) == (0, {})
    assert samples_table(shard).num_rows == 0
    pairs = shard.pairs
    assert embeddings_table(pairs.uid, pairs.image, pairs.texts[""]).num_rows == 0
    assert clip_scores(shard).num_rows == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_embedding_that_is_not_finite_or_zero_is_a_state(model, value):
    class Broken(torch.nn.Module):
        def encode_image(self, inputs, normalize):
            features = torch.ones(len(inputs), 128)
            features[0] = value
            return features

        def encode_text(self, tokens, normalize):
            return torch.ones(len(tokens), 128)

    encoder = Encoder(dataclasses.replace(model, module=Broken()))
    shard = embed(encoder, [rows([b"a", b"b"], ["x", "y"])])
    assert shard.states == [RowState.NONFINITE_EMBEDDING, RowState.OK]
    assert shard.errors[0] == "image embedding is not finite, or zero"


def test_hashed_uids_are_those_of_the_rule(model):
    shard = embed(Encoder(model), [rows([b"a", None], ["x", "y"])])
    assert shard.pairs.uid.to_pylist() == [row_uid(b"a", "x", None), row_uid(None, "y", None)]


def test_null_among_text_uids_is_hashed_and_among_numbers_kept(model):
    source = dataclasses.replace(SOURCE, uid="uid", uid_type=pa.string())
    batch = rows([b"a", b"b"], ["x", "y"], uids=pa.array(["one", None]))
    uids = embed(Encoder(model), [batch], source).pairs.uid.to_pylist()
    assert uids == ["one", row_uid(b"b", "y", None)]
    source = dataclasses.replace(SOURCE, uid="uid", uid_type=pa.int64())
    batch = rows([b"a", b"b"], ["x", "y"], uids=pa.array([7, None], pa.int64()))
    assert embed(Encoder(model), [batch], source).pairs.uid.to_pylist() == [7, None]


def reading_threads():
    return [thread for thread in threading.enumerate() if thread.name == "clipsieve-read"]


def test_shard_that_cannot_be_read_ends_and_the_next_goes_on(model):
    def read(work):
        yield rows([b"a"] * 4, ["x"] * 4)
        if work.shard == "two":
            raise ShardError("cut off")

    with ThreadPoolExecutor(1) as pool:
        names = [item(name) for name in ("one", "two", "three")]
        events = list(preparer(read, pool, model).events(names))
    begun = [event.item.shard for event in events if isinstance(event, Begin)]
    ended = [event.error and str(event.error) for event in events if isinstance(event, End)]
    assert begun == ["one", "two", "three"]
    assert ended == [None, "cut off", None]


def test_rows_of_a_failed_shard_are_taken_out_of_the_meter(model):
    control = Control("meter")
    builder = ShardBuilder(item("s"), SOURCE, Encoder(model), control)
    with ThreadPoolExecutor(1) as pool:
        batches = [rows([b"a", b"bad", None], ["x"] * 3)]
        for event in preparer(lambda _: iter(batches), pool, model).events([item("s")]):
            if isinstance(event, Chunk):
                builder.add(event)
    now = control.snapshot()
    assert (now.rows, now.failed_rows) == (3, 2)
    builder.withdraw()
    now = control.snapshot()
    assert (now.rows, now.failed_rows) == (0, 0)


def test_any_other_error_of_the_reader_is_raised(model):
    def read(work):
        yield rows([b"a"], ["x"])
        raise ZeroDivisionError("a bug")

    with ThreadPoolExecutor(1) as pool, pytest.raises(ZeroDivisionError, match="a bug"):
        list(preparer(read, pool, model).events([item("s")]))
    assert reading_threads() == []


def test_closing_early_stops_the_reader(model):
    def read(work):
        while True:
            yield rows([b"a"] * 3, ["x"] * 3)

    with ThreadPoolExecutor(1) as pool:
        events = preparer(read, pool, model).events([item("s")])
        assert isinstance(next(events), Begin)
        assert len(reading_threads()) == 1
        events.close()
    assert reading_threads() == []


def test_the_reader_runs_only_so_far_ahead(model):
    given = []

    def read(work):
        for number in range(1000):
            given.append(number)
            yield rows([b"a"] * 3, ["x"] * 3, 3 * number)

    with ThreadPoolExecutor(1) as pool:
        events = preparer(read, pool, model).events([item("s")])
        next(events)
        deadline = time.monotonic() + 5
        while len(given) < prepare.CHUNKS_AHEAD and time.monotonic() < deadline:
            threading.Event().wait(0.01)
        threading.Event().wait(0.3)
        assert len(given) <= prepare.CHUNKS_AHEAD + 2
        events.close()


def test_pixels_are_not_kept_after_encoding(model):
    builder = ShardBuilder(item("s"), SOURCE, Encoder(model, 2), Control("embed"))
    images = [bytes([number]) for number in range(1, 10)]
    with ThreadPoolExecutor(1) as pool:
        work = preparer(lambda _: iter([rows(images, ["x"] * 9)]), pool, model)
        for event in work.events([item("s")]):
            if isinstance(event, Chunk):
                builder.add(event)
                assert len(builder._waiting) < 2
                assert all(not chunk.images for chunk in builder._chunks)
    assert builder.finish().counts() == {"ok": 9}
