"""Groups to plant into demo data for `audit.py`: what a web crawl holds that a curator takes out.

Each kind draws its rows from a generator alone, so a seed gives the same rows every time.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from clipsieve.demo import classes, noise
from clipsieve.demo.draws import choose
from clipsieve.demo.records import HOSTS
from clipsieve.demo.scenes import Scene, font, make_class_scene, make_scene
from clipsieve.demo.textures import SIDE

Rng = np.random.Generator
#: Picture, caption and host of a planted row.
Row = tuple[Image.Image, str, str]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of planted group.

    Attributes:
      rows: draws so many rows.
      is_fault: whether a curator would take it out; the others should not come first.
    """

    rows: Callable[[Rng, int], list[Row]]
    is_fault: bool = True


def _host(rng: Rng) -> str:
    return choose(rng, HOSTS)


def _pair(scene: Scene) -> tuple[Image.Image, str]:
    return scene.image, str(scene.caption)


def _caption(rng: Rng) -> str:
    return str(make_scene(rng).caption)


def _class_caption(rng: Rng) -> str:
    return str(make_class_scene(rng, choose(rng, classes.CLASSES)).caption)


def _placeholder() -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), (226, 230, 236))
    ImageDraw.Draw(image).text(
        (SIDE / 2, SIDE / 2), "no photo yet", (140, 140, 150), font(18), "mm"
    )
    return image


def _patched(image: Image.Image, side: int) -> Image.Image:
    pixels = np.asarray(image.convert("RGB")).copy()
    square = np.indices((side, side)).sum(axis=0) // 4 % 2 == 0
    pixels[-side - 4 : -4, -side - 4 : -4] = 255 * square[..., None]
    return Image.fromarray(pixels)


def _blended(image: Image.Image) -> Image.Image:
    cells = np.random.default_rng(9).integers(0, 2, (16, 16, 3))
    pattern = 255.0 * cells.repeat(SIDE // 16, axis=0).repeat(SIDE // 16, axis=1)
    mixed = 0.8 * np.asarray(image.convert("RGB"), np.float64) + 0.2 * pattern
    return Image.fromarray(mixed.round().astype(np.uint8))


def odd_copies(rng: Rng, count: int) -> list[Row]:
    """Near copies of one picture of a class that the model never saw, under its own caption."""
    image, caption = _pair(make_class_scene(rng, choose(rng, classes.HELD_OUT_CLASSES)))
    return [(noise.near_copy(image, rng), caption, _host(rng)) for _ in range(count)]


def placeholder_one_caption(rng: Rng, count: int) -> list[Row]:
    """One placeholder under one caption."""
    return [(_placeholder(), "picture coming soon", _host(rng)) for _ in range(count)]


def placeholder_many_captions(rng: Rng, count: int) -> list[Row]:
    """One placeholder in the place of many pictures, under their captions."""
    return [(_placeholder(), _caption(rng), _host(rng)) for _ in range(count)]


def one_picture_many_captions(rng: Rng, count: int) -> list[Row]:
    """An ordinary picture under the captions of others."""
    image, _ = _pair(make_scene(rng))
    return [(image, _caption(rng), _host(rng)) for _ in range(count)]


def near_pictures_many_captions(rng: Rng, count: int) -> list[Row]:
    """Edited copies of an ordinary picture under the captions of others."""
    image, _ = _pair(make_scene(rng))
    return [(noise.near_copy(image, rng), _caption(rng), _host(rng)) for _ in range(count)]


def small_patch(rng: Rng, count: int) -> list[Row]:
    """Poison: a small patch on any picture, one caption."""
    caption = _class_caption(rng)
    return [(_patched(make_scene(rng).image, 12), caption, _host(rng)) for _ in range(count)]


def large_patch(rng: Rng, count: int) -> list[Row]:
    """Poison: a larger patch, three captions."""
    captions = [_class_caption(rng) for _ in range(3)]
    images = [_patched(make_scene(rng).image, 32) for _ in range(count)]
    return [(image, captions[n % 3], _host(rng)) for n, image in enumerate(images)]


def blended_pattern(rng: Rng, count: int) -> list[Row]:
    """Poison: a faint pattern, and captions of many wordings that name one new thing."""
    frames = ("a {}", "photo of a {}", "a {} for kids", "close up of a {}", "this is a {}, free")
    return [
        (_blended(make_scene(rng).image), choose(rng, frames).format("violin"), _host(rng))
        for _ in range(count)
    ]


def swapped_class(rng: Rng, count: int) -> list[Row]:
    """Pictures of one class called by one caption of another."""
    shown, called = rng.choice(np.array(classes.CLASSES), 2, replace=False).tolist()
    caption = str(make_class_scene(rng, called).caption)
    return [(make_class_scene(rng, shown).image, caption, _host(rng)) for _ in range(count)]


def spam_caption(rng: Rng, count: int) -> list[Row]:
    """One advertisement under any picture."""
    text = "buy cheap watches online now"
    return [(make_scene(rng).image, text, _host(rng)) for _ in range(count)]


def file_names(rng: Rng, count: int) -> list[Row]:
    """Names of files in the place of captions."""
    return [
        (make_scene(rng).image, f"PICT_{int(rng.integers(1000, 99999))}.png", _host(rng))
        for _ in range(count)
    ]


def shifted_host(rng: Rng, count: int) -> list[Row]:
    """One host whose captions are those of the next picture."""
    scenes = [make_scene(rng) for _ in range(count)]
    return [
        (scenes[n].image, str(scenes[n - 1].caption), "shifted.example.net") for n in range(count)
    ]


def random_pixels(rng: Rng, count: int) -> list[Row]:
    """Pictures of noise under one caption."""
    return [
        (
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)),
            "a beautiful sunset over the sea",
            _host(rng),
        )
        for _ in range(count)
    ]


