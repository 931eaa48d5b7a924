"""Decoding, against open_clip's Pillow path on real pictures; and what hostile bytes become."""

import io
import os
import random
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import open_clip
import PIL
import pytest
import simplejpeg
import skimage
import sklearn.datasets
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image, ImageFile, features

from clipsieve.clip.decode import (
    DecodedImage,
    ImageLimits,
    decode_image,
    decode_pool_initializer,
    decoder_description,
)
from clipsieve.clip.image_format import jpeg_scan_count
from clipsieve.clip.preprocess import Preprocess, normalize
from clipsieve.errors import UsageError
from clipsieve.schemas.states import RowFailure, RowState

CONFIG = PreprocessCfg(size=224)
PREPROCESS = Preprocess.from_config(asdict(CONFIG))
SMALL = Preprocess.from_config(asdict(PreprocessCfg(size=32)))

SKIMAGE = Path(skimage.__file__).parent / "data"
SKLEARN = Path(sklearn.datasets.__file__).parent / "images"
PHOTOGRAPHS = (
    SKLEARN / "china.jpg",
    SKLEARN / "flower.jpg",
    SKIMAGE / "astronaut.png",
    SKIMAGE / "chelsea.png",
    SKIMAGE / "coffee.png",
    SKIMAGE / "hubble_deep_field.jpg",
    SKIMAGE / "ihc.png",
    SKIMAGE / "motorcycle_left.png",
    SKIMAGE / "motorcycle_right.png",
    SKIMAGE / "retina.jpg",
    SKIMAGE / "rocket.jpg",
    SKIMAGE / "camera.png",
)
#: Longest side, shortest side, quality: the range of web datasets, and odd shapes.
SHAPES = ((640, 480, 85), (512, 341, 95), (384, 256, 75), (256, 256, 90), (600, 97, 80))


@cache
def photograph(index: int = 0) -> Image.Image:
    with Image.open(PHOTOGRAPHS[index]) as image:
        return image.convert("RGB")


@cache
def jpeg(
    index: int = 0, width: int = 320, height: int = 213, quality: int = 90, **options
) -> bytes:
    return encode(photograph(index).resize((width, height)), "JPEG", quality=quality, **options)


