"""Picture files in the formats and states of repair that a crawl brings home."""

import io

import numpy as np
from PIL import Image

ERROR_PAGE = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body></body></html>\n"
_ORIENTATION = 0x0112  # EXIF tag
_ROTATE_ON_DISPLAY = 6  # viewers turn the stored picture by 90 degrees clockwise


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    """A baseline JPEG of an RGB, L or CMYK image."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()
