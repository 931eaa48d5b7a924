"""Encoding is exact, in order, and does not depend on batches."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from clipsieve.clip.device import cpu_bfloat16_units
from clipsieve.clip.encode import Encoder, cut_shape, out_of_memory
from clipsieve.clip.model import causal_text_tower, encode_cut_text, end_positions, load_model
from clipsieve.errors import DeviceError
from tests.clip.models import CUT, WHOLE, load

CAPTIONS = [
    "a photo of a cat",
    "",
    "a cat",
    "two dogs on a sofa, one of them asleep",
    "x " * 60,
    "a cat",
    "grün 猫 🐈",
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Loads each small model once."""
    loaded = {}

    def get(name, dtype="float32"):
        if (name, dtype) not in loaded:
            if name == "tiny":
                loaded[name, dtype] = load_model("tiny", None, torch.device("cpu"), dtype)
            else:
                loaded[name, dtype] = load(tmp_path_factory.mktemp(name), name, dtype)
        return loaded[name, dtype]

    return get


def tower_of(module):
    tower = causal_text_tower(module)
    assert tower is not None
    return tower


def whole_text(model, captions, math):
    """open_clip's own encode_text, all captions at full length in one batch."""
    with torch.inference_mode():
        if not math:
            return (
                model.module.encode_text(model.tokenize(captions), normalize=False).float().numpy()
            )
        with sdpa_kernel(SDPBackend.MATH):
            return (
                model.module.encode_text(model.tokenize(captions), normalize=False).float().numpy()
            )


@pytest.mark.parametrize("name", ["tiny", *CUT])
def test_cutting_changes_nothing_but_rounding(models, name):
    model = models(name)
    module = copy.deepcopy(model.module).double()
    tower = tower_of(module)
    tokens = model.tokenize(CAPTIONS)[[0, 2, 5]]
    longest = int(end_positions(tower, tokens).max()) + 1
    assert longest < tokens.shape[1]
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
        whole = module.encode_text(tokens)
        cut = encode_cut_text(tower, tokens[:, :longest])
    assert cut.dtype == torch.float64
    assert torch.allclose(cut, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["tiny", *CUT])
def test_what_follows_the_end_token_changes_not_one_bit(models, name):
    model = models(name)
    tower = tower_of(model.module)
    tokens = model.tokenize(CAPTIONS)[[0, 2, 5]]
    other = tokens.clone()
    for row, end in enumerate(end_positions(tower, tokens)):
        other[row, end + 1 :] = 7
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
        assert torch.equal(encode_cut_text(tower, tokens), encode_cut_text(tower, other))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["tiny", *CUT])
def test_uncut_tower_is_open_clip_to_the_last_bit(models, name, dtype):
    if (name, dtype) == ("bias", "bfloat16"):
        pytest.skip("open_clip itself cannot convert a projection with a bias to bfloat16")
    model = models(name, dtype)
    tokens = model.tokenize(CAPTIONS)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
        whole = model.module.encode_text(tokens)
        assert torch.equal(encode_cut_text(tower_of(model.module), tokens), whole)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["tiny", *CUT])
def test_cut_captions_equal_open_clip_to_the_last_bit(models, name, dtype):
    if (name, dtype) == ("bias", "bfloat16"):
        pytest.skip("open_clip itself cannot convert a projection with a bias to bfloat16")
    encoder = Encoder(models(name, dtype))
    assert encoder.cuts_captions
    captions = CAPTIONS * 5
    encoded = encoder.encode_texts(captions)
    rows = encoder.text_batch_size
    filled = captions + captions[: -len(captions) % rows]
    batches = [filled[start : start + rows] for start in range(0, len(filled), rows)]
    whole = np.concatenate([whole_text(encoder.model, batch, math=True) for batch in batches])
    assert np.array_equal(encoded, whole[: len(captions)])
    if dtype == "float32" or "amx_bf16" not in cpu_bfloat16_units():
        assert np.array_equal(encoded, whole_text(encoder.model, captions, math=True))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["tiny", "wide"])