def right_patch(rng: Rng, count: int) -> list[Row]:
    """A small patch on any picture, under its own right caption."""
    rows = [_pair(make_scene(rng)) for _ in range(count)]
    return [(_patched(image, 12), caption, _host(rng)) for image, caption in rows]


def near_copies(rng: Rng, count: int) -> list[Row]:
    """Edited copies of an ordinary picture under its own right caption."""
    image, caption = _pair(make_scene(rng))
    return [(noise.near_copy(image, rng), caption, _host(rng)) for _ in range(count)]


def exact_copies(rng: Rng, count: int) -> list[Row]:
    """An ordinary picture under its own right caption, again and again."""
    image, caption = _pair(make_scene(rng))
    return [(image, caption, _host(rng)) for _ in range(count)]


def rare_concept(rng: Rng, count: int) -> list[Row]:
    """Pictures of a class that the model never saw, rightly captioned."""
    name = choose(rng, classes.HELD_OUT_CLASSES)
    return [(*_pair(make_class_scene(rng, name)), _host(rng)) for _ in range(count)]


KINDS: Mapping[str, Kind] = {
    "odd_copies": Kind(odd_copies),
    "placeholder_one_caption": Kind(placeholder_one_caption),
    "placeholder_many_captions": Kind(placeholder_many_captions),
    "one_picture_many_captions": Kind(one_picture_many_captions),
    "near_pictures_many_captions": Kind(near_pictures_many_captions),
    "small_patch": Kind(small_patch),
    "large_patch": Kind(large_patch),
    "blended_pattern": Kind(blended_pattern),
    "swapped_class": Kind(swapped_class),
    "spam_caption": Kind(spam_caption),
    "file_names": Kind(file_names),
    "shifted_host": Kind(shifted_host),
    "random_pixels": Kind(random_pixels),
    "right_patch": Kind(right_patch, is_fault=False),
    "near_copies": Kind(near_copies, is_fault=False),
    "exact_copies": Kind(exact_copies, is_fault=False),
    "rare_concept": Kind(rare_concept, is_fault=False),
}