def encode(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def open_clip_input(data: bytes, cfg: PreprocessCfg = CONFIG) -> torch.Tensor:
    """(3, h, w) float32: what open_clip feeds the model."""
    with Image.open(io.BytesIO(data)) as image:
        return image_transform_v2(cfg, is_train=False)(image)


def open_clip_pixels(data: bytes, cfg: PreprocessCfg = CONFIG) -> torch.Tensor:
    """(3, h, w) uint8: the same before ToTensor."""
    with Image.open(io.BytesIO(data)) as image:
        for step in image_transform_v2(cfg, is_train=False).transforms[:-2]:
            image = step(image)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def decoded(data: bytes, preprocess: Preprocess = PREPROCESS, **options) -> DecodedImage:
    result = decode_image(data, preprocess, **options)
    assert isinstance(result, DecodedImage), result
    assert result.pixels.shape == (3, *preprocess.size)
    assert result.pixels.dtype == torch.uint8
    return result


def failure(data: bytes, state: RowState, **options) -> str:
    result = decode_image(data, SMALL, **options)
    assert isinstance(result, RowFailure), "decoded"
    assert result.state is state, result
    assert "\n" not in result.error
    return result.error


class TestJpegAgainstOpenClip:
    @pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
    @pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
    def test_photographs_are_within_two_grey_levels(self, resize_mode, interpolation):
        cfg = PreprocessCfg(size=224, resize_mode=resize_mode, interpolation=interpolation)
        wanted = Preprocess.from_config(asdict(cfg))
        for index in range(len(PHOTOGRAPHS)):
            long, short, quality = SHAPES[index % len(SHAPES)]
            width, height = (long, short) if index % 2 else (short, long)
            data = jpeg(index, width, height, quality)
            result = decoded(data, wanted)
            assert (result.width, result.height) == (width, height)
            difference = (result.pixels.int() - open_clip_pixels(data, cfg).int()).abs()
            # Weights are rounded to 16 bits and each pass to 8; bicubic overshoots, bilinear not.
            assert difference.max() <= (2 if interpolation == "bicubic" else 1)
            assert difference.float().mean() < 0.02

    @pytest.mark.parametrize(
        ("width", "height"), [(100, 75), (40, 224), (9, 7), (1, 1), (1000, 3), (3, 1000), (1, 500)]
    )
    def test_small_and_extreme_pictures_are_within_two_grey_levels(self, width, height):
        data = jpeg(0, width, height)
        difference = (decoded(data).pixels.int() - open_clip_pixels(data).int()).abs()
        assert difference.max() <= 2

    @pytest.mark.parametrize(
        "options",
        [
            {"progressive": True},
            {"subsampling": "4:4:4"},
            {"subsampling": "4:2:2"},
            {"restart_marker_blocks": 4},
            {"keep_rgb": True},
        ],
        ids=str,
    )
    def test_kinds_of_jpeg(self, options):
        data = encode(photograph().resize((300, 200)), "JPEG", **options)
        difference = (decoded(data).pixels.int() - open_clip_pixels(data).int()).abs()
        assert difference.max() <= 2

    def test_grayscale_jpeg_is_three_equal_channels(self):
        data = encode(photograph().resize((300, 200)).convert("L"), "JPEG")
        pixels = decoded(data).pixels
        assert torch.equal(pixels[0], pixels[1])
        assert torch.equal(pixels[0], pixels[2])
        assert (pixels.int() - open_clip_pixels(data).int()).abs().max() <= 1

    def test_exif_orientation_is_not_applied_as_in_open_clip(self):
        exif = Image.Exif()
        exif[0x0112] = 6  # rotate by 90 degrees
        image = photograph().resize((300, 200))
        result = decoded(encode(image, "JPEG", exif=exif))
        assert (result.width, result.height) == (300, 200)
        assert torch.equal(result.pixels, decoded(encode(image, "JPEG")).pixels)

    def test_tiff_orientation_is_applied_as_in_open_clip(self):
        data = encode(photograph().resize((90, 60)), "TIFF", tiffinfo={274: 6})
        assert torch.equal(decoded(data).pixels, open_clip_pixels(data))

    def test_embeddings_agree_with_the_pillow_path(self):
        torch.manual_seed(0)
        model = open_clip.create_model("ViT-B-32", pretrained=None).eval()
        files = [
            jpeg(index, *SHAPES[index % 4][:2], SHAPES[index % 4][2])
            for index in range(len(PHOTOGRAPHS))
        ]
        ours = normalize(
            torch.stack([decoded(data).pixels for data in files]), PREPROCESS, torch.float32
        )
        theirs = torch.stack([open_clip_input(data) for data in files])
        with torch.inference_mode():
            a, b = (model.encode_image(batch, normalize=True).double() for batch in (ours, theirs))
        assert (a * b).sum(1).min() >= 0.9995


def gray_16_bit(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    image.putalpha(image.convert("L"))
    return image


def with_palette_alpha(image: Image.Image) -> bytes:
    return encode(image.quantize(16), "PNG", transparency=bytes(range(16)))


def animation(format: str, **options) -> bytes:
    frames = [photograph(index).resize((90, 60)) for index in range(3)]
    return encode(frames[0], format, save_all=True, append_images=frames[1:], **options)


OTHER_FILES = {
    "png": lambda image: encode(image, "PNG"),
    "png_gray": lambda image: encode(image.convert("L"), "PNG"),
    "png_gray_alpha": lambda image: encode(with_alpha(image).convert("LA"), "PNG"),
    "png_alpha": lambda image: encode(with_alpha(image), "PNG"),
    "png_16_bit": lambda image: encode(gray_16_bit(image), "PNG"),
    "png_palette": lambda image: encode(image.quantize(32), "PNG"),
    "png_palette_alpha": with_palette_alpha,
    "png_palette_one_transparent": lambda image: encode(image.quantize(32), "PNG", transparency=3),
    "png_rgb_transparent": lambda image: encode(image, "PNG", transparency=(0, 0, 0)),
    "png_one_bit": lambda image: encode(image.convert("1"), "PNG"),
    "apng": lambda image: animation("PNG"),
    "gif": lambda image: encode(image, "GIF"),
    "gif_animated": lambda image: animation("GIF"),
    "webp": lambda image: encode(image, "WEBP"),
    "webp_lossless_alpha": lambda image: encode(with_alpha(image), "WEBP", lossless=True),
    "webp_animated": lambda image: animation("WEBP"),
    "bmp": lambda image: encode(image, "BMP"),
    "bmp_palette": lambda image: encode(image.convert("P"), "BMP"),
    "tiff": lambda image: encode(image, "TIFF"),
    "tiff_lzw": lambda image: encode(image, "TIFF", compression="tiff_lzw"),
    "tiff_cmyk": lambda image: encode(image.convert("CMYK"), "TIFF"),
    "tiff_float": lambda image: encode(image.convert("F"), "TIFF"),
    "tiff_32_bit": lambda image: encode(image.convert("I"), "TIFF"),
    "jpeg_cmyk": lambda image: encode(image.convert("CMYK"), "JPEG"),
}
OTHER_FILES["tiff_striped"] = lambda image: encode(image, "TIFF", strip_size=1)
if features.check("avif"):
    OTHER_FILES["avif"] = lambda image: encode(image, "AVIF")


class TestOtherFormatsAgainstOpenClip:
    @pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
    @pytest.mark.parametrize("kind", OTHER_FILES)
    def test_model_input_is_equal(self, kind, resize_mode, recwarn):
        cfg = PreprocessCfg(size=(56, 56), resize_mode=resize_mode, fill_color=5)
        wanted = Preprocess.from_config(asdict(cfg))
        data = OTHER_FILES[kind](photograph().resize((90, 60)))
        result = decoded(data, wanted)
        assert not recwarn.list
        assert (result.width, result.height) == (90, 60)
        expected = open_clip_input_quietly(data, cfg)
        assert torch.equal(normalize(result.pixels[None], wanted, torch.float32)[0], expected)

    @pytest.mark.parametrize("name", ["no_time_for_that_tiny.gif", "multipage.tif", "page.png"])
    def test_real_files_are_equal(self, name):
        data = (SKIMAGE / name).read_bytes()
        result = decoded(data)
        expected = open_clip_input(data)
        assert torch.equal(normalize(result.pixels[None], PREPROCESS, torch.float32)[0], expected)


def open_clip_input_quietly(data: bytes, cfg: PreprocessCfg) -> torch.Tensor:
    """The reference warns about palettes with alpha; ours must not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return open_clip_input(data, cfg)


class TestDamage:
    @pytest.mark.parametrize("progressive", [False, True])
    @pytest.mark.parametrize(
        "keep", ["no_end_marker", "one_byte", "last_percent", "half", "header"]
    )
    def test_truncated_jpeg(self, keep, progressive):
        data = jpeg(progressive=progressive)
        size = {
            "no_end_marker": len(data) - 2,
            "one_byte": len(data) - 1,
            "last_percent": len(data) * 99 // 100,
            "half": len(data) // 2,
            "header": 200,
        }[keep]
        assert failure(data[:size], RowState.DECODE_ERROR).startswith("damaged JPEG: ")

    @pytest.mark.parametrize("format", ["PNG", "GIF", "WEBP", "BMP", "TIFF"])
    def test_truncated_others(self, format):
        data = encode(photograph().resize((90, 60)), format)
        assert "damaged" in failure(data[: len(data) // 2], RowState.DECODE_ERROR)

    @pytest.mark.parametrize("trailer", [b"\0" * 1000, b"trailing garbage", b"\xff\xd9" * 3])
    def test_bytes_after_the_end_do_no_harm(self, trailer):
        for data in (jpeg(), encode(photograph().resize((90, 60)), "PNG")):
            assert torch.equal(decoded(data + trailer).pixels, decoded(data).pixels)

    def test_extraneous_bytes_that_pillow_accepts_do_no_harm(self):
        data = jpeg()[:-2] + b"\x11\x22\x33" + jpeg()[-2:]
        with pytest.raises(ValueError, match="extraneous"):
            simplejpeg.decode_jpeg(data)
        assert (decoded(data).pixels.int() - decoded(jpeg()).pixels.int()).abs().max() <= 1
        assert torch.equal(decoded(data).pixels, open_clip_pixels(data))

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"", "zero bytes"),
            (b"\0" * 500, "500 zero-valued bytes"),
            (b"<!DOCTYPE html>\n<html>404</html>", "looks like an HTML page, starts with '<!DOC"),
            (b"\xef\xbb\xbf  <html><svg></svg>", "looks like an HTML page"),
            (b'{"error": "gone"}', 'looks like JSON, starts with \'{"error"'),
            (b"Not Found", "looks like text, starts with 'Not Found'"),
            (b"\x1f\x8b\x08\0\0\0", "gzip"),
            (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "video"),
            (random.Random(0).randbytes(1000), "unknown format, starts with '"),
            (b"BMW is a car maker", "damaged BMP"),
            (b"\xff\xd8\xff", "damaged JPEG"),
            (b"GIF89a", "damaged GIF"),
            (b"RIFF\0\0\0\0WEBP", "damaged WebP"),
        ],
    )
    def test_what_is_no_picture_is_named(self, data, words):
        assert words in failure(data, RowState.DECODE_ERROR)

    @pytest.mark.parametrize(
        ("data", "name"),
        [
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
            (b"<?xml version='1.0'?>\n<!-- x -->\n<svg/>", "SVG"),
            (b"%PDF-1.7\n", "PDF"),
            (b"8BPS\0\1", "PSD"),
            (b"\0\0\1\0\1\0", "ICO"),
            (b"P6\n2 2\n255\n", "PNM"),
            (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
            (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
            (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
        ],
    )
    def test_pictures_outside_the_allow_list_are_named(self, data, name):
        error = failure(data, RowState.UNSUPPORTED_FORMAT)
        assert error.startswith(f"picture format {name} is not supported, only JPEG, PNG")

    def test_truncated_images_stay_refused(self):
        assert ImageFile.LOAD_TRUNCATED_IMAGES is False

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
    def test_mutated_files_never_raise(self, format, capfd):
        """2,400 mutations in all; most become decode errors, some still decode."""
        generator = random.Random(format)
        image = photograph().resize((64, 48))
        files = [encode(image, format)]
        if format == "JPEG":
            files.append(encode(image, format, progressive=True))
        if format in ("PNG", "GIF", "WEBP"):
            files.append(animation(format))
        started = time.monotonic()
        states = set()
        for turn in range(400):
            data = mutate(bytearray(files[turn % len(files)]), generator)
            result = decode_image(data, SMALL)
            if isinstance(result, DecodedImage):
                assert result.pixels.shape == (3, 32, 32)
                states.add(RowState.OK)
            else:
                assert result.error
                states.add(result.state)
        assert time.monotonic() - started < 20
        assert RowState.DECODE_ERROR in states
        assert capfd.readouterr() == ("", "")


def mutate(data: bytearray, generator: random.Random) -> bytes:
    """One to eight random changes: bytes, bits, cuts, insertions, repeats."""
    for _ in range(generator.randint(1, 8)):
        # Half of all changes hit the first 200 bytes, where the headers are.
        end = min(len(data), 200) if generator.random() < 0.5 else len(data)
        at = generator.randrange(end)
        match generator.randrange(6):
            case 0:
                data[at] = generator.randrange(256)
            case 1:
                data[at] ^= 1 << generator.randrange(8)
            case 2:
                del data[at : at + generator.randint(1, 20)]
            case 3:
                data[at:at] = generator.randbytes(generator.randint(1, 20))
            case 4:
                data[at : at + 4] = generator.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"])
            case 5:
                del data[len(data) - generator.randrange(len(data) // 2) :]
        if not data:
            return b""
    return bytes(data)


def png_chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def png(width: int, height: int, *extra: bytes) -> bytes:
    """A gray PNG of that size in its header, with hardly any pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + pixels + png_chunk(b"IEND", b"")


def gif(screen: tuple[int, int], frame: tuple[int, int]) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + bytes(6)
    return head + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x44\x01\0;"


def webp_header(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + size
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg_with_size(width: int, height: int) -> bytes:
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def tiff_with_size(width: int, height: int) -> bytes:
    data = encode(Image.new("L", (1001, 1003)), "TIFF")
    for tag, old, new in ((256, 1001, width), (257, 1003, height)):
        entry = struct.pack("<HHII", tag, 4, 1, old)
        assert entry in data
        data = data.replace(entry, struct.pack("<HHII", tag, 4, 1, new))
    return data


TOO_LARGE = {
    "png_side": png(50_000, 1),
    "png_pixels": png(16_000, 16_000),
    "png_bomb": png(2**31 - 1, 2**31 - 1),
    "gif_screen": gif((65_535, 65_535), (1, 1)),
    "gif_frame": gif((1, 1), (65_535, 65_535)),
    "gif_pillow_warns": gif((1, 1), (10_000, 10_000)),
    "webp": webp_header(1 << 14, 1 << 14),
    "jpeg": jpeg_with_size(65_000, 65_000),
    "tiff": tiff_with_size(100_000, 100_000),
    "bmp": b"BM" + struct.pack("<IIIIiiHHIIIIII", 70, 0, 54, 40, 60_000, 60_000, 1, 24, *[0] * 6),
}


def directory(tags: int, payload: int, offset: int) -> bytes:
    """A TIFF directory of `tags` values of `payload` bytes each, all at `offset`."""
    entries = (struct.pack("<HHII", 1000 + tag, 7, payload, offset) for tag in range(tags))
    return struct.pack("<H", tags) + b"".join(entries) + bytes(4)


def tiff_bomb() -> bytes:
    return b"II*\0" + struct.pack("<I", 8) + directory(2000, 1 << 19, 8) + bytes(1 << 19)


def big_tiff_bomb() -> bytes:
    entries = (struct.pack("<HHQQ", 1000 + tag, 7, 1 << 19, 8) for tag in range(2000))
    head = b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 2000)
    return head + b"".join(entries) + bytes(8) + bytes(1 << 19)


def tiff_sub_directory_bomb() -> bytes:
    """A sound picture whose EXIF directory, read after the pixels, is the bomb."""
    data = bytearray(encode(photograph().resize((40, 30)), "TIFF", tiffinfo={305: "x" * 50}))
    at = data.index(struct.pack("<HHI", 305, 2, 51))
    data[at : at + 12] = struct.pack("<HHII", 0x8769, 4, 1, len(data))
    return bytes(data) + directory(2000, 1 << 19, 8) + bytes(1 << 19)


def jpeg_exif_bomb() -> bytes:
    """Through Pillow, because of the extraneous bytes; EXIF in eleven segments, no JFIF."""
    exif = tiff_bomb()
    segments = b"".join(
        b"\xff\xe1" + struct.pack(">H", len(part) + 8) + b"Exif\0\0" + part
        for part in (exif[at : at + 60_000] for at in range(0, len(exif), 60_000))
    )
    data = jpeg()
    assert data[2:4] == b"\xff\xe0"
    after = 4 + int.from_bytes(data[4:6], "big")
    return data[:2] + segments + data[after:-2] + b"\x11\x22\x33" + data[-2:]


METADATA_BOMBS = {
    "tiff": tiff_bomb,
    "big_tiff": big_tiff_bomb,
    "tiff_sub_directory": tiff_sub_directory_bomb,
    "jpeg": jpeg_exif_bomb,
}


class TestLimits:
    @pytest.mark.parametrize("kind", TOO_LARGE)
    def test_large_pictures_are_refused_from_the_header(self, kind):
        tracemalloc.start()
        started = time.monotonic()
        try:
            error = failure(TOO_LARGE[kind], RowState.IMAGE_TOO_LARGE)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        elapsed = time.monotonic() - started
        assert elapsed < 1
        assert peak < 1 << 20
        assert " pixels, the " in error

    def test_the_numbers_are_in_the_error(self):
        assert failure(png(50_000, 7), RowState.IMAGE_TOO_LARGE) == (
            "50,000 x 7 pixels, the longest side is 16,384"
        )
        assert failure(png(10_000, 10_000), RowState.IMAGE_TOO_LARGE) == (
            "10,000 x 10,000 pixels, the limit is 89,478,485"
        )
        assert failure(b"x" * 11, RowState.IMAGE_TOO_LARGE, limits=ImageLimits(max_bytes=10)) == (
            "11 bytes, the limit is 10"
        )

    @pytest.mark.parametrize("kind", ["tiff", "tiff_sub_directory", "big_tiff", "jpeg"])
    def test_metadata_that_names_the_same_bytes_again_and_again_is_bounded(self, kind):
        """Pillow alone copies them for each of thousands of tags: gigabytes."""
        data = METADATA_BOMBS[kind]()
        started = time.monotonic()
        tracemalloc.start()
        try:
            result = decode_image(data, SMALL)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        if kind == "jpeg":  # its pixels need no metadata
            assert isinstance(result, DecodedImage)
        else:
            assert isinstance(result, RowFailure)
            assert "metadata values overlap" in result.error
        assert peak < 20 * len(data) + (4 << 20)
        assert time.monotonic() - started < 5

    def test_limits_are_inclusive(self):
        data = encode(photograph().resize((40, 30)), "PNG")
        exact = ImageLimits(max_bytes=len(data), max_side=40, max_pixels=1200)
        decoded(data, SMALL, limits=exact)
        for tight in (
            ImageLimits(max_bytes=len(data) - 1),
            ImageLimits(max_side=39),
            ImageLimits(max_pixels=1199),
        ):
            failure(data, RowState.IMAGE_TOO_LARGE, limits=tight)
            failure(jpeg(), RowState.IMAGE_TOO_LARGE, limits=tight)

    def test_headers_that_lie_are_damage(self):
        for data in (png(1000, 1000), gif((900, 900), (800, 800))):
            assert "damaged" in failure(data, RowState.DECODE_ERROR)

    @pytest.mark.parametrize(("width", "height"), [(600, 600), (40, 30)])
    def test_a_jpeg_header_that_lies_gives_what_pillow_makes_of_it(self, width, height):
        """Pillow, and so open_clip, accepts both: the rest is gray, or is not read."""
        data = jpeg_with_size(width, height)
        difference = (decoded(data).pixels.int() - open_clip_pixels(data).int()).abs()
        assert difference.max() <= 2

    def test_jpeg_scans_are_limited(self):
        data = jpeg(progressive=True)
        decoded(data)
        last = data.rindex(b"\xff\xda")
        bomb = data[:-2] + data[last:-2] * 600 + data[-2:]
        assert "JPEG scans, the limit is 500" in failure(bomb, RowState.IMAGE_TOO_LARGE)
        few = data[:-2] + data[last:-2] * 100 + data[-2:]
        decoded(few)
        width, height = decoded(few).width, decoded(few).height
        scans = jpeg_scan_count(few)
        exact = ImageLimits(max_scanned_pixels=scans * width * height)
        assert isinstance(decode_image(few, PREPROCESS, exact), DecodedImage)
        tight = ImageLimits(max_scanned_pixels=scans * width * height - 1)
        assert f"{scans} JPEG scans of {width} x {height} pixels, the limit is" in failure(
            few, RowState.IMAGE_TOO_LARGE, limits=tight
        )
        large = encode(Image.new("L", (5_000, 5_000)), "JPEG", progressive=True)
        last = large.rindex(b"\xff\xda")
        slow = large[:-2] + large[last:-2] * 100 + large[-2:]
        assert "the limit is 2,147,483,640 pixels" in failure(slow, RowState.IMAGE_TOO_LARGE)
        # Bytes that look like scans in metadata or after a baseline picture are not scans.
        decoded(jpeg() + b"\xff\xda" * 600)
        decoded(encode(photograph().resize((40, 30)), "JPEG", comment=b"\xff\xda" * 600))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"max_side": 0}, "max_side must be at least 1, got 0"),
            ({"max_bytes": -1}, "max_bytes must be at least 1"),
            ({"max_pixels": 100_000_000}, "at most 89,478,485"),
        ],
    )
    def test_limits_that_make_no_sense_are_refused(self, changes, message):
        with pytest.raises(UsageError, match=message):
            ImageLimits(**changes)