def test_features_of_a_row_do_not_depend_on_the_rows_beside_it(models, name, dtype):
    model = models(name, dtype)
    encoder = Encoder(model)
    together = encoder.encode_texts(CAPTIONS * 5)
    for caption, row in zip(CAPTIONS, together, strict=False):
        assert np.array_equal(encoder.encode_texts([caption])[0], row)
    height, width = model.preprocess.size
    pixels = torch.randint(0, 256, (40, 3, height, width), dtype=torch.uint8)
    together = encoder.encode_images(pixels)
    for at in (0, 17, 39):
        assert np.array_equal(encoder.encode_images(pixels[at : at + 1])[0], together[at])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch_size", [4, 14, 64])
def test_features_do_not_depend_on_order_or_number_at_any_batch_size(models, batch_size, dtype):
    model = models("wide", dtype)
    encoder = Encoder(model, batch_size)
    captions = [" ".join(["cat", "a", "dog"][(n + k) % 3] for k in range(n)) for n in range(1, 70)]
    pixels = torch.randint(0, 256, (69, 3, *model.preprocess.size), dtype=torch.uint8)
    texts, images = encoder.encode_texts(captions), encoder.encode_images(pixels)
    order = np.random.default_rng(0).permutation(69)[:37]
    assert np.array_equal(encoder.encode_texts([captions[at] for at in order]), texts[order])
    assert np.array_equal(encoder.encode_images(pixels[order]), images[order])


@pytest.mark.parametrize("rows", [1, 7, 13, 16, 128])
@pytest.mark.parametrize("context", [8, 20, 64, 77])
def test_cut_batches_have_as_many_tokens_as_whole_ones(rows, context):
    for longest in range(2, context + 1):
        captions, columns = cut_shape(rows, context, longest)
        assert captions * columns == rows * context
        assert max(longest, min(16, context)) <= columns <= context


@pytest.mark.parametrize("name", ["tiny", *CUT])
def test_encoder_is_close_to_open_clip_with_any_kernel(models, name):
    encoded = Encoder(models(name)).encode_texts(CAPTIONS)
    assert np.allclose(encoded, whole_text(models(name), CAPTIONS, math=False), atol=1e-5)


@pytest.mark.parametrize("name", WHOLE)
def test_towers_that_cannot_be_cut_are_encoded_whole(models, name):
    encoder = Encoder(models(name), batch_size=4)
    assert not encoder.cuts_captions
    whole = whole_text(models(name), CAPTIONS, math=False)
    assert np.allclose(encoder.encode_texts(CAPTIONS), whole, atol=1e-5)


@pytest.mark.parametrize("name", ["tiny", "eos", "siglip"])
def test_order_is_kept_and_equal_captions_are_equal(models, name):
    encoder = Encoder(models(name), batch_size=4)
    encoded = encoder.encode_texts(CAPTIONS)
    for caption, row in zip(CAPTIONS, encoded, strict=True):
        assert np.allclose(encoder.encode_texts([caption])[0], row, atol=1e-5)
    assert np.allclose(encoded[2], encoded[5], atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_size_of_the_batch_does_not_matter(models, batch_size):
    model = models("tiny")
    captions = CAPTIONS * 4
    reference = Encoder(model, batch_size=64)
    encoder = Encoder(model, batch_size=batch_size)
    expected = reference.encode_texts(captions)
    assert np.allclose(encoder.encode_texts(captions), expected, atol=1e-5)
    pixels = torch.randint(0, 256, (9, 3, 64, 64), dtype=torch.uint8)
    expected = reference.encode_images(pixels)
    assert np.allclose(encoder.encode_images(pixels), expected, atol=1e-4)


def test_captions_over_the_context_are_cut_by_the_tokenizer(models):
    model = models("tiny")
    long = "cat " * 200
    tokens = model.tokenize([long])
    end = model.tokenize(["cat"]).max()
    assert tokens[0, -1] == end
    encoded = Encoder(model).encode_texts([long, "cat " * 300, "cat"])
    assert np.allclose(encoded[0], encoded[1], atol=1e-6)
    assert not np.allclose(encoded[0], encoded[2], atol=1e-3)


@pytest.mark.parametrize("name", ["tiny", "siglip"])
def test_nothing_is_encoded_to_no_rows(models, name):
    encoder = Encoder(models(name))
    dim = models(name).identity.dim
    height, width = models(name).preprocess.size
    assert encoder.encode_texts([]).shape == (0, dim)
    assert encoder.encode_tokens(models(name).tokenize(["a"])[:0]).shape == (0, dim)
    none = torch.empty((0, 3, height, width), dtype=torch.uint8)
    assert encoder.encode_images(none).shape == (0, dim)


def test_prompt_is_put_before_every_text(models):
    encoder = Encoder(models("tiny"))
    prompted = encoder.with_prompt("a photo of ")(["a cat", "a dog"])
    assert np.array_equal(prompted, encoder.encode_texts(["a photo of a cat", "a photo of a dog"]))


def test_features_are_float32_and_not_normalised(models):
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    for dtype in ("float32", "bfloat16"):
        encoder = Encoder(models("tiny", dtype))
        for features in (encoder.encode_images(pixels), encoder.encode_texts(["a", "b"])):
            assert features.dtype == np.float32
            assert not np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-2)


