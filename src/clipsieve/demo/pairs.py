"""Decoded picture-caption pairs for training and evaluating the tiny model."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipsieve.demo.captions import Caption
from clipsieve.demo.encodings import jpeg
from clipsieve.demo.processes import spread
from clipsieve.demo.samples import Mixture, jpeg_quality, kind_of, make_sample, record_rng

MODEL_SIDE = 64  #: pixels the tiny model looks at
CHUNK = 1000


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pictures as the model sees them, with their captions and truth.

    Attributes:
      images: (N, 64, 64, 3) uint8, after a JPEG round trip like any picture from the web.
      captions: N captions, in the same order.
      class_names: N names, see `Scene.class_name`.
      colours: N colour names or None.
      single: (N,) bool, whether the picture shows exactly one of the classes.
    """

    images: NDArray[np.uint8]
    captions: list[Caption]
    class_names: list[str]
    colours: list[str | None]
    single: NDArray[np.bool_]


def model_view(image: Image.Image) -> NDArray[np.uint8]:
    """(64, 64, 3) uint8: the image resized the way the model's own preprocessing does it."""
    resized = image.convert("RGB").resize((MODEL_SIDE, MODEL_SIDE), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def _make_chunk(seed: int, start: int, stop: int, mixture: Mixture) -> Pairs:
    images, samples = [], []
    for index in range(start, stop):
        rng = record_rng(seed, index)
        sample = make_sample(seed, kind_of(seed, index, mixture), rng, mixture.scenes)
        file = jpeg(sample.scene.image, quality=jpeg_quality(rng))
        images.append(model_view(Image.open(io.BytesIO(file))))
        samples.append(sample)
    return Pairs(
        np.stack(images),
        [sample.caption for sample in samples],
        [sample.scene.class_name for sample in samples],
        [sample.scene.colour for sample in samples],
        np.array([sample.scene.single for sample in samples]),
    )


def make_pairs(seed: int, count: int, mixture: Mixture, processes: int = 1) -> Pairs:
    """Make the first `count` records of a data set, without files.

    Args:
      seed: of the data set.
      count: at least 1.
      mixture: which kinds occur; all of them must decode.
      processes: the result does not depend on it.
    """
    starts = range(0, count, CHUNK)
    chunks = [(seed, start, min(start + CHUNK, count), mixture) for start in starts]
    parts = list(spread(_make_chunk, chunks, processes))
    return Pairs(
        np.concatenate([part.images for part in parts]),
        [caption for part in parts for caption in part.captions],
        [name for part in parts for name in part.class_names],
        [colour for part in parts for colour in part.colours],
        np.concatenate([part.single for part in parts]),
    )
