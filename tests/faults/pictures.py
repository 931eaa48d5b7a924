"""Small pictures of every format that is decoded, sound and mutated."""

import io
import random
from functools import cache

import numpy as np
from PIL import Image

from tests.faults.mutate import mutate

#: Pillow's name, mode and options of each way to write a picture.
_WAYS: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("JPEG", "RGB", {"quality": 80}),
    ("JPEG", "RGB", {"quality": 60, "progressive": True}),
    ("JPEG", "L", {}),
    ("JPEG", "CMYK", {}),
    ("PNG", "RGB", {}),
    ("PNG", "RGBA", {"optimize": True}),
    ("PNG", "P", {}),
    ("PNG", "I;16", {}),
    ("WEBP", "RGB", {"quality": 60}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("GIF", "P", {}),
    ("GIF", "P", {"interlace": 1}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "RGB", {"compression": "tiff_deflate"}),
    ("TIFF", "RGB", {"compression": "jpeg"}),
    ("TIFF", "L", {}),
    ("BMP", "RGB", {}),
    ("BMP", "P", {}),
)


@cache
def sound() -> tuple[bytes, ...]:
    """Pictures of every way, three of each, and animations."""
    rng = np.random.default_rng(0)
    found = []
    for format_, mode, options in _WAYS:
        for side in (9, 32, 47):
            pixels = rng.integers(0, 256, (side // 3 + 1, side // 2 + 1, 3), np.uint8)
            picture = Image.fromarray(pixels).resize((side, side * 2 // 3))
            if mode == "I;16":
                gray = np.asarray(picture.convert("L")).astype(np.uint16) * 257
                picture = Image.fromarray(gray)
            else:
                picture = picture.convert(mode)
            found.append(_encoded(picture, format_, options))
    frames = [Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)) for _ in range(3)]
    for format_ in ("GIF", "WEBP", "PNG", "TIFF"):
        options = {"save_all": True, "append_images": frames[1:]}
        found.append(_encoded(frames[0], format_, options))
    return tuple(found)


def mutated(rng: random.Random) -> bytes:
    """Return one of them, damaged; in some cases the head of one and the tail of another."""
    first = rng.choice(sound())
    if rng.random() < 0.1:
        second = rng.choice(sound())
        return first[: rng.randrange(len(first))] + second[rng.randrange(len(second)) :]
    return mutate(first, rng)


def _encoded(picture: Image.Image, format_: str, options: dict[str, object]) -> bytes:
    file = io.BytesIO()
    picture.save(file, format_, **options)
    return file.getvalue()