class Small(torch.nn.Module):
    """A device whose memory holds `rows` images or captions; features say which they were."""

    def __init__(self, rows, error):
        super().__init__()
        self.rows, self.error, self.seen = rows, error, []

    def encode_image(self, inputs, normalize):
        return self._features(inputs.flatten(1).mean(1))

    def encode_text(self, tokens, normalize):
        return self._features(tokens[:, 1].float())

    def _features(self, values):
        self.seen.append(len(values))
        if len(values) > self.rows:
            raise self.error
        return values[:, None].repeat(1, 128)


def small_encoder(models, rows, error=None, batch_size=16):
    error = error or torch.OutOfMemoryError("out of memory")
    model = dataclasses.replace(models("tiny"), module=Small(rows, error))
    return Encoder(model, batch_size), model


PIXELS = torch.arange(20, dtype=torch.uint8)[:, None, None, None].repeat(1, 3, 4, 4)


@pytest.mark.parametrize("rows", [1, 3, 5, 15])
def test_batch_is_halved_for_good_when_memory_runs_out(models, rows):
    encoder, model = small_encoder(models, rows)
    features = encoder.encode_images(PIXELS)
    assert features.shape == (20, 128)
    assert (np.diff(features[:, 0]) > 0).all()
    assert encoder.batch_size <= rows
    model.module.seen.clear()
    encoder.encode_images(PIXELS)
    assert max(model.module.seen) <= rows


def test_captions_are_halved_too_and_stay_in_order(models):
    encoder, model = small_encoder(models, 2)
    captions = [f"{word} cat" for word in ("red", "blue", "green", "black", "white", "grey")]
    tokens = model.tokenize(captions)
    features = encoder.encode_tokens(tokens)
    assert features[:, 0].tolist() == tokens[:, 1].tolist()


def test_cpu_allocator_out_of_memory_is_recognised(models):
    error = RuntimeError(
        "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"
    )
    assert out_of_memory(error)
    encoder, _ = small_encoder(models, 4, error)
    assert encoder.encode_images(PIXELS).shape == (20, 128)


def test_one_row_that_does_not_fit_is_a_device_error(models):
    encoder, _ = small_encoder(models, 0)
    with pytest.raises(
        DeviceError, match="one input does not fit the memory of cpu: out of memory"
    ):
        encoder.encode_images(PIXELS)
    assert encoder.cores_free.is_set()


def test_other_errors_are_not_taken_for_memory(models):
    encoder, model = small_encoder(models, 4, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        encoder.encode_images(PIXELS)
    assert len(model.module.seen) == 1


def test_cores_are_taken_only_while_the_model_works(models):
    encoder = Encoder(models("wide"))
    seen = []

    class Watching(torch.nn.Module):
        def encode_image(self, inputs, normalize):
            seen.append(encoder.cores_free.is_set())
            return torch.ones(len(inputs), 16)

    encoder.model = dataclasses.replace(encoder.model, module=Watching())
    encoder.encode_images(PIXELS)
    assert seen and not any(seen)
    assert encoder.cores_free.is_set()
