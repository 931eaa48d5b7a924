"""Photo-like pictures with web-like captions: data whose only purpose is to measure speed.

What costs time in real data is alike here: 256 to 640 pixels a side, JPEGs of 20 to 60 kB with
detail at every scale, and captions of about ten words with a long tail.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from clipsieve.demo import encodings, noise
from clipsieve.demo.classes import NOUNS, SIGN_WORDS
from clipsieve.demo.draws import choose, coin
from clipsieve.demo.palette import PALETTE
from clipsieve.demo.records import Record, uid_of, url_of
from clipsieve.demo.samples import record_rng
from clipsieve.demo.scenes import to_image

SIDES = (256, 640)  #: least and greatest side in pixels
_COARSEST = 5  # cells along each side of the first octave
_OCTAVES = 8

SYLLABLES = (
    "an be cor da el fi gra ha in jo ka lu mer no or pe qui ro sa ter un va wil xen yo zan".split()
)
COMMON_WORDS = (
    "the of and for in a with to on by from at new your is free home black white photo best "
    "image vintage women men set size stock day house design color style vector art how top "
    "2019 world girl wedding wall small road summer old beautiful woman street people night "
    "blue red green food party window dress car water city kids large garden room"
).split()
_WORDS = (
    *COMMON_WORDS,
    *noise.KEYWORDS,
    *PALETTE,
    *SIGN_WORDS,
    *(noun for nouns in NOUNS.values() for noun in nouns),
)
_RANKS = np.arange(1, len(_WORDS) + 1)
_CUMULATED = np.cumsum(1 / _RANKS) / np.sum(1 / _RANKS)  # Zipf's law


def photo_like(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A picture with the statistics of a photograph, though it shows nothing.

    Noise is added at eight scales from coarse to fine, each about two thirds the amplitude of
    the one before, which gives the falling spectrum of natural pictures; shifted polygons give
    it edges.

    Args:
      rng: source of everything in the picture.
      width: pixels, at least 16.
      height: pixels, at least 16.

    Returns:
      RGB.
    """
    canvas = np.full((_COARSEST, _COARSEST, 3), rng.uniform(90, 160, 3), np.float32)
    amplitude = np.float32(rng.uniform(45, 70))
    detail = np.float32(rng.uniform(0.62, 0.72))
    for octave, share in enumerate(np.linspace(0.0, 1.0, _OCTAVES)):
        size = tuple(round(_COARSEST * (side / _COARSEST) ** share) for side in (width, height))
        canvas = _resized(canvas, (size[0], size[1]))
        tint = rng.uniform(0.6, 1.0, 3).astype(np.float32)
        grain = rng.standard_normal((*canvas.shape[:2], 1), dtype=np.float32)
        canvas += grain * tint * amplitude
        amplitude *= detail
        if octave == _OCTAVES - 2:
            canvas = _with_shapes(rng, canvas)
    return to_image(canvas)


def _resized(canvas: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    planes = [
        Image.fromarray(canvas[..., channel]).resize(size, Image.Resampling.BILINEAR)
        for channel in range(3)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def _with_shapes(rng: np.random.Generator, canvas: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = canvas.shape[:2]
    mask = Image.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    count = int(rng.integers(3, 9))
    for value in range(1, count + 1):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        reach = rng.uniform(0.08, 0.3) * min(width, height)
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
        corners = np.column_stack([x + reach * np.cos(angles), y + reach * np.sin(angles)])
        draw.polygon(corners.ravel().tolist(), fill=value)
    offsets = rng.uniform(-90, 90, (count + 1, 3)).astype(np.float32)
    offsets[0] = 0
    return np.asarray(canvas + offsets[np.asarray(mask)], np.float32)


def web_caption(rng: np.random.Generator) -> str:
    """A caption of about ten words (median), one to seventy, in which few words are frequent."""
    length = int(np.clip(np.rint(np.exp(rng.normal(np.log(10), 0.65))), 1, 70))
    words = [_WORDS[rank] for rank in np.searchsorted(_CUMULATED, rng.random(length))]
    for position in range(length):
        if coin(rng, 0.12):
            words[position] = "".join(choose(rng, SYLLABLES) for _ in range(3)).title()
        elif coin(rng, 0.05):
            words[position] = str(rng.integers(1, 3000))
    caption = " ".join(words)
    return caption[:1].upper() + caption[1:] + choose(rng, ("", "", "", ".", " - Photo", " | Shop"))


def make_photo_record(seed: int, index: int) -> Record:
    """A photo-like JPEG with a web-like caption; equal arguments give equal bytes."""
    rng = record_rng(seed, index)
    width, height = (int(side) for side in rng.integers(SIDES[0], SIDES[1] + 1, 2))
    file = encodings.jpeg(photo_like(rng, width, height), quality=int(rng.integers(72, 90)))
    return Record(uid_of(seed, index), url_of(seed, index), web_caption(rng), file)
