"""Picture files in the formats and states of repair that a crawl brings home."""

import io

import numpy as np
from PIL import Image

ERROR_PAGE = (
    b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head>"
    b"<body><h1>Not Found</h1></body></html>\n"
)
_ORIENTATION = 0x0112  # EXIF tag
_TURN_CLOCKWISE = 6  # viewers show the stored picture turned 90 degrees clockwise


def _saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    """A JPEG of an RGB, L or CMYK image in its own mode."""
    return _saved(image, "JPEG", quality=quality)


def png_16_bit(image: Image.Image) -> bytes:
    """A grayscale PNG with 16 bits a pixel."""
    gray = np.asarray(image.convert("L"), np.uint16) * np.uint16(257)
    return _saved(Image.fromarray(gray), "PNG")


def palette_png(image: Image.Image) -> bytes:
    """A PNG of 64 indexed colours."""
    return _saved(image.quantize(64), "PNG")


def rgba_png(image: Image.Image) -> bytes:
    """A PNG whose corners fade to transparent."""
    opacity = Image.radial_gradient("L").point(lambda distance: 255 - distance)
    faded = image.copy()
    faded.putalpha(opacity.resize(image.size))
    return _saved(faded, "PNG")


def exif_rotated_jpeg(image: Image.Image, quality: int = 90) -> bytes:
    """A JPEG stored lying on its side, with the EXIF orientation that sets it upright."""
    exif = Image.Exif()
    exif[_ORIENTATION] = _TURN_CLOCKWISE
    lying = image.transpose(Image.Transpose.ROTATE_90)
    return _saved(lying, "JPEG", quality=quality, exif=exif)


def animated_gif(image: Image.Image) -> bytes:
    """A GIF of three frames that darken; the first is the image."""
    frames = [image.point(lambda value, shown=shown: value * shown // 4) for shown in (4, 3, 2)]
    return _saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=200, loop=0)


def webp(image: Image.Image) -> bytes:
    """A lossy WebP."""
    return _saved(image, "WEBP", quality=85)


def one_pixel_gif() -> bytes:
    """A tracking pixel: 1 x 1, white."""
    return _saved(Image.new("RGB", (1, 1), (255, 255, 255)), "GIF")


def truncated(file: bytes, share: float) -> bytes:
    """The beginning of a file: `share` in (0, 1) of its bytes."""
    return file[: int(len(file) * share)]


def random_bytes(rng: np.random.Generator, length: int) -> bytes:
    """Bytes that are no picture; the first is 0, which begins no known format."""
    return b"\0" + rng.bytes(length - 1)