class TestWarnings:
    """Warnings are errors here, so a leak would be a decode error or a failure."""

    def test_metadata_of_png_and_tiff_is_not_remarked_on(self, recwarn):
        broken = encode(photograph().resize((40, 30)), "PNG")
        bad_animation = png_chunk(b"acTL", struct.pack(">II", 0, 0))
        at = broken.index(b"IDAT") - 4
        decoded(broken[:at] + bad_animation + broken[at:])

        info = {270: "description"}
        tiff = encode(photograph().resize((40, 30)), "TIFF", tiffinfo=info)
        # A count that reaches past the end of the file.
        tag = struct.pack("<HHI", 270, 2, len("description") + 1)
        assert tag in tiff
        decode_image(tiff.replace(tag, struct.pack("<HHI", 270, 2, 1 << 20)), SMALL)
        decoded(tiff.replace(struct.pack("<HHI", 262, 3, 1), struct.pack("<HHI", 262, 3, 2)), SMALL)
        assert not recwarn.list

    def test_filters_do_not_pile_up(self):
        data = encode(photograph().resize((40, 30)), "PNG")
        decoded(data)
        before = list(warnings.filters)
        decoded(data)
        assert warnings.filters == before


class TestThreads:
    def test_many_threads_give_the_same_pixels(self):
        files = [jpeg(index, 256, 256) for index in range(6)] + [
            encode(photograph(index).resize((90, 60)), "PNG") for index in range(6)
        ]
        expected = [decoded(data).pixels for data in files]
        with ThreadPoolExecutor(4, initializer=decode_pool_initializer) as pool:
            results = list(pool.map(decoded, files * 5))
        for index, result in enumerate(results):
            assert torch.equal(result.pixels, expected[index % len(files)])

    def test_the_initializer_leaves_other_threads_alone(self):
        before = torch.get_num_threads()
        with ThreadPoolExecutor(2, initializer=decode_pool_initializer) as pool:
            inside = set(pool.map(lambda _: torch.get_num_threads(), range(8)))
        later: list[int] = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert inside == {1}
        assert torch.get_num_threads() == before
        assert later == [before]

    @pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")
    def test_decoding_starts_no_threads_and_refusing_takes_no_memory(self):
        """In a process of its own: pools and memory of other tests would count."""
        code = (
            "import resource\n"
            "from tests.clip.test_decode import *\n"
            "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "def threads(): return len(os.listdir('/proc/self/task'))\n"
            "start = peak()\n"
            "for data in TOO_LARGE.values(): failure(data, RowState.IMAGE_TOO_LARGE)\n"
            "grown = peak() - start\n"
            "torch.set_num_threads(4)\n"
            "files = [jpeg(), *(encode(photograph(), name) for name in ('PNG', 'TIFF'))]\n"
            "counts = []\n"
            "def work():\n"
            "    before = threads()\n"
            "    for data in files * 3: decoded(data)\n"
            "    counts.append(threads() - before)\n"
            "thread = threading.Thread(target=work); thread.start(); thread.join()\n"
            "print(grown, counts[0])\n"
        )
        run = subprocess.run(
            [sys.executable, "-W", "error::UserWarning", "-c", code],
            capture_output=True,
            text=True,
            check=True,
        )
        grown_kib, started = map(int, run.stdout.split())
        assert grown_kib < 20_000
        assert started == 0


