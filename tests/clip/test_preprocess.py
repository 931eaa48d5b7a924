"""Resize, crop and normalise, against open_clip's own transform."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from clipsieve.clip.preprocess import (
    Preprocess,
    normalize,
    resize_and_crop,
    resize_and_crop_pillow,
    resized_size,
)
from clipsieve.errors import UsageError

SIZES = (64, (48, 80))
RESIZE_MODES = ("shortest", "longest", "squash")
INTERPOLATIONS = ("bicubic", "bilinear")


def config(**changes) -> PreprocessCfg:
    return PreprocessCfg(**{"fill_color": 9, **changes})


def preprocess(**changes) -> Preprocess:
    return Preprocess.from_config(asdict(config(**changes)))


def noise_image(width: int, height: int, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(width * 10_007 + height)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def open_clip_pixels(image: Image.Image, cfg: PreprocessCfg) -> torch.Tensor:
    """What open_clip's transform hands to ToTensor, as (3, h, w) uint8."""
    for step in image_transform_v2(cfg, is_train=False).transforms[:-2]:
        image = step(image)
    return to_tensor(image)


def difference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.int() - b.int()).abs()


def test_from_config_reads_what_open_clip_writes():
    read = Preprocess.from_config(asdict(PreprocessCfg(size=336, resize_mode="longest")))
    assert read.size == (336, 336)
    assert read.mean == PreprocessCfg().mean
    assert read.std == PreprocessCfg().std
    assert (read.interpolation, read.resize_mode, read.fill_color) == ("bicubic", "longest", 0)


@pytest.mark.parametrize(
    ("size", "expected"), [(7, (7, 7)), ([7], (7, 7)), ((7, 9), (7, 9)), ([7, 9], (7, 9))]
)
def test_size_may_be_a_number_or_a_pair(size, expected):
    assert preprocess(size=size).size == expected


def test_mean_and_std_may_be_one_number_as_in_open_clip():
    read = preprocess(mean=0.5, std=(0.25,))
    assert (read.mean, read.std) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interpolation": "random"}, "set interpolation to 'bicubic' or 'bilinear'"),
        ({"interpolation": "nearest"}, "interpolation 'nearest' is not supported"),
        ({"resize_mode": "stretch"}, "one of 'shortest', 'longest', 'squash'"),
        ({"size": 0}, "at least 1"),
        ({"size": (1, 2, 3)}, "one number or 2"),
        ({"mean": (0.1, 0.2)}, "one number or 3"),
        ({"mean": float("nan")}, "finite"),
        ({"std": 0.0}, "std must be above 0"),
        ({"fill_color": 256}, "0-255"),
        ({"mode": "L"}, "mode must be 'RGB'"),
    ],
)
def test_configurations_that_cannot_be_followed_are_refused(change, message):
    with pytest.raises(UsageError, match=message):
        Preprocess.from_config({**asdict(PreprocessCfg()), **change})


def test_a_missing_key_is_refused_by_name():
    with pytest.raises(UsageError, match="no 'interpolation'"):
        Preprocess.from_config({"size": 224, "mean": 0.5, "std": 0.5, "resize_mode": "squash"})


def test_json_is_stable_and_complete():
    first = json.dumps(preprocess(size=[224, 224]).to_json(), sort_keys=True)
    second = json.dumps(preprocess(size=224).to_json(), sort_keys=True)
    assert first == second
    assert Preprocess.from_config(json.loads(first)) == preprocess(size=224)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("resize_mode", RESIZE_MODES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("width", "height"),
    [(200, 133), (133, 200), (101, 99), (64, 64), (65, 64), (63, 200), (20, 30), (1, 1), (2, 300)],
)
def test_both_routes_follow_open_clip(size, resize_mode, interpolation, width, height):
    cfg = config(size=size, resize_mode=resize_mode, interpolation=interpolation)
    wanted = Preprocess.from_config(asdict(cfg))
    image = noise_image(width, height)
    if resize_mode == "longest" and (width, height) == (2, 300):
        image = noise_image(6, 300)  # narrower ones open_clip itself cannot resize
    expected = open_clip_pixels(image, cfg)
    assert torch.equal(to_tensor(resize_and_crop_pillow(image, wanted)), expected)
    result = resize_and_crop(to_tensor(image), wanted)
    assert result.shape == (3, *wanted.size)
    assert result.is_contiguous()
    assert difference(result, expected).max() <= 1
    assert difference(result, expected).float().mean() < 0.05


