"""The perceptual hash is that of the definition, the same for near-copies, far for others."""

import io
import math

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from clipsieve.clip.decode import DecodedImage, decode_image
from clipsieve.clip.perceptual_hash import (
    hash_of_grey,
    perceptual_hash,
    perceptual_hash_pillow,
)
from clipsieve.clip.preprocess import Preprocess

PREPROCESS = Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3, "bicubic", "shortest")


def pictures():
    """Photographs that scikit-image has in its package."""
    names = ("astronaut", "coffee", "chelsea", "rocket")
    return [Image.fromarray(getattr(skimage.data, name)()) for name in names]


def encoded(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def hash_of(data, preprocess=PREPROCESS):
    decoded = decode_image(data, preprocess)
    assert isinstance(decoded, DecodedImage)
    return decoded.phash


def apart(one, other):
    return (one ^ other).bit_count()


def naive_coefficients(grey):
    """The 64 lowest frequencies, by the sum of the definition."""
    found = np.empty((8, 8))
    for u in range(8):
        for v in range(8):
            found[u, v] = sum(
                grey[y, x]
                * math.cos(math.pi * (2 * y + 1) * u / 64)
                * math.cos(math.pi * (2 * x + 1) * v / 64)
                for y in range(32)
                for x in range(32)
            )
    return found.ravel()


def bits(number):
    return np.array([c == "1" for c in f"{number:064b}"])


@pytest.mark.parametrize("seed", range(3))
def test_bits_are_the_coefficients_above_the_median(seed):
    grey = np.random.default_rng(seed).integers(0, 256, (32, 32))
    coefficients = naive_coefficients(grey)
    assert bits(hash_of_grey(grey)).tolist() == (coefficients > np.median(coefficients)).tolist()


@pytest.mark.parametrize("image", pictures())
def test_a_photograph_has_the_hash_of_the_definition(image):
    """Resized by Pillow in float, grey after that; bits near the median may differ."""
    colours = np.asarray(image, np.float32)
    channels = [Image.fromarray(colours[..., channel]) for channel in range(3)]
    small = [
        np.asarray(channel.resize((32, 32), Image.Resampling.BILINEAR)) for channel in channels
    ]
    coefficients = naive_coefficients(np.tensordot([0.299, 0.587, 0.114], np.stack(small), 1))
    distance = np.abs(coefficients - np.median(coefficients))
    sure = distance > 1.5 * 32  # errors of 1.5 grey levels in every pixel, of any sign
    assert sure.sum() > 40
    got = bits(perceptual_hash(torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)))
    assert (got == (coefficients > np.median(coefficients)))[sure].all()


@pytest.mark.parametrize("image", pictures())
def test_near_copies_differ_in_few_bits(image):
    first = hash_of(encoded(image, quality=90))
    assert hash_of(encoded(image, quality=90)) == first
    assert apart(hash_of(encoded(image, quality=40)), first) <= 4
    for scale in (0.5, 0.9, 1.3):
        size = (round(image.width * scale), round(image.height * scale))
        smaller = image.resize(size, Image.Resampling.BICUBIC)
        assert apart(hash_of(encoded(smaller, quality=85)), first) <= 4
    for kind in ("PNG", "WEBP", "BMP"):
        assert apart(hash_of(encoded(image, kind)), first) <= 4
    brighter = image.point(lambda level: min(255, level + 10))
    assert apart(hash_of(encoded(brighter, quality=90)), first) <= 6


def test_other_pictures_are_far():
    hashes = [hash_of(encoded(image, quality=90)) for image in pictures()]
    distances = [apart(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(distances) > 12


def test_the_hash_does_not_depend_on_the_model():
    data = encoded(pictures()[0], quality=90)
    other = Preprocess((56, 56), (0.1,) * 3, (0.2,) * 3, "bilinear", "squash")
    assert hash_of(data, other) == hash_of(data)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_pictures_of_all_modes_have_a_hash(mode):
    image = pictures()[1]
    kind = "TIFF" if mode == "CMYK" else "PNG"
    found = hash_of(encoded(image.convert(mode), kind))
    assert apart(found, hash_of(encoded(image, "PNG"))) <= 10


def test_a_palette_with_transparency_does_not_warn():
    image = pictures()[2].quantize(16)
    data = encoded(image, "PNG", transparency=bytes(range(16)))
    assert apart(hash_of(data), hash_of(encoded(pictures()[2], "PNG"))) <= 10


@pytest.mark.parametrize("level", [0, 1, 37, 255])
def test_pictures_of_one_colour_have_one_hash(level):
    flat = torch.full((3, 40, 50), level, dtype=torch.uint8)
    assert perceptual_hash(flat) == (1 << 63 if level else 0)


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1), (31, 33), (3000, 7)])
def test_both_routes_agree_at_any_size(size):
    height, width = size
    noise = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    one = perceptual_hash(torch.from_numpy(noise).permute(2, 0, 1))
    assert apart(one, perceptual_hash_pillow(Image.fromarray(noise))) <= 4


def test_failures_have_no_hash():
    assert not hasattr(decode_image(b"no picture", PREPROCESS), "phash")
