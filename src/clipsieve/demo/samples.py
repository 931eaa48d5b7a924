"""Which record is of which kind, and the picture and caption each kind begins with."""

import dataclasses
import functools
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from clipsieve.demo import classes, noise
from clipsieve.demo.captions import Caption
from clipsieve.demo.draws import choose
from clipsieve.demo.scenes import Scene, make_class_scene, make_dense_scene, make_scene

# Third element of a seed, so that these draws are independent of those of every record.
_KIND_STREAM = 1
_REPEATED_STREAM = 2


class Kind(StrEnum):
    """Ground truth of a record: what, if anything, is wrong with it."""

    MATCHED = "matched"  #: nothing
    HELD_OUT_CLASS = "held_out_class"  #: shows a class that normal data never shows
    MISMATCHED = "mismatched"  #: the caption of another picture
    BOILERPLATE = "boilerplate"  #: a caption about nothing
    TEXT_IMAGE = "text_image"  #: a picture of a word, truly captioned
    BLANK = "blank"  #: a placeholder with a caption about nothing
    WATERMARK = "watermark"  #: a word written across the picture
    NEAR_DUPLICATE = "near_duplicate"  #: a re-compressed, cropped or resized earlier record
    EXACT_DUPLICATE = "exact_duplicate"  #: the bytes and caption of an earlier record
    REPEATED_CAPTION = "repeated_caption"  #: one of many near copies that share one caption
    TRUNCATED = "truncated"  #: the file ends early
    CORRUPT = "corrupt"  #: random bytes where a picture should be
    ZERO_BYTES = "zero_bytes"  #: an empty file
    HTML = "html"  #: an error page where a picture should be
    CMYK_JPEG = "cmyk_jpeg"
    PNG_16_BIT = "png_16_bit"
    PALETTE_PNG = "palette_png"
    GRAYSCALE = "grayscale"
    RGBA = "rgba"
    EXIF_ROTATED = "exif_rotated"  #: upright only once the EXIF orientation is applied
    ANIMATED_GIF = "animated_gif"
    WEBP = "webp"
    ONE_PIXEL = "one_pixel"  #: a tracking pixel
    EMPTY_CAPTION = "empty_caption"
    NULL_CAPTION = "null_caption"
    LONG_CAPTION = "long_caption"  #: 4,096 characters
    MIXED_LANGUAGE = "mixed_language"  #: several scripts and emoji
    FAILED_DOWNLOAD = "failed_download"  #: no bytes at all


class Scenes(StrEnum):
    """What pictures of matched pairs and of held-out classes look like."""

    ALL = "all"  #: matched pairs as in `make_scene`; one thing of a held-out class
    SINGLE = "single"  #: one thing or texture of one class
    DENSE = "dense"  #: one thing of few classes, large and in the middle; see `make_dense_scene`


@dataclass(frozen=True)
class Mixture:
    """How many records of each kind every block of `size` consecutive records holds.

    The counts are exact, so that even a small data set has every kind, and a record's kind
    depends on nothing but the seed and its index.

    Attributes:
      flawed: kind -> records of it in a block.
      size: records in a block; the rest of them are `Kind.MATCHED`.
      failures_pause_every: each block whose number counted from 1 is a multiple of this has no
        failed downloads (they become `Kind.MATCHED`); 0 means that no block is spared.
      scenes: what they show.

    Raises:
      ValueError: if the counts exceed the block.
    """

    flawed: tuple[tuple[Kind, int], ...]
    size: int
    failures_pause_every: int = 0
    scenes: Scenes = Scenes.ALL

    def __post_init__(self) -> None:
        """Check that the counts fit the block."""
        total = sum(count for _, count in self.flawed)
        if total > self.size:
            raise ValueError(
                f"flawed counts add up to {total}, more than the block size {self.size}: "
                "lower the counts or enlarge the block"
            )


CLEAN = Mixture((), size=100)  #: nothing but matched pairs

#: What the bundled model was trained on: 8 % of the noise that a web crawl still has when
#: everything that does not decode is gone.
TRAINING = Mixture(
    (
        (Kind.MISMATCHED, 4),
        (Kind.BOILERPLATE, 4),
        (Kind.TEXT_IMAGE, 4),
        (Kind.BLANK, 2),
        (Kind.WATERMARK, 2),
    ),
    size=200,
)

#: Every kind.  With 2,000 rows in 4 shards the last shard has no failed download.
DEMO = Mixture(
    (
        (Kind.HELD_OUT_CLASS, 12),
        (Kind.MISMATCHED, 25),
        (Kind.BOILERPLATE, 15),
        (Kind.TEXT_IMAGE, 8),
        (Kind.BLANK, 8),
        (Kind.WATERMARK, 8),
        (Kind.NEAR_DUPLICATE, 10),
        (Kind.EXACT_DUPLICATE, 5),
        (Kind.REPEATED_CAPTION, 10),
        (Kind.TRUNCATED, 3),
        (Kind.CORRUPT, 2),
        (Kind.ZERO_BYTES, 2),
        (Kind.HTML, 2),
        (Kind.CMYK_JPEG, 3),
        (Kind.PNG_16_BIT, 2),
        (Kind.PALETTE_PNG, 3),
        (Kind.GRAYSCALE, 3),
        (Kind.RGBA, 3),
        (Kind.EXIF_ROTATED, 3),
        (Kind.ANIMATED_GIF, 2),
        (Kind.WEBP, 4),
        (Kind.ONE_PIXEL, 2),
        (Kind.EMPTY_CAPTION, 3),
        (Kind.NULL_CAPTION, 3),
        (Kind.LONG_CAPTION, 3),
        (Kind.MIXED_LANGUAGE, 5),
        (Kind.FAILED_DOWNLOAD, 20),
    ),
    size=500,
    failures_pause_every=4,
)

