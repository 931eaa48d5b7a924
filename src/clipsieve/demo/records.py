"""Records as a crawl would hold them: a file or an error, a caption, an address, and the truth."""

import dataclasses
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from clipsieve.demo import encodings, noise, samples
from clipsieve.demo.captions import PREFIXES, SUFFIXES
from clipsieve.demo.draws import choose, coin
from clipsieve.demo.samples import DEMO, Kind, Mixture, Sample
from clipsieve.demo.textures import SIDE

DOWNLOAD_ERRORS = (
    "HTTP Error 404: Not Found",
    "HTTP Error 404: Not Found",
    "HTTP Error 403: Forbidden",
    "HTTP Error 410: Gone",
    "HTTP Error 503: Service Unavailable",
    "<urlopen error timed out>",
    "<urlopen error [Errno -2] Name or service not known>",
    "<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed>",
)
HOSTS = ("images.example.com", "cdn.example.org", "shop.example.net", "blog.example.com")


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known about a record because it was made that way.

    Attributes:
      kind: what, if anything, is wrong with it.
      class_name: see `Scene.class_name`.
      colour: see `Scene.colour`.
      duplicate_of: uid of the record it copies; None unless it is a near or exact duplicate.
    """

    kind: Kind
    class_name: str
    colour: str | None
    duplicate_of: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a data set.

    Attributes:
      uid: 32 hexadecimal digits.
      url: where the picture is said to come from.
      caption: None if the source has none.
      file: the picture's bytes; None if the download failed.
      error_message: why it failed; None if it did not.
      truth: None for records made only to measure speed.
    """

    uid: str
    url: str
    caption: str | None
    file: bytes | None
    error_message: str | None = None
    truth: Truth | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height in pixels; None if the file is missing or is no picture."""
        if self.file is None:
            return None
        try:
            with Image.open(io.BytesIO(self.file)) as image:
                return image.size
        except OSError:  # not a picture, or one that ends within its header
            return None


def uid_of(seed: int, index: int) -> str:
    """The 32 hexadecimal digits that name a record."""
    return hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=16).hexdigest()


def url_of(seed: int, index: int) -> str:
    """An address for a record, on one of a few hosts."""
    return f"https://{HOSTS[index * 7 % len(HOSTS)]}/{seed}/{index:07d}.jpg"


#: Kinds whose file is the picture in some other form; all other files are plain JPEGs.
_ENCODERS: dict[Kind, Callable[[Image.Image], bytes]] = {
    Kind.ZERO_BYTES: lambda image: b"",
    Kind.HTML: lambda image: encodings.ERROR_PAGE,
    Kind.CMYK_JPEG: lambda image: encodings.jpeg(image.convert("CMYK")),
    Kind.PNG_16_BIT: encodings.png_16_bit,
    Kind.PALETTE_PNG: encodings.palette_png,
    Kind.GRAYSCALE: lambda image: encodings.jpeg(image.convert("L")),
    Kind.RGBA: encodings.rgba_png,
    Kind.EXIF_ROTATED: encodings.exif_rotated_jpeg,
    Kind.ANIMATED_GIF: encodings.animated_gif,
    Kind.WEBP: encodings.webp,
    Kind.ONE_PIXEL: lambda image: encodings.one_pixel_gif(),
}


def _file(sample: Sample, size: int, rng: np.random.Generator) -> bytes | None:
    image = sample.scene.image
    if size != SIDE:
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    if sample.kind is Kind.FAILED_DOWNLOAD:
        return None
    if sample.kind in _ENCODERS:
        return _ENCODERS[sample.kind](image)
    file = encodings.jpeg(image, quality=samples.jpeg_quality(rng))
    if sample.kind is Kind.TRUNCATED:
        return encodings.truncated(file, rng.uniform(0.1, 0.6))
    if sample.kind is Kind.CORRUPT:
        return encodings.random_bytes(rng, len(file))
    return file


def _caption(sample: Sample, rng: np.random.Generator) -> str | None:
    caption = str(sample.caption)
    if sample.kind is Kind.NULL_CAPTION:
        return None
    if sample.kind is Kind.EMPTY_CAPTION:
        return " " if coin(rng, 0.3) else ""
    if sample.kind is Kind.LONG_CAPTION:
        return noise.long_caption(rng, caption)
    if sample.kind is Kind.MIXED_LANGUAGE:
        return noise.mixed_languages(rng, caption)
    return caption


def _near_duplicate(sample: Sample, rng: np.random.Generator) -> Sample:
    """The same picture, slightly changed, under a caption worded a little differently."""
    scene = dataclasses.replace(sample.scene, image=noise.near_copy(sample.scene.image, rng))
    caption = dataclasses.replace(
        sample.caption, prefix=choose(rng, PREFIXES), suffix=choose(rng, SUFFIXES)
    )
    return Sample(Kind.NEAR_DUPLICATE, scene, caption)


def make_record(seed: int, index: int, mixture: Mixture = DEMO, size: int = SIDE) -> Record:
    """Make one record; equal arguments give equal bytes, whatever else was made before.

    Args:
      seed: of the data set.
      index: from 0.
      mixture: which kinds occur and how often.  A copy that finds no matched record in the
        preceding block to copy becomes a matched pair.
      size: side of the picture in pixels.
    """
    rng = samples.record_rng(seed, index)
    kind = samples.kind_of(seed, index, mixture)
    original = None
    if kind in (Kind.NEAR_DUPLICATE, Kind.EXACT_DUPLICATE):
        original = samples.earlier_matched(seed, index, mixture, rng)
        if original is None:
            kind = Kind.MATCHED
    duplicate_of = None if original is None else uid_of(seed, original)

    if original is not None and kind is Kind.EXACT_DUPLICATE:
        copied = make_record(seed, original, mixture, size)
        assert copied.truth is not None
        return dataclasses.replace(
            copied,
            uid=uid_of(seed, index),
            url=url_of(seed, index),
            truth=dataclasses.replace(copied.truth, kind=kind, duplicate_of=duplicate_of),
        )
    if original is not None:
        original_rng = samples.record_rng(seed, original)
        matched = samples.make_sample(seed, Kind.MATCHED, original_rng, mixture.scenes)
        sample = _near_duplicate(matched, rng)
    else:
        sample = samples.make_sample(seed, kind, rng, mixture.scenes)
    failed = kind is Kind.FAILED_DOWNLOAD
    return Record(
        uid=uid_of(seed, index),
        url=url_of(seed, index),
        caption=_caption(sample, rng),
        file=_file(sample, size, rng),
        error_message=choose(rng, DOWNLOAD_ERRORS) if failed else None,
        truth=Truth(kind, sample.scene.class_name, sample.scene.colour, duplicate_of),
    )