class TestOut:
    def test_pixels_can_land_in_a_batch(self):
        files = [jpeg(), encode(photograph(1).resize((90, 60)), "PNG"), jpeg(2, 1000, 3)]
        batch = torch.zeros(3, 224, 224, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
        for slot, data in zip(batch, files, strict=True):
            result = decoded(data, out=slot)
            assert result.pixels.data_ptr() == slot.data_ptr()
        assert torch.equal(batch, torch.stack([decoded(data).pixels for data in files]))

    def test_new_pixels_are_contiguous_and_their_own(self):
        first, second = decoded(jpeg()), decoded(jpeg())
        assert first.pixels.is_contiguous()
        assert first.pixels.data_ptr() != second.pixels.data_ptr()

    def test_a_wrong_slot_is_refused(self):
        with pytest.raises(UsageError, match=r"out must be a \(3, 224, 224\) uint8"):
            decode_image(jpeg(), PREPROCESS, out=torch.zeros(3, 224, 224))


def test_description_names_decoders_and_versions():
    description = decoder_description()
    assert description["jpeg"] == f"simplejpeg {simplejpeg.__version__} (libjpeg-turbo)"
    assert description["other"] == f"Pillow {PIL.__version__}"
    assert description["resize"] == f"torch {torch.__version__} uint8 antialiased"