_ALL_HELD_OUT = ((Kind.HELD_OUT_CLASS, 100),)

#: By name, for the command line.  The others are pairs for scores that tell what is out of
#: distribution: `single` against `held_out`, and `dense` against `dense_held_out`.
MIXTURES = {
    "demo": DEMO,
    "single": Mixture((), size=100, scenes=Scenes.SINGLE),
    "held_out": Mixture(_ALL_HELD_OUT, size=100, scenes=Scenes.SINGLE),
    "dense": Mixture((), size=100, scenes=Scenes.DENSE),
    "dense_held_out": Mixture(_ALL_HELD_OUT, size=100, scenes=Scenes.DENSE),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """A scene with its kind, before it is encoded into a file.

    Attributes:
      kind: ground truth.
      scene: the picture and what it shows.
      caption: what the data set says about it: the scene's own caption unless the kind says
        otherwise.
    """

    kind: Kind
    scene: Scene
    caption: Caption


@functools.lru_cache(maxsize=64)
def _block_kinds(seed: int, block: int, mixture: Mixture) -> tuple[Kind, ...]:
    kinds = [kind for kind, count in mixture.flawed for _ in range(count)]
    every = mixture.failures_pause_every
    if every and (block + 1) % every == 0:
        kinds = [kind for kind in kinds if kind is not Kind.FAILED_DOWNLOAD]
    kinds += [Kind.MATCHED] * (mixture.size - len(kinds))
    order = np.random.default_rng([seed, block, _KIND_STREAM]).permutation(mixture.size)
    return tuple(kinds[index] for index in order)


def kind_of(seed: int, index: int, mixture: Mixture) -> Kind:
    """The kind of one record."""
    block, offset = divmod(index, mixture.size)
    return _block_kinds(seed, block, mixture)[offset]


def record_rng(seed: int, index: int) -> np.random.Generator:
    """The generator from which everything about one record is drawn."""
    return np.random.default_rng([seed, index])


def earlier_matched(
    seed: int, index: int, mixture: Mixture, rng: np.random.Generator
) -> int | None:
    """The index of a matched record up to one block before `index`; None if there is none."""
    start = max(0, index - mixture.size)
    matched = [
        earlier
        for earlier in range(start, index)
        if kind_of(seed, earlier, mixture) is Kind.MATCHED
    ]
    return choose(rng, matched) if matched else None


def repeated_scene(seed: int) -> Scene:
    """The one picture and caption of which `Kind.REPEATED_CAPTION` records are near copies.

    Of a class that the bundled model has not seen: copies of an ordinary picture are no outliers,
    and a search for sparse neighbourhoods does not find them.
    """
    return make_class_scene(np.random.default_rng([seed, 0, _REPEATED_STREAM]), "zigzag")


def jpeg_quality(rng: np.random.Generator) -> int:
    """A JPEG quality as found on the web, 75 to 95."""
    return int(rng.integers(75, 96))


def _held_out_scene(rng: np.random.Generator, scenes: Scenes) -> Scene:
    if scenes is Scenes.DENSE:
        names = classes.HELD_OUT_SHAPES + classes.HELD_OUT_OBJECTS
        return make_dense_scene(rng, choose(rng, names))
    return make_class_scene(rng, choose(rng, classes.HELD_OUT_CLASSES))


def _normal_scene(rng: np.random.Generator, scenes: Scenes) -> Scene:
    if scenes is Scenes.DENSE:
        return make_dense_scene(rng, choose(rng, classes.DENSE_CLASSES))
    if scenes is Scenes.SINGLE:
        return make_class_scene(rng, choose(rng, classes.CLASSES))
    return make_scene(rng)


def make_sample(
    seed: int, kind: Kind, rng: np.random.Generator, scenes: Scenes = Scenes.ALL
) -> Sample:
    """Draw the scene and caption of one record that is not a copy of another record.

    Args:
      seed: of the whole data set.
      kind: ground truth.  Kinds that are about the file or the caption's form begin as a
        matched pair.
      rng: the record's generator.
      scenes: what ordinary pictures and those of held-out classes look like.
    """
    if kind is Kind.HELD_OUT_CLASS:
        scene = _held_out_scene(rng, scenes)
    elif kind is Kind.TEXT_IMAGE:
        scene = noise.text_scene(rng)
    elif kind is Kind.BLANK:
        scene = noise.blank_scene(rng)
    elif kind is Kind.REPEATED_CAPTION:
        scene = repeated_scene(seed)
        scene = dataclasses.replace(scene, image=noise.near_copy(scene.image, rng))
    else:
        scene = _normal_scene(rng, scenes)
    caption = scene.caption
    if kind is Kind.WATERMARK:
        scene = dataclasses.replace(scene, image=noise.watermarked(scene.image, rng))
    elif kind is Kind.MISMATCHED:
        caption = _normal_scene(rng, scenes).caption
    elif kind is Kind.BOILERPLATE:
        caption = Caption.verbatim(noise.boilerplate(rng))
    return Sample(kind, scene, caption)