@pytest.mark.parametrize("resize_mode", RESIZE_MODES)
@pytest.mark.parametrize(("width", "height"), [(1000, 3), (3, 1000), (4000, 1), (1, 4000)])
def test_extreme_shapes_keep_the_output_shape(resize_mode, width, height):
    wanted = preprocess(size=224, resize_mode=resize_mode)
    image = noise_image(width, height)
    by_tensor = resize_and_crop(to_tensor(image), wanted)
    by_pillow = resize_and_crop_pillow(image, wanted)
    assert by_tensor.shape == (3, 224, 224)
    assert by_pillow.size == (224, 224)
    # On pure noise an error of one before the second pass can become two after it.
    assert difference(by_tensor, to_tensor(by_pillow)).max() <= 2


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1"])
@pytest.mark.parametrize("size", [224, (224, 160)])
@pytest.mark.parametrize(("width", "height"), [(1500, 4), (4, 2700)])
def test_a_crop_of_a_huge_resize_equals_open_clip(width, height, size, mode):
    cfg = config(size=size)
    wanted = Preprocess.from_config(asdict(cfg))
    resized = resized_size(height, width, wanted)
    assert resized[0] * resized[1] > 1 << 24  # so the whole is not made
    image = noise_image(width, height, mode)
    result = to_tensor(resize_and_crop_pillow(image, wanted))
    assert difference(result, open_clip_pixels(image, cfg)).max() <= 1


def test_a_side_that_would_vanish_is_one_pixel():
    wanted = preprocess(size=64, resize_mode="longest")
    assert resized_size(1, 1000, wanted) == (1, 64)
    assert resized_size(1000, 1, wanted) == (64, 1)


def test_padding_has_the_fill_color():
    wanted = preprocess(size=64, resize_mode="longest", fill_color=77)
    result = resize_and_crop(torch.zeros(3, 10, 20, dtype=torch.uint8), wanted)
    assert (result[:, :16] == 77).all()
    assert (result[:, 16:48] == 0).all()
    assert (result[:, 48:] == 77).all()


@pytest.mark.parametrize("resize_mode", RESIZE_MODES)
def test_out_may_be_a_slot_of_a_channels_last_batch(resize_mode):
    wanted = preprocess(size=32, resize_mode=resize_mode)
    pixels = to_tensor(noise_image(50, 40))
    batch = torch.full((3, 3, 32, 32), 200, dtype=torch.uint8)
    batch = batch.contiguous(memory_format=torch.channels_last)
    result = resize_and_crop(pixels, wanted, out=batch[1])
    assert result.data_ptr() == batch[1].data_ptr()
    assert torch.equal(batch[1], resize_and_crop(pixels, wanted))
    assert (batch[0] == 200).all()
    assert (batch[2] == 200).all()


def test_wrong_arguments_are_refused():
    wanted = preprocess(size=32)
    good = torch.zeros(3, 5, 5, dtype=torch.uint8)
    for bad in (good.float(), good[0], good[:1], good[:, :0]):
        with pytest.raises(UsageError, match=r"\(3, H, W\) uint8"):
            resize_and_crop(bad, wanted)
    with pytest.raises(UsageError, match=r"out must be a \(3, 32, 32\) uint8"):
        resize_and_crop(good, wanted, out=torch.zeros(3, 32, 31, dtype=torch.uint8))
    with pytest.raises(UsageError, match=r"\(N, 3, H, W\)"):
        normalize(good, wanted, torch.float32)
    with pytest.raises(UsageError, match="floating"):
        normalize(good[None], wanted, torch.int64)


def test_normalize_equals_open_clip_bit_for_bit():
    cfg = config(size=64)
    wanted = Preprocess.from_config(asdict(cfg))
    images = [noise_image(64, 64), Image.new("RGB", (64, 64), (0, 128, 255))]
    transform = image_transform_v2(cfg, is_train=False)
    expected = torch.stack([transform(image) for image in images])
    batch = torch.stack([to_tensor(image) for image in images])
    result = normalize(batch, wanted, torch.float32)
    assert torch.equal(result, expected)
    assert result.is_contiguous(memory_format=torch.channels_last)
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(normalize(batch, wanted, dtype), expected.to(dtype))


def test_normalize_leaves_its_input_and_takes_an_empty_batch():
    wanted = preprocess(size=8)
    batch = torch.full((2, 3, 8, 8), 7, dtype=torch.uint8)
    normalize(batch, wanted, torch.float32)
    assert (batch == 7).all()
    assert normalize(batch[:0], wanted, torch.bfloat16).shape == (0, 3, 8, 8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_normalize_on_a_gpu_equals_the_cpu():
    wanted = preprocess(size=64)
    batch = torch.stack([to_tensor(noise_image(64, 64))])
    on_gpu = normalize(batch.cuda(), wanted, torch.float32)
    assert on_gpu.device.type == "cuda"
    torch.testing.assert_close(on_gpu.cpu(), normalize(batch, wanted, torch.float32))
