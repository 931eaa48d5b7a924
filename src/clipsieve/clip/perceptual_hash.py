"""The 64-bit perceptual hash of a picture: the signs of its low frequencies.

The hash known as pHash, with the bits of `imagehash.phash` (whose filter is another): the whole
picture is resized to 32 x 32 pixels with an antialiased bilinear filter and made grey (ITU-R 601
luma); of the type-II DCT of rows and columns the 8 x 8 lowest frequencies are kept; bit i says
whether coefficient i, row by row, is above the median of the 64.  The first coefficient is the most
significant bit.

Pictures that differ in compression, size or brightness agree in all but a few bits; two unrelated
ones differ in 32 on average.  A picture of one colour has no frequency above 0: all of them have
one hash, only that of black is 0.

The cosines are rounded to multiples of 2**-16, so that every sum is a whole number below 2**53: it
is exact in float64 whatever its order, and equal pixels have equal hashes on every machine.
"""

import numpy as np
import torch
from PIL import Image

#: Side of the grey picture that is transformed, and of the square of frequencies that is kept.
SIDE, FREQUENCIES = 32, 8

_ANGLES = np.pi / (2 * SIDE) * np.outer(np.arange(FREQUENCIES), 2 * np.arange(SIDE) + 1)
_COSINES = np.rint(np.cos(_ANGLES) * (1 << 16))
#: Luma of red, green and blue in 2**-16, as Pillow has it.
_LUMA = np.array([19_595, 38_470, 7_471], dtype=np.int64)


def perceptual_hash(pixels: torch.Tensor) -> int:
    """Return the hash of a decoded picture; runs on the calling thread only.

    Args:
      pixels: (3, H, W) uint8 on the CPU, RGB, H and W at least 1.  Memory of shape (H, W, 3), as
        decoders write it, is fastest.

    Returns:
      The hash, in [0, 2**64).
    """
    small = torch.nn.functional.interpolate(
        pixels[None], (SIDE, SIDE), mode="bilinear", antialias=True
    )
    return hash_of_grey(_grey(small[0].numpy().transpose(1, 2, 0)))


def perceptual_hash_pillow(image: Image.Image) -> int:
    """Return the hash of a Pillow picture of any mode that converts to RGB; alpha is dropped.

    The 32 x 32 pixels are within one grey level of those of `perceptual_hash`.
    """
    # Pillow warns about a palette with alpha bytes when it drops them; it drops them anyway.
    image.info.pop("transparency", None)
    colours = image if image.mode == "RGB" else image.convert("RGB")
    small = colours.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return hash_of_grey(_grey(np.asarray(small)))


def hash_of_grey(grey: np.ndarray) -> int:
    """Return the hash of a picture of 32 x 32 pixels.

    Args:
      grey: (32, 32) whole numbers in [0, 255].

    Returns:
      The hash, in [0, 2**64).

    >>> hex(hash_of_grey(np.full((32, 32), 7)))
    '0x8000000000000000'
    """
    coefficients = (_COSINES @ grey.astype(np.float64) @ _COSINES.T).ravel()
    ordered = np.sort(coefficients)
    above = coefficients > (ordered[31] + ordered[32]) / 2
    return int.from_bytes(np.packbits(above).tobytes(), "big")


def _grey(rgb: np.ndarray) -> np.ndarray:
    """Luma of (H, W, 3) uint8, rounded to whole numbers."""
    return np.asarray((rgb.astype(np.int64) @ _LUMA + (1 << 15)) >> 16)
